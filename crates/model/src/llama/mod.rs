//! The forward pass over a packed batch.
//!
//! Architecture invariants: the residual stream is f32; a pass changes nothing of the model, and of
//! the cache only the rows of its batch; every site calls its hooks once a layer.

mod block;
mod linear;
mod rope;
mod weights;

pub(crate) use weights::{Weight, WeightSource};

use candle_core::{DType, Device, Tensor};

use crate::batch::PackedBatch;
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::hooks::{Capture, Hooks};
use crate::kernels::{Cpu, CpuKernels, CpuOptions};
use crate::kv_cache::KvCache;
use crate::sampling::{Ask, StepOutput};
use block::{Block, RmsNorm, Step};
use linear::{Bias, Embedding, Linear};
use rope::Rope;

/// A Llama or Qwen2 for packed batches; shared between threads, it keeps no state of any sequence.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    device: Device,
    cpu: Cpu,
    embed_tokens: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    lm_head: Linear,
    rope: Rope,
}

impl Llama {
    /// Takes every tensor from `source`, each once, in the order of the forward pass.
    ///
    /// # Errors
    /// [`Error::Weight`] when a tensor is missing or has another shape, [`Error::Device`] when the processor cannot do
    /// what `cpu` asks for.
    pub(crate) fn load(
        config: LlamaConfig,
        source: &mut dyn WeightSource,
        device: &Device,
        cpu: CpuOptions,
    ) -> Result<Self> {
        let cpu = Cpu::new(cpu)?;
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let embedding = source
            .matrix("model.embed_tokens.weight", vocab_size, hidden_size)?
            .into_kept_form()?;
        let blocks = (0..config.num_hidden_layers)
            .map(|layer| Block::load(&config, source, layer))
            .collect::<Result<_>>()?;
        let norm = RmsNorm::load(&config, source, "model.norm")?;
        let lm_head = if config.tie_word_embeddings {
            Linear::new(embedding.clone())
        } else {
            Linear::load(source, "lm_head", (vocab_size, hidden_size), Bias::None)?
        };
        Ok(Self {
            embed_tokens: Embedding::new(embedding),
            blocks,
            norm,
            lm_head,
            rope: Rope::new(&config),
            config,
            device: device.clone(),
            cpu,
        })
    }

    /// The configuration it was loaded with.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// CPU kernels it runs with, where it runs on the CPU.
    #[must_use]
    pub fn cpu_kernels(&self) -> CpuKernels {
        self.cpu.kernels()
    }

    /// Threads of a forward pass on the CPU.
    #[must_use]
    pub fn num_threads(&self) -> usize {
        self.cpu.num_threads()
    }

    /// Where it runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// One forward pass: writes the rows' keys and values to the cache and returns the logits of
    /// `batch.logit_rows`, in their order.
    ///
    /// On the CPU a row's logits are bitwise the same in any batch, for any chunking of its sequence
    /// and any placing of its cache blocks.
    ///
    /// # Shapes
    /// - returns: `[num_logit_rows, vocab_size]`, f32
    ///
    /// # Errors
    /// [`Error::Request`] when the batch does not fit model or cache, [`Error::Steering`] when a hook
    /// cannot be applied: both before any arithmetic. [`Error::Tensor`] when an operation fails; the
    /// batch's rows of the cache are then undefined.
    pub fn forward(
        &self,
        batch: &PackedBatch,
        cache: &mut KvCache,
        hooks: &mut Hooks<'_>,
    ) -> Result<Tensor> {
        const ROW_DIM: usize = 0;
        let x = self.run_blocks(batch, cache, hooks, self.blocks.len())?; // [total_tokens, hidden_size]
        if batch.logit_rows.is_empty() {
            return Ok(Tensor::zeros((0, self.config.vocab_size), DType::F32, &self.device)?);
        }
        let logit_rows = batch
            .logit_rows
            .iter()
            .map(|&row| u32::try_from(row))
            .collect::<Result<Vec<u32>, _>>()
            .map_err(candle_core::Error::wrap)?;
        let logit_rows = Tensor::new(logit_rows.as_slice(), &self.device)?; // [num_logit_rows]
        let x = x.index_select(&logit_rows, ROW_DIM)?; // [num_logit_rows, hidden_size]
        self.lm_head.forward(&self.cpu, &self.norm.forward(&self.cpu, &x)?) // [num_logit_rows, vocab_size]
    }

    /// Reads activations alone: [`Self::forward`] up to the last layer that `capture` reads, without logits.
    ///
    /// Later layers write nothing to `cache`, so nothing may go on from it.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn capture(
        &self,
        batch: &PackedBatch,
        cache: &mut KvCache,
        capture: &mut Capture,
    ) -> Result<()> {
        let num_blocks = capture.last_layer().map_or(0, |layer| layer + 1);
        let mut hooks = Hooks { steer: None, capture: Some(capture) };
        self.run_blocks(batch, cache, &mut hooks, num_blocks.min(self.blocks.len()))?;
        Ok(())
    }

    /// The first blocks: `[total_tokens, hidden_size]`.
    fn run_blocks(
        &self,
        batch: &PackedBatch,
        cache: &mut KvCache,
        hooks: &mut Hooks<'_>,
        num_blocks: usize,
    ) -> Result<Tensor> {
        if !cache.fits(&self.config) {
            return Err(Error::Request("the cache was made for another model".to_owned()));
        }
        let layout = batch.layout(&self.config, cache)?;
        hooks.begin(&self.config, batch.total_tokens())?;
        let step = Step {
            cpu: &self.cpu,
            layout: &layout,
            rope: self.rope.rows(&batch.positions, &self.device)?,
        };

        let token_ids = Tensor::new(batch.token_ids.as_slice(), &self.device)?; // [total_tokens]
        let mut x = self.embed_tokens.forward(&token_ids)?; // [total_tokens, hidden_size]
        for (layer, block) in self.blocks.iter().take(num_blocks).enumerate() {
            x = block.forward(&x, cache.layer(layer), &step, hooks)?; // [total_tokens, hidden_size]
        }
        Ok(x)
    }

    /// [`Self::forward`], with what each of `batch.logit_rows` is asked: where a token is asked for, no logits are handed out.
    ///
    /// # Errors
    /// As [`Self::forward`], and [`Error::Request`] unless there is one ask a row.
    pub(crate) fn step(
        &self,
        batch: &PackedBatch,
        cache: &mut KvCache,
        hooks: &mut Hooks<'_>,
        asks: &[Ask],
    ) -> Result<StepOutput> {
        if asks.len() != batch.logit_rows.len() {
            return Err(Error::Request(format!(
                "{} asks of {} rows of logits; expected one a row",
                asks.len(),
                batch.logit_rows.len()
            )));
        }
        let logits = self.forward(batch, cache, hooks)?; // [num_logit_rows, vocab_size]
        #[expect(clippy::disallowed_methods, reason = "the host chooses")]
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        Ok(StepOutput::of_rows(asks, logits, self.config.vocab_size))
    }
}
