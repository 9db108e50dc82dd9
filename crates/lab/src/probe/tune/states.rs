//! What is computed once: texts as token ids, and what the frozen layers make of them.

use std::path::Path;

use candle_core::{Device, Tensor};
use tokenizers::Tokenizer;

use super::bert::{Bert, Mask};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Rows of a batch of the frozen layers, padding included.
const BATCH_ROWS: usize = 2048;

/// The first and the last tokens of a text that has more than `max_tokens`: a long one often asks at its end.
pub(super) fn ends(token_ids: &[u32], max_tokens: usize) -> Vec<u32> {
    if token_ids.len() <= max_tokens {
        return token_ids.to_vec();
    }
    let num_first = max_tokens.div_ceil(2);
    let last = &token_ids[token_ids.len() - (max_tokens - num_first)..];
    [&token_ids[..num_first], last].concat()
}

/// Token ids of texts, each with the two that frame it and at most `max_tokens`.
pub(super) fn read(folder: &Path, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>> {
    let path = folder.join("tokenizer.json");
    let failed = |reason: String| Error::Embedder { path: path.clone(), reason };
    let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| failed(error.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| failed(error.to_string()))?;
    let encode = |(idx, text): (usize, &String)| {
        let encoding = tokenizer.encode(text.as_str(), true);
        let encoding = encoding.map_err(|error| failed(error.to_string()))?;
        if encoding.is_empty() {
            return Err(failed(format!(
                "text {idx} has no token; expected a tokenizer that frames texts, with [CLS] and [SEP]"
            )));
        }
        Ok(ends(encoding.get_ids(), max_tokens))
    };
    texts.iter().enumerate().map(encode).collect()
}

/// Outputs of the frozen layers: they never change, so an epoch costs the tuned layers alone.
pub(super) struct States {
    /// `[num_tokens, width]`, a text each.
    texts: Vec<Vec<f32>>,
    width: usize,
}

impl States {
    /// Runs the frozen layers over token ids.
    #[expect(clippy::disallowed_methods, reason = "they are kept by text; CPU only")]
    pub(super) fn new(
        bert: &Bert,
        token_ids: &[Vec<u32>],
        (failed, progress): (&dyn Fn(candle_core::Error) -> Error, &mut dyn Progress),
    ) -> Result<Self> {
        let mut texts = vec![Vec::new(); token_ids.len()];
        let mut width = 0;
        progress.start("texts", token_ids.len());
        let mut done = 0;
        for batch in by_length(token_ids) {
            let num_tokens: Vec<usize> = batch.iter().map(|&idx| token_ids[idx].len()).collect();
            let length = num_tokens.iter().copied().max().unwrap_or(0);
            let padded = batch.iter().flat_map(|&idx| {
                let padding = std::iter::repeat_n(0, length - token_ids[idx].len());
                token_ids[idx].iter().copied().chain(padding)
            });
            let padded = Tensor::from_iter(padded, &Device::Cpu).map_err(failed)?;
            let mask = Mask::new(&num_tokens).map_err(failed)?;
            let rows = bert.frozen(&padded, &mask).map_err(failed)?;
            width = rows.dim(1).map_err(failed)?;
            let rows: Vec<f32> =
                rows.flatten_all().and_then(|rows| rows.to_vec1()).map_err(failed)?;
            for (&idx, of_text) in batch.iter().zip(rows.chunks_exact(length * width)) {
                texts[idx] = of_text[..token_ids[idx].len() * width].to_vec();
            }
            done += batch.len();
            if progress.advance(batch.len()).is_break() {
                return Err(Error::Interrupted { done, total: token_ids.len() });
            }
        }
        progress.finish();
        Ok(Self { texts, width })
    }

    /// Texts.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Tokens of a text.
    pub(super) fn num_tokens(&self, idx: usize) -> usize {
        self.texts[idx].len() / self.width.max(1)
    }

    /// Some texts as a batch, `[size * length, width]`, padded with zeros.
    pub(super) fn batch(&self, idxs: &[usize]) -> candle_core::Result<(Tensor, Mask)> {
        let num_tokens: Vec<usize> = idxs.iter().map(|&idx| self.num_tokens(idx)).collect();
        let mask = Mask::new(&num_tokens)?;
        let of_text = mask.length() * self.width;
        let mut values = Vec::with_capacity(mask.size() * of_text);
        for (row, &idx) in idxs.iter().enumerate() {
            values.extend_from_slice(&self.texts[idx]);
            values.resize((row + 1) * of_text, 0.0);
        }
        let shape = (mask.size() * mask.length(), self.width);
        Ok((Tensor::from_vec(values, shape, &Device::Cpu)?, mask))
    }
}

/// Batches of texts of similar length.
fn by_length(token_ids: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..token_ids.len()).collect();
    order.sort_by_key(|&idx| (token_ids[idx].len(), idx));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for idx in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * token_ids[idx].len() <= BATCH_ROWS => {
                batch.push(idx);
            }
            Some(_) | None => batches.push(vec![idx]),
        }
    }
    batches
}
