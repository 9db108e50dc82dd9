//! The forward pass over a packed batch.
//!
//! Architecture invariants: the residual stream is f32; a pass changes nothing of the model, and of
//! the cache only the rows of its batch; every site calls its hooks once a layer.

mod block;
mod body;
mod linear;
mod rope;
mod weights;

pub(crate) use rope::Rope;
pub(crate) use weights::{Weight, WeightSource};

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::batch::PackedBatch;
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::gpu::{self, DeviceCache, DeviceModel, DeviceStep, GpuOptions, Ranks};
use crate::hooks::{Capture, Hooks};
use crate::kernels::{Cpu, CpuKernels, CpuOptions};
use crate::kv_cache::KvCache;
use crate::sampling::{Ask, StepOutput};
use body::TensorBody;

/// A Llama or Qwen2 for packed batches; shared between threads, it keeps no state of any sequence.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    device: Device,
    cpu: Cpu,
    body: Body,
}

/// The weights, and how they are run.
#[derive(Debug)]
enum Body {
    /// As tensors.
    Tensors(TensorBody),
    /// In the memory of a device.
    Device(Arc<DeviceModel>),
}

impl Llama {
    /// Takes every tensor from `source`, which makes them on the host, each once, in the order of the forward pass. Of several
    /// `devices`, each gets its part of the model.
    ///
    /// # Errors
    /// [`Error::Weight`] when a tensor is missing or has another shape, [`Error::Device`] when the processor cannot do
    /// what `cpu` asks for, a GPU cannot be used or not as `gpu` says or the model does not divide, [`Error::Tensor`] when there
    /// is no room.
    pub(crate) fn load(
        config: LlamaConfig,
        source: &mut dyn WeightSource,
        devices: &[Device],
        (cpu, gpu): (CpuOptions, GpuOptions),
    ) -> Result<Self> {
        match gpu::open(devices, gpu)? {
            Some(ranks) => Self::load_into(config, source, &devices[0], ranks),
            None => {
                let cpu = Cpu::new(cpu)?;
                let body = Body::Tensors(TensorBody::load(&config, source)?);
                Ok(Self { config, device: Device::Cpu, cpu, body })
            }
        }
    }

    /// [`Self::load`] into the memory of `ranks`, of which `device` is the first.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn load_into(
        config: LlamaConfig,
        source: &mut dyn WeightSource,
        device: &Device,
        ranks: Ranks,
    ) -> Result<Self> {
        let cpu = Cpu::new(CpuOptions::default())?;
        let body = Body::Device(Arc::new(DeviceModel::load(&config, source, ranks)?));
        Ok(Self { config, device: device.clone(), cpu, body })
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

    /// Where it runs; the first of several.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The weights, where they are in the memory of a device and no tensors.
    pub(crate) fn device_model(&self) -> Option<&Arc<DeviceModel>> {
        match &self.body {
            Body::Tensors(_) => None,
            Body::Device(model) => Some(model),
        }
    }

    /// One forward pass: writes the rows' keys and values to the cache and returns the logits of
    /// `batch.logit_rows`, in their order.
    ///
    /// On the CPU, and on a GPU with [`GpuOptions::batch_invariant`], a row's logits are bitwise the same in any batch, for any
    /// chunking of its sequence and any placing of its cache blocks.
    ///
    /// # Shapes
    /// - returns: `[num_logit_rows, vocab_size]`, f32, on the host
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
        let asks = vec![Ask::Logits; batch.logit_rows.len()];
        let what = (self.config.num_hidden_layers, asks.as_slice());
        match self.run(batch, cache, hooks, what, &mut || ())? {
            Ran::Tensor(logits) => Ok(logits),
            Ran::Answers(output) => {
                let shape = (batch.logit_rows.len(), self.config.vocab_size);
                Ok(Tensor::from_vec(output.into_rows(), shape, &Device::Cpu)?)
            }
        }
    }

    /// [`Self::forward`], with what each of `batch.logit_rows` is asked: where a token is asked for, no logits are handed out.
    ///
    /// `meanwhile` is called once, on this thread: while a device works, after everything was asked of it and before it is waited
    /// for; on the CPU, which has no time to spare, before the pass.
    ///
    /// # Errors
    /// As [`Self::forward`], and [`Error::Request`] unless there is one ask a row. A step that fails may not have come to `meanwhile`.
    pub(crate) fn step(
        &self,
        batch: &PackedBatch,
        cache: &mut KvCache,
        hooks: &mut Hooks<'_>,
        asks: &[Ask],
        meanwhile: &mut dyn FnMut(),
    ) -> Result<StepOutput> {
        if asks.len() != batch.logit_rows.len() {
            return Err(Error::Request(format!(
                "{} asks of {} rows of logits; expected one a row",
                asks.len(),
                batch.logit_rows.len()
            )));
        }
        let what = (self.config.num_hidden_layers, asks);
        match self.run(batch, cache, hooks, what, meanwhile)? {
            Ran::Tensor(logits) => {
                #[expect(clippy::disallowed_methods, reason = "the host chooses")]
                let logits = logits.flatten_all()?.to_vec1::<f32>()?;
                Ok(StepOutput::of_rows(asks, logits, self.config.vocab_size))
            }
            Ran::Answers(output) => Ok(output),
        }
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
        let batch = PackedBatch { logit_rows: Vec::new(), ..batch.clone() };
        let mut hooks = Hooks { steer: None, capture: Some(capture) };
        let num_blocks = num_blocks.min(self.config.num_hidden_layers);
        self.run(&batch, cache, &mut hooks, (num_blocks, &[]), &mut || ())?;
        Ok(())
    }

    /// The first blocks, and what is asked of the rows whose logits are wanted.
    fn run(
        &self,
        batch: &PackedBatch,
        cache: &mut KvCache,
        hooks: &mut Hooks<'_>,
        (num_blocks, asks): (usize, &[Ask]),
        meanwhile: &mut dyn FnMut(),
    ) -> Result<Ran> {
        if !cache.fits(&self.config) {
            return Err(other_cache());
        }
        let layout = batch.layout(&self.config, cache)?;
        hooks.begin(&self.config, batch.total_tokens())?;
        match &self.body {
            Body::Tensors(body) => {
                let layers = cache.layers().ok_or_else(other_cache)?;
                let step = (batch, &layout);
                meanwhile();
                let x = body.run(&self.cpu, step, &layers[..num_blocks], hooks)?; // [total_tokens, hidden_size]
                if batch.logit_rows.is_empty() {
                    let shape = (0, self.config.vocab_size);
                    return Ok(Ran::Tensor(Tensor::zeros(shape, DType::F32, &Device::Cpu)?));
                }
                let logits = body.logits(&self.cpu, &x, &batch.logit_rows)?; // [num_logit_rows, vocab_size]
                Ok(Ran::Tensor(logits))
            }
            Body::Device(model) => {
                let of_model = |cache: &&mut DeviceCache| cache.is_of(model);
                let cache = cache.on_device().filter(of_model).ok_or_else(other_cache)?;
                let step =
                    DeviceStep { config: &self.config, batch, layout: &layout, asks, num_blocks };
                Ok(Ran::Answers(model.step(&step, cache, hooks, meanwhile)?))
            }
        }
    }
}

/// What a pass left.
enum Ran {
    /// `[num_logit_rows, vocab_size]`, f32, on the host.
    Tensor(Tensor),
    /// What a device answered.
    Answers(StepOutput),
}

fn other_cache() -> Error {
    Error::Request("the cache was made for another model".to_owned())
}
