//! The paged key and value memory of all sequences.
//!
//! It holds tensors and nothing else: which block belongs to whom is the scheduler's business, and
//! reaches a forward pass as block tables.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};
use half::f16;
use half::vec::HalfBitsVecExt;

use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::gpu::DeviceCache;
use crate::llama::Llama;

/// In which type keys and values are kept. All arithmetic with them is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvCacheDtype {
    /// 32 bits: as they were computed.
    F32,
    /// 16 bits, rounded once when they are written: half the memory, and half the bytes that attention reads.
    #[default]
    F16,
}

impl KvCacheDtype {
    /// A pool of zeros, `[rows, width]`. On the CPU memory is taken when it is first written.
    fn zeros(self, (rows, width): (usize, usize), device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Self::F32 => Tensor::zeros((rows, width), DType::F32, device),
            Self::F16 if device.is_cpu() => {
                // Not `Tensor::zeros`, which writes every f16: the allocator has zeros of integers at hand.
                let zeros: Vec<f16> = vec![0u16; rows * width].reinterpret_into();
                Tensor::from_vec(zeros, (rows, width), device)
            }
            Self::F16 => Tensor::zeros((rows, width), DType::F16, device),
        }
    }
}

impl fmt::Display for KvCacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for KvCacheDtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(Error::Request(format!("a cache of `{text}`; expected `f32` or `f16`"))),
        }
    }
}

/// One pool of keys and one of values a layer, each
/// `[num_blocks * block_size, num_kv_heads * head_dim]`. The order of numbers within a block is the
/// attention kernel's.
#[derive(Debug)]
pub struct KvCache {
    pools: Pools,
    num_blocks: usize,
    block_size: usize,
    num_layers: usize,
    /// `num_kv_heads * head_dim`.
    width: usize,
}

/// Where the pools lie.
#[derive(Debug)]
enum Pools {
    Host(Vec<LayerCache>),
    Device(Box<DeviceCache>),
}

/// One layer's pools.
#[derive(Debug)]
pub(crate) struct LayerCache {
    /// Keys after RoPE, `[num_blocks * block_size, num_kv_heads * head_dim]`.
    pub(crate) k: Tensor,
    /// Values, the same shape.
    pub(crate) v: Tensor,
}

impl KvCache {
    /// Allocates the pools where the model runs, filled with zeros.
    ///
    /// # Errors
    /// [`Error::Request`] when a size is 0, [`Error::Tensor`] when the device has no room.
    pub fn new(
        llama: &Llama,
        num_blocks: usize,
        block_size: usize,
        dtype: KvCacheDtype,
    ) -> Result<Self> {
        if num_blocks == 0 || block_size == 0 {
            return Err(Error::Request(format!(
                "a cache of {num_blocks} blocks of {block_size} tokens; both must be at least 1"
            )));
        }
        let config = llama.config();
        let width = config.num_key_value_heads * config.head_dim;
        let num_layers = config.num_hidden_layers;
        let pools = match llama.device_model() {
            Some(model) => {
                let size = (num_blocks, block_size);
                Pools::Device(Box::new(DeviceCache::new(model.clone(), size, dtype)?))
            }
            None => {
                let zeros = || dtype.zeros((num_blocks * block_size, width), llama.device());
                let layer = |_| Ok(LayerCache { k: zeros()?, v: zeros()? });
                Pools::Host((0..num_layers).map(layer).collect::<Result<_>>()?)
            }
        };
        Ok(Self { pools, num_blocks, block_size, num_layers, width })
    }

    /// Blocks in the pool.
    #[must_use]
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens a block.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Whether it has the layers and widths of a model.
    pub(crate) fn fits(&self, config: &LlamaConfig) -> bool {
        let width = config.num_key_value_heads * config.head_dim;
        self.num_layers == config.num_hidden_layers && self.width == width
    }

    /// The pools of every layer, where they are tensors.
    pub(crate) fn layers(&self) -> Option<&[LayerCache]> {
        match &self.pools {
            Pools::Host(layers) => Some(layers),
            Pools::Device(_) => None,
        }
    }

    /// The pools on a device, where they are no tensors.
    pub(crate) fn on_device(&mut self) -> Option<&mut DeviceCache> {
        match &mut self.pools {
            Pools::Host(_) => None,
            Pools::Device(cache) => Some(cache),
        }
    }
}
