//! The logits of given tokens, written to a file for a comparison with another implementation.

use std::path::Path;

use anyhow::{Context as _, ensure};
use safetensors::tensor::{Dtype, TensorView};
use skeg_model::{Hooks, KvCache, KvCacheDtype, Llama, PackedBatch};

/// Tokens a cache block, as the engine has by default.
const BLOCK_SIZE: usize = 32;

/// Writes two tensors to `out`, `[num_tokens, vocab_size]` in f32: `prefill`, all tokens in one pass, and `decode`, one token a
/// pass. The kernels of the two differ.
///
/// `tokens` is a JSON list of token ids.
pub(super) fn write(
    llama: &Llama,
    tokens: &Path,
    out: &Path,
    kv_cache_dtype: KvCacheDtype,
) -> anyhow::Result<()> {
    let text = std::fs::read(tokens).with_context(|| format!("reading {}", tokens.display()))?;
    let token_ids: Vec<u32> = serde_json::from_slice(&text)
        .with_context(|| format!("{}: expected a JSON list of token ids", tokens.display()))?;
    ensure!(!token_ids.is_empty(), "{} holds no token id", tokens.display());
    let prefill = passes(llama, &token_ids, token_ids.len(), kv_cache_dtype)?;
    let decode = passes(llama, &token_ids, 1, kv_cache_dtype)?;
    let shape = vec![token_ids.len(), llama.config().vocab_size];
    let view = |bytes| TensorView::new(Dtype::F32, shape.clone(), bytes);
    let tensors = [("prefill", view(&prefill)?), ("decode", view(&decode)?)];
    let bytes = safetensors::serialize(tensors, None)?;
    std::fs::write(out, bytes).with_context(|| format!("writing {}", out.display()))
}

/// The logits of all tokens in passes of `num_rows`: little-endian bytes of `[num_tokens, vocab_size]`, f32.
fn passes(
    llama: &Llama,
    token_ids: &[u32],
    num_rows: usize,
    kv_cache_dtype: KvCacheDtype,
) -> anyhow::Result<Vec<u8>> {
    let num_blocks = token_ids.len().div_ceil(BLOCK_SIZE);
    let mut cache = KvCache::new(llama, num_blocks, BLOCK_SIZE, kv_cache_dtype)?;
    let block_table: Vec<u32> = (0..u32::try_from(num_blocks)?).collect();
    let mut bytes =
        Vec::with_capacity(token_ids.len() * llama.config().vocab_size * size_of::<f32>());
    for (pass_idx, token_ids) in token_ids.chunks(num_rows).enumerate() {
        let position = pass_idx * num_rows;
        let batch = PackedBatch {
            token_ids: token_ids.to_vec(),
            positions: (position..position + token_ids.len()).collect(),
            cu_seqlens: vec![0, token_ids.len()],
            block_tables: vec![block_table.clone()],
            logit_rows: (0..token_ids.len()).collect(),
        };
        let logits = llama.forward(&batch, &mut cache, &mut Hooks::none())?;
        #[expect(clippy::disallowed_methods, reason = "they go to a file")]
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        bytes.extend(logits.into_iter().flat_map(f32::to_le_bytes));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use skeg_model::testing::{RandomWeights, random_llama, tiny_config};

    use super::*;

    #[test]
    fn both_ways_give_every_token_s_logits_bitwise_alike_on_a_cpu() {
        let llama = random_llama(tiny_config(), 3, RandomWeights::Dense(DType::BF16)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (tokens, out) = (folder.path().join("tokens.json"), folder.path().join("logits"));
        let token_ids: Vec<u32> = (0..40).map(|nth| nth * 7 % 128).collect();
        std::fs::write(&tokens, serde_json::to_string(&token_ids).unwrap()).unwrap();
        write(&llama, &tokens, &out, KvCacheDtype::F16).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let [prefill, decode] = ["prefill", "decode"].map(|name| tensors.tensor(name).unwrap());
        assert_eq!((prefill.shape(), prefill.dtype()), (&[40, 128][..], Dtype::F32));
        assert_eq!(prefill.data(), decode.data());
        let first = |row: usize| &prefill.data()[row * 512..][..4];
        assert_ne!(first(0), first(1));

        std::fs::write(&tokens, "[]").unwrap();
        let error = write(&llama, &tokens, &out, KvCacheDtype::F16).unwrap_err().to_string();
        assert!(error.contains("tokens.json") && error.contains("no token id"), "{error}");
    }
}
