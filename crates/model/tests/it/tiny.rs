//! A tiny model, sequences placed in its cache, and comparison of bits.

use std::num::NonZeroUsize;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Tensor};
use skeg_model::testing::{
    RandomWeights, random_llama, random_llama_on_device, random_llama_with, tiny_config,
    tiny_k_quant_config,
};
use skeg_model::{
    CpuKernels, CpuOptions, Hooks, KvCache, KvCacheDtype, Llama, LlamaConfig, PackedBatch,
};

pub(crate) const BLOCK_SIZE: usize = 4;
pub(crate) const NUM_BLOCKS: usize = 64;

/// Every form of weight and every level of CPU kernels on which invariants must hold, and the pass of a GPU, with a fitting model.
pub(crate) fn models() -> Vec<(String, Llama)> {
    let models = CpuKernels::supported().flat_map(|kernels| {
        let options = CpuOptions { kernels: Some(kernels), num_threads: NonZeroUsize::new(2) };
        let models = models_on(options).into_iter();
        models.map(move |(name, llama)| (format!("{name}, {kernels}"), llama))
    });
    models.chain(device_models()).collect()
}

/// Every form of weight, with a fitting model that is run by the pass of a GPU.
pub(crate) fn device_models() -> Vec<(String, Llama)> {
    let models = forms().into_iter().map(|(name, config, form)| {
        (format!("{name}, device"), random_llama_on_device(config, 7, form).unwrap())
    });
    models.collect()
}

/// Every form of weight, with a fitting model.
pub(crate) fn models_on(cpu: CpuOptions) -> Vec<(&'static str, Llama)> {
    forms()
        .into_iter()
        .map(|(name, config, form)| (name, random_llama_with(config, 7, form, cpu).unwrap()))
        .collect()
}

/// Every form of weight, with dimensions that fit it.
pub(crate) fn forms() -> [(&'static str, LlamaConfig, RandomWeights); 9] {
    let quantized = |dtype| RandomWeights::Quantized(dtype);
    let tied = LlamaConfig { tie_word_embeddings: true, ..tiny_config() };
    let biased = LlamaConfig { attention_bias: true, ..tiny_config() };
    [
        ("f32", tiny_config(), RandomWeights::Dense(DType::F32)),
        ("f32 with biases", biased, RandomWeights::Dense(DType::F32)),
        ("f16", tiny_config(), RandomWeights::Dense(DType::F16)),
        ("bf16", tiny_config(), RandomWeights::Dense(DType::BF16)),
        ("q4_0", tiny_config(), quantized(GgmlDType::Q4_0)),
        ("q4_1, tied", tied, quantized(GgmlDType::Q4_1)),
        ("q8_0", tiny_k_quant_config(), quantized(GgmlDType::Q8_0)),
        ("q4k", tiny_k_quant_config(), quantized(GgmlDType::Q4K)),
        ("q6k", tiny_k_quant_config(), quantized(GgmlDType::Q6K)),
    ]
}

/// The dense f32 model.
pub(crate) fn model() -> Llama {
    random_llama(tiny_config(), 7, RandomWeights::Dense(DType::F32)).unwrap()
}

/// `len` tokens that differ by `seed`.
pub(crate) fn tokens(seed: u32, len: usize) -> Vec<u32> {
    (0..len).map(|i| (u32::try_from(i).unwrap() * 37 + seed * 11 + 5) % 128).collect()
}

pub(crate) fn cache(llama: &Llama) -> KvCache {
    cache_of(llama, KvCacheDtype::F32)
}

pub(crate) fn cache_of(llama: &Llama, dtype: KvCacheDtype) -> KvCache {
    KvCache::new(llama, NUM_BLOCKS, BLOCK_SIZE, dtype).unwrap()
}

/// A stretch of a sequence in a step: the tokens from `first` to `first + token_ids.len()`.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(crate) token_ids: Vec<u32>,
    pub(crate) first: usize,
    pub(crate) block_table: Vec<u32>,
}

impl Stretch {
    /// A whole sequence from position 0, in blocks `block_table`.
    pub(crate) fn whole(token_ids: Vec<u32>, block_table: &[u32]) -> Self {
        Self { token_ids, first: 0, block_table: block_table.to_vec() }
    }
}

/// A batch of stretches with the logits of every row.
pub(crate) fn pack(stretches: &[Stretch]) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    for stretch in stretches {
        batch.token_ids.extend(&stretch.token_ids);
        batch.positions.extend(stretch.first..stretch.first + stretch.token_ids.len());
        batch.cu_seqlens.push(batch.token_ids.len());
        batch.block_tables.push(stretch.block_table.clone());
    }
    batch.logit_rows = (0..batch.token_ids.len()).collect();
    batch
}

/// One forward pass: the bits of the logits, a row each.
pub(crate) fn run(
    llama: &Llama,
    cache: &mut KvCache,
    stretches: &[Stretch],
    hooks: &mut Hooks<'_>,
) -> Vec<Vec<u32>> {
    bits(&llama.forward(&pack(stretches), cache, hooks).unwrap())
}

/// [`run`] in a fresh cache, without hooks.
pub(crate) fn run_fresh(llama: &Llama, stretches: &[Stretch]) -> Vec<Vec<u32>> {
    run(llama, &mut cache(llama), stretches, &mut Hooks::none())
}

pub(crate) fn bits(logits: &Tensor) -> Vec<Vec<u32>> {
    values(logits).into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

#[expect(clippy::disallowed_methods, reason = "tests look at values")]
pub(crate) fn values(logits: &Tensor) -> Vec<Vec<f32>> {
    logits.to_vec2::<f32>().unwrap()
}
