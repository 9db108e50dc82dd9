//! A small random model for tests of this crate and of those above it.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::config::{Architecture, LlamaConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::gpu::{GpuOptions, HostOps, Ranks};
use crate::kernels::CpuOptions;
use crate::llama::{Llama, Weight, WeightSource};

/// How a random model's matrices are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RandomWeights {
    /// Contiguous tensors of a float type.
    Dense(DType),
    /// Quantised blocks.
    Quantized(GgmlDType),
}

/// Dimensions of a Llama that runs in milliseconds: 3 layers, hidden 64, 4 heads, 2 kv heads,
/// vocabulary 128, context 256.
#[must_use]
pub fn tiny_config() -> LlamaConfig {
    LlamaConfig {
        architecture: Architecture::Llama,
        hidden_size: 64,
        intermediate_size: 192,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 256,
        tie_word_embeddings: false,
        attention_bias: false,
    }
}

/// Dimensions that every quantised type divides, and for which candle's own product would take its
/// repacked tiles: hidden 256 and intermediate 512 are multiples of 256, all outputs of 16.
#[must_use]
pub fn tiny_k_quant_config() -> LlamaConfig {
    LlamaConfig {
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        head_dim: 64,
        ..tiny_config()
    }
}

/// A Llama on the CPU with weights drawn from `seed`: the same on every platform.
///
/// # Errors
/// [`crate::Error::Tensor`] when a dimension does not fit the form's blocks.
pub fn random_llama(config: LlamaConfig, seed: u64, form: RandomWeights) -> Result<Llama> {
    Ok(random_llama_and_tensors(config, seed, form)?.0)
}

/// [`random_llama`] with chosen kernels and threads.
///
/// # Errors
/// As [`random_llama`], and [`Error::Device`] when the processor cannot run the kernels.
pub fn random_llama_with(
    config: LlamaConfig,
    seed: u64,
    form: RandomWeights,
    cpu: CpuOptions,
) -> Result<Llama> {
    let mut source = RandomSource { seed, form, drawn: HashMap::new() };
    Llama::load(config, &mut source, &[Device::Cpu], (cpu, GpuOptions::default()))
}

/// [`random_llama`] whose pass is that of a GPU, done by the plain counterpart of every kernel, on the CPU.
///
/// # Errors
/// As [`random_llama`].
pub fn random_llama_on_host_ops(
    config: LlamaConfig,
    seed: u64,
    form: RandomWeights,
) -> Result<Llama> {
    random_llama_into(config, seed, form, Ranks::one(Box::new(HostOps::default())))
}

/// [`random_llama`] whose pass is that of a GPU: by its kernels, batch invariant, where this build has CUDA, there is a GPU and
/// `form` allows it, else as [`random_llama_on_host_ops`].
///
/// # Errors
/// As [`random_llama`], and [`Error::Device`] when a GPU cannot be used.
pub fn random_llama_on_device(
    config: LlamaConfig,
    seed: u64,
    form: RandomWeights,
) -> Result<Llama> {
    #[cfg(feature = "cuda")]
    if let (RandomWeights::Dense(_), Ok(opened)) = (form, crate::DeviceChoice::Cuda(0).open()) {
        let options = GpuOptions { batch_invariant: true, ..GpuOptions::default() };
        if let Some(ranks) = crate::gpu::open(&[opened.device], options)? {
            return random_llama_into(config, seed, form, ranks);
        }
    }
    random_llama_on_host_ops(config, seed, form)
}

/// [`random_llama_on_host_ops`], split over ranks that are threads of this process.
///
/// # Errors
/// As [`random_llama`], and [`Error::Device`] when the model does not divide into so many ranks.
pub fn random_llama_on_ranks(
    config: LlamaConfig,
    seed: u64,
    form: RandomWeights,
    num_ranks: usize,
) -> Result<Llama> {
    random_llama_into(config, seed, form, HostOps::ranks(num_ranks))
}

/// [`random_llama`] whose pass is done by `ranks`.
pub(crate) fn random_llama_into(
    config: LlamaConfig,
    seed: u64,
    form: RandomWeights,
    ranks: Ranks,
) -> Result<Llama> {
    let mut source = RandomSource { seed, form, drawn: HashMap::new() };
    Llama::load_into(config, &mut source, &Device::Cpu, ranks)
}

/// [`random_llama`], with its tensors by checkpoint name as they were drawn: f32, not quantised.
///
/// # Errors
/// As [`random_llama`].
pub fn random_llama_and_tensors(
    config: LlamaConfig,
    seed: u64,
    form: RandomWeights,
) -> Result<(Llama, HashMap<String, Tensor>)> {
    let mut source = RandomSource { seed, form, drawn: HashMap::new() };
    let llama =
        Llama::load(config, &mut source, &[Device::Cpu], <(CpuOptions, GpuOptions)>::default())?;
    Ok((llama, source.drawn))
}

/// Draws each tensor when it is asked for, from a stream of its own, and remembers it as f32.
#[derive(Debug)]
struct RandomSource {
    seed: u64,
    form: RandomWeights,
    drawn: HashMap<String, Tensor>,
}

impl RandomSource {
    /// Uniform in `centre - spread..centre + spread`.
    fn draw(&mut self, name: &str, shape: &[usize], centre: f32, spread: f32) -> Result<Tensor> {
        // FNV-1a: a stream of its own for each name, so that no tensor depends on the order.
        let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ stream);
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                let unit = (rng.next_u32() >> 8) as f32 / 16_777_216.0; // 24 bits, exact in f32
                centre + spread * (2.0 * unit - 1.0)
            })
            .collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        self.drawn.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }
}

impl WeightSource for RandomSource {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        // Keeps the variance of activations near 1: uniform of this spread has variance 1 / cols.
        let spread = if name.contains("embed_tokens") { 1.0 } else { (3.0 / cols as f32).sqrt() };
        let tensor = self.draw(name, &[rows, cols], 0.0, spread)?;
        Ok(match self.form {
            RandomWeights::Dense(dtype) => Weight::Dense(tensor.to_dtype(dtype)?),
            RandomWeights::Quantized(dtype) => {
                Weight::Quantized(Arc::new(QTensor::quantize(&tensor, dtype)?))
            }
        })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor> {
        let centre = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        self.draw(name, &[len], centre, 0.3)
    }
}

/// A Llama on the CPU over dense tensors by checkpoint name, for comparison with a reference that was given the
/// same numbers.
///
/// # Errors
/// [`Error::Weight`] when a tensor is missing or has another shape.
pub fn llama_from_tensors(config: LlamaConfig, tensors: HashMap<String, Tensor>) -> Result<Llama> {
    Llama::load(
        config,
        &mut TensorSource(tensors),
        &[Device::Cpu],
        <(CpuOptions, GpuOptions)>::default(),
    )
}

/// Gives away the tensors of a map.
#[derive(Debug)]
struct TensorSource(HashMap<String, Tensor>);

impl TensorSource {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let bad = |reason: String| Error::Weight {
            path: "memory".into(),
            tensor: name.to_owned(),
            reason,
        };
        let tensor = self.0.remove(name).ok_or_else(|| bad("is missing".to_owned()))?;
        if tensor.dims() == shape {
            Ok(tensor)
        } else {
            Err(bad(format!("has shape {:?}, expected {shape:?}", tensor.dims())))
        }
    }
}

impl WeightSource for TensorSource {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        Ok(Weight::Dense(self.take(name, &[rows, cols])?))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor> {
        self.take(name, &[len])
    }
}
