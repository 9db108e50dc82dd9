//! [`KernelOps`]: the operations as launches of kernels, on whatever runs them.

use candle_core::Tensor;
use candle_core::quantized::QTensor;

use super::GpuOptions;
use super::args::{
    AddNormArgs, AllReduceArgs, AttentionArgs, EmbedArgs, GatherArgs, MatmulArgs, RopeCacheArgs,
    SampleArgs, SwigluArgs,
};
use super::host::number_bytes;
use super::launch::{self, Launch, SKINNY_ROWS};
use super::memory::{Address, Buffer, Element, MatrixForm};
use super::ops::{DeviceOps, Read, Rows};
use super::recorded::Recorded;
use crate::error::{Error, Result};
use crate::llama::Weight;

/// What runs kernels: a GPU, or the emulator. Everything is done in the order in which it is asked.
pub(crate) trait Launcher: Send {
    /// As [`DeviceOps::allocate`].
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer>;
    /// As [`DeviceOps::free_bytes`].
    fn free_bytes(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// As [`DeviceOps::clear`].
    fn clear(&mut self, buffer: &Buffer) -> Result<()>;
    /// As [`DeviceOps::upload`].
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()>;
    /// As [`DeviceOps::download`].
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()>;
    /// As [`DeviceOps::matrix`], of blocks.
    fn quantized_matrix(&mut self, blocks: &QTensor) -> Result<(Buffer, MatrixForm)>;
    /// Starts a kernel.
    ///
    /// # Errors
    /// [`Error::Device`] when it cannot be started.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<()>;
    /// A product that is left to a library, without the bias.
    fn matmul(&mut self, args: &MatmulArgs, weight: MatrixForm) -> Result<()>;
    /// As [`DeviceOps::all_reduce`].
    fn all_reduce(&mut self, args: &AllReduceArgs) -> Result<()>;

    /// As [`DeviceOps::download_all`].
    fn download_all(&mut self, reads: &mut [Read<'_>]) -> Result<()> {
        reads.iter_mut().try_for_each(|(from, bytes)| self.download(*from, bytes))
    }

    /// As [`DeviceOps::upload_beside`].
    fn upload_beside(&mut self, to: &Rows, bytes: &[u8]) -> Result<()> {
        for (idx, row) in bytes.chunks(to.row_bytes).enumerate() {
            self.upload(to.first.add(idx * to.stride), row)?;
        }
        Ok(())
    }

    /// As [`DeviceOps::has_arrived`].
    fn has_arrived(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Begins a step that is like an earlier one.
    ///
    /// # Errors
    /// [`Error::Device`] when it cannot be replayed.
    fn begin(&mut self, recorded: &mut Recorded) -> Result<Begun> {
        recorded.num_runs = recorded.num_runs.saturating_add(1);
        Ok(Begun::Run)
    }

    /// Ends it; `pass` is how running its operations ended. False where they are to be run again.
    ///
    /// # Errors
    /// That of `pass`, and [`Error::Device`] when what was recorded cannot be run.
    fn end(&mut self, _recorded: &mut Recorded, pass: Result<()>) -> Result<bool> {
        pass.map(|()| true)
    }
}

/// What is to be done for a step that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Nothing: it is under way.
    Replayed,
    /// Its operations are to be asked for.
    Run,
}

/// A device whose operations are our kernels.
#[derive(Debug)]
pub(crate) struct KernelOps<L> {
    launcher: L,
    options: GpuOptions,
}

impl<L: Launcher> KernelOps<L> {
    /// The operations on this launcher.
    pub(crate) fn new(launcher: L, options: GpuOptions) -> Self {
        Self { launcher, options }
    }

    /// What runs the kernels.
    #[cfg(test)]
    pub(crate) fn launcher(&mut self) -> &mut L {
        &mut self.launcher
    }

    /// Whether a product with single numbers is ours, not a library's.
    fn takes(&self, args: &MatmulArgs) -> bool {
        args.rows <= SKINNY_ROWS || self.options.batch_invariant
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.launcher.allocate(bytes.len())?;
        self.launcher.upload(buffer.address(), bytes)?;
        Ok(buffer)
    }

    fn keep_numbers(&mut self, numbers: &Tensor) -> Result<(Buffer, Element)> {
        let element = Element::of(numbers.dtype()).ok_or_else(|| {
            refused(format!("a matrix of {:?}; expected f32, f16 or bf16", numbers.dtype()))
        })?;
        Ok((self.keep(&number_bytes(numbers, element)?)?, element))
    }
}

impl<L: Launcher> DeviceOps for KernelOps<L> {
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer> {
        self.launcher.allocate(num_bytes)
    }

    fn free_bytes(&mut self) -> Result<Option<u64>> {
        self.launcher.free_bytes()
    }

    fn is_batch_invariant(&self) -> bool {
        self.options.batch_invariant
    }

    fn clear(&mut self, buffer: &Buffer) -> Result<()> {
        self.launcher.clear(buffer)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.launcher.upload(to, bytes)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.launcher.download(from, bytes)
    }

    fn matrix(&mut self, weight: Weight) -> Result<(Buffer, MatrixForm)> {
        match weight {
            Weight::Dense(numbers) => {
                let (buffer, element) = self.keep_numbers(&numbers)?;
                Ok((buffer, MatrixForm::Dense(element)))
            }
            Weight::Quantized(blocks) if self.options.batch_invariant => Err(refused(format!(
                "batch invariance: a matrix of {:?} blocks, whose products with few rows and with many have other bits; \
                 set `weights` to `f32`, take a model whose files hold bf16, f16 or f32, or leave `batch_invariant` out",
                blocks.dtype()
            ))),
            Weight::Quantized(blocks) => self.launcher.quantized_matrix(&blocks),
        }
    }

    fn vector(&mut self, values: &Tensor) -> Result<Buffer> {
        self.keep(&number_bytes(values, Element::F32)?)
    }

    fn embedding(&mut self, weight: Weight) -> Result<(Buffer, Element)> {
        match weight {
            Weight::Dense(numbers) => self.keep_numbers(&numbers),
            Weight::Quantized(blocks) => {
                let numbers = blocks.dequantize(&blocks.device())?;
                self.keep_numbers(&numbers)
            }
        }
    }

    fn download_all(&mut self, reads: &mut [Read<'_>]) -> Result<()> {
        self.launcher.download_all(reads)
    }

    fn upload_beside(&mut self, to: &Rows, bytes: &[u8]) -> Result<()> {
        self.launcher.upload_beside(to, bytes)
    }

    fn has_arrived(&mut self) -> Result<bool> {
        self.launcher.has_arrived()
    }

    fn run(
        &mut self,
        recorded: &mut Recorded,
        pass: &dyn Fn(&mut dyn DeviceOps) -> Result<()>,
    ) -> Result<()> {
        if !self.options.cuda_graphs {
            return pass(self);
        }
        if self.launcher.begin(recorded)? == Begun::Replayed {
            return Ok(());
        }
        let ended = pass(self);
        if self.launcher.end(recorded, ended)? { Ok(()) } else { pass(self) }
    }

    fn embed(&mut self, args: &EmbedArgs, table: Element) -> Result<()> {
        self.launcher.launch(&launch::embed(args, table))
    }

    fn add_norm(&mut self, args: &AddNormArgs, normed: Element) -> Result<()> {
        self.launcher.launch(&launch::add_norm(args, normed)?)
    }

    fn rope_cache(&mut self, args: &RopeCacheArgs, cache: Element) -> Result<()> {
        self.launcher.launch(&launch::rope_cache(args, cache))
    }

    fn attention(&mut self, args: &AttentionArgs, cache: Element, z: Element) -> Result<()> {
        if args.num_prefill_items > 0 {
            self.launcher.launch(&launch::attn_prefill(args, cache, z)?)?;
        }
        if args.max_decode_items > 0 {
            self.launcher.launch(&launch::attn_decode(args, cache)?)?;
        }
        Ok(())
    }

    fn swiglu(&mut self, args: &SwigluArgs, activated: Element) -> Result<()> {
        self.launcher.launch(&launch::swiglu(args, activated))
    }

    fn gather(&mut self, args: &GatherArgs, element: Element) -> Result<()> {
        self.launcher.launch(&launch::gather(args, element))
    }

    fn matmul(&mut self, args: &MatmulArgs, weight: MatrixForm) -> Result<()> {
        match weight {
            MatrixForm::Dense(element) if self.takes(args) => {
                self.launcher.launch(&launch::product(args, element))
            }
            _ => {
                self.launcher.matmul(args, weight)?;
                if args.bias.is_some() {
                    self.launcher.launch(&launch::add_bias(args))?;
                }
                Ok(())
            }
        }
    }

    fn gated_matmul(
        &mut self,
        args: &MatmulArgs,
        weight: MatrixForm,
        activated: Element,
    ) -> Result<bool> {
        if !self.takes(args) || weight != MatrixForm::Dense(activated) {
            return Ok(false);
        }
        let Some(launch) = launch::gated_product(args, activated) else { return Ok(false) };
        self.launcher.launch(&launch)?;
        Ok(true)
    }

    fn sample(&mut self, args: &SampleArgs) -> Result<()> {
        launch::sample(args).iter().try_for_each(|launch| self.launcher.launch(launch))
    }

    fn all_reduce(&mut self, args: &AllReduceArgs) -> Result<()> {
        self.launcher.all_reduce(args)
    }
}

fn refused(reason: String) -> Error {
    Error::Device { device: "cuda".to_owned(), reason }
}

#[cfg(test)]
mod tests;
