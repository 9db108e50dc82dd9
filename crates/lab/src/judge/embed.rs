//! Sentence embeddings: BERT, mean pooling, unit length, as all-MiniLM-L6-v2 was trained.
//!
//! Reimers and Gurevych, "Sentence-BERT" (arXiv 1908.10084): the embedding of a text is the mean of the last layer's
//! rows over its tokens (padding left out), divided by its L2 norm. On the CPU, in f32.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use sha2::{Digest, Sha256};
use tokenizers::{Encoding, Tokenizer, TruncationParams};

use super::cache::Embed;
use crate::error::{Error, Result};
use crate::numbers::{norm, to_f32};
use crate::progress::Progress;

/// Tokens of a text that are read, with the two that frame it: what all-MiniLM-L6-v2 was trained for. The rest
/// is cut off.
pub const MAX_TOKENS: usize = 256;

/// Rows of a batch, padding included: enough for full matrix products, little enough for the cache.
const BATCH_ROWS: usize = 4096;

/// A BERT with its tokenizer.
pub struct SentenceEmbedder {
    model: BertModel,
    tokenizer: Tokenizer,
    folder: PathBuf,
    id: String,
    width: usize,
}

impl std::fmt::Debug for SentenceEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SentenceEmbedder")
            .field("folder", &self.folder)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SentenceEmbedder {
    /// Loads `config.json`, `tokenizer.json` and `model.safetensors` of a folder, as the hub has them for
    /// `sentence-transformers/all-MiniLM-L6-v2`.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read, [`Error::Embedder`] when it is not what its name says or not BERT.
    pub fn load(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| Error::Io { path, source })
        };
        let bad = |name: &str, cause: &dyn std::fmt::Display| Error::Embedder {
            path: folder.join(name),
            reason: format!("{cause}; expected a BERT sentence embedder such as all-MiniLM-L6-v2"),
        };
        let config: Config = serde_json::from_slice(&read("config.json")?)
            .map_err(|error| bad("config.json", &error))?;
        let max_length = MAX_TOKENS.min(config.max_position_embeddings);
        let mut tokenizer = Tokenizer::from_bytes(read("tokenizer.json")?)
            .map_err(|error| bad("tokenizer.json", &error))?;
        let truncation = TruncationParams { max_length, ..TruncationParams::default() };
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| bad("tokenizer.json", &error))?;
        let weights = read("model.safetensors")?;
        let hash = base16ct::lower::encode_string(&Sha256::digest(&weights));
        let tensors = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu);
        let model = tensors.and_then(|tensors| BertModel::load(tensors, &config));
        Ok(Self {
            model: model.map_err(|error| bad("model.safetensors", &error))?,
            tokenizer,
            folder: folder.to_owned(),
            id: format!("bert-mean-{max_length}:{hash}"),
            width: config.hidden_size,
        })
    }

    fn failed(&self, cause: &dyn std::fmt::Display) -> Error {
        Error::Embedder { path: self.folder.clone(), reason: cause.to_string() }
    }

    /// One embedding a text, of texts of similar length.
    fn batch(&self, encodings: &[&Encoding]) -> Result<Vec<Arc<[f32]>>> {
        let pooled = self.pooled(encodings).map_err(|error| self.failed(&error))?;
        Ok(pooled
            .iter()
            .map(|row| {
                let norm = norm(row);
                row.iter().map(|&value| to_f32(f64::from(value) / norm)).collect()
            })
            .collect())
    }

    /// Mean rows `[batch, hidden_size]` over the tokens that are no padding.
    #[expect(clippy::disallowed_methods, reason = "the embeddings are the result; CPU only")]
    fn pooled(&self, encodings: &[&Encoding]) -> candle_core::Result<Vec<Vec<f32>>> {
        let batch = encodings.len();
        let length = encodings.iter().map(|encoding| encoding.len()).max().unwrap_or(0);
        let mut token_ids = vec![0_u32; batch * length];
        let mut mask = vec![0.0_f32; batch * length];
        for (row, encoding) in encodings.iter().enumerate() {
            let start = row * length;
            token_ids[start..start + encoding.len()].copy_from_slice(encoding.get_ids());
            mask[start..start + encoding.len()].fill(1.0);
        }
        let token_ids = Tensor::from_vec(token_ids, (batch, length), &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, (batch, length), &Device::Cpu)?;
        // [batch, length, hidden_size]
        let hidden = self.model.forward(&token_ids, &token_ids.zeros_like()?, Some(&mask))?;
        let sums = hidden.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
        sums.broadcast_div(&mask.sum_keepdim(1)?)?.to_vec2()
    }
}

impl Embed for SentenceEmbedder {
    fn id(&self) -> &str {
        &self.id
    }

    fn width(&self) -> usize {
        self.width
    }

    /// Batches are cut from the texts in order of length, so that little is padded; the same texts give the same batches.
    fn embed(&self, texts: &[&str], progress: &mut dyn Progress) -> Result<Vec<Arc<[f32]>>> {
        let encode = |text: &&str| self.tokenizer.encode(*text, true);
        let encodings = texts.iter().map(encode).collect::<Result<Vec<_>, _>>();
        let encodings = encodings.map_err(|error| self.failed(&error))?;
        if let Some(idx) = encodings.iter().position(Encoding::is_empty) {
            return Err(self.failed(&format!(
                "text {idx} has no token; expected a tokenizer that frames texts, with [CLS] and [SEP]"
            )));
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&idx| (encodings[idx].len(), idx));
        let mut embeddings: Vec<Arc<[f32]>> = vec![Arc::from([]); texts.len()];
        progress.start("texts", texts.len());
        let mut done = 0;
        while done < order.len() {
            let rest = &order[done..];
            let fits = |num: &usize| num * encodings[rest[num - 1]].len() <= BATCH_ROWS;
            let num = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
            let batch: Vec<&Encoding> = rest[..num].iter().map(|&idx| &encodings[idx]).collect();
            for (&idx, embedding) in rest.iter().zip(self.batch(&batch)?) {
                embeddings[idx] = embedding;
            }
            done += num;
            if progress.advance(num).is_break() {
                return Err(Error::Interrupted { done, total: texts.len() });
            }
        }
        progress.finish();
        Ok(embeddings)
    }
}
