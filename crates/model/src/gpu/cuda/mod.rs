//! The operations on an NVIDIA GPU: our kernels, cuBLAS for wide products, candle's kernels for quantised ones.
//!
//! All work of a pass goes to the device's one stream, so it is done in the order in which it is asked; new vectors go up on another. Nothing but [`Launcher::allocate`]
//! takes memory.

mod beside;
mod functions;
mod graph;
#[cfg(feature = "nccl")]
mod nccl;
mod products;
mod quantized;
mod staging;

use std::fmt::Display;
use std::sync::Arc;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result};
use candle_core::quantized::QTensor;

use super::GpuOptions;
use super::args::{AllReduceArgs, MatmulArgs};
use super::kernels::{Begun, KernelOps, Launcher};
use super::launch::Launch;
use super::memory::{Address, Buffer, MatrixForm};
use super::ops::{DeviceOps, Read, Rows};
use super::ranks::{Link, Ranks};
use super::recorded::Recorded;
use crate::error::{Error, Result};
use beside::Beside;
use functions::Functions;
#[cfg(feature = "nccl")]
use nccl::{NcclGroup, NcclRank};
use products::Products;
use quantized::QuantizedProducts;
use staging::Staging;

/// One GPU.
pub(crate) struct Gpu {
    stream: Arc<CudaStream>,
    functions: Functions,
    products: Products,
    quantized: QuantizedProducts,
    staging: Staging,
    beside: Beside,
    /// `None` where it is alone.
    #[cfg(feature = "nccl")]
    rank: Option<NcclRank>,
}

/// The operations on the GPUs that candle opened as `devices`, one a rank.
///
/// # Errors
/// [`Error::Device`] when one is no GPU, the driver has no room for what every pass needs, or several cannot be linked.
pub(crate) fn open(devices: &[Device], options: GpuOptions) -> Result<Ranks> {
    let gpu = |device| Gpu::new(device, options);
    let mut gpus = devices.iter().map(gpu).collect::<Result<Vec<_>>>()?;
    let link = if gpus.len() > 1 { Some(link(&mut gpus)?) } else { None };
    let mut ranks = gpus
        .into_iter()
        .map(|gpu| -> Box<dyn DeviceOps> { Box::new(KernelOps::new(gpu, options)) });
    match (link, ranks.next()) {
        (None, Some(first)) => Ok(Ranks::one(first)),
        (Some(link), Some(first)) => {
            Ok(Ranks::linked(std::iter::once(first).chain(ranks).collect(), link))
        }
        (_, None) => Err(failed("opening GPUs", &"none is named")),
    }
}

/// Links several.
#[cfg(feature = "nccl")]
fn link(gpus: &mut [Gpu]) -> Result<Arc<dyn Link>> {
    let streams: Vec<Arc<CudaStream>> = gpus.iter().map(|gpu| gpu.stream.clone()).collect();
    let group = NcclGroup::new(&streams)?;
    for (rank, gpu) in gpus.iter_mut().enumerate() {
        gpu.rank = Some(group.rank(rank));
    }
    Ok(group)
}

/// Links several.
#[cfg(not(feature = "nccl"))]
fn link(_gpus: &mut [Gpu]) -> Result<Arc<dyn Link>> {
    Err(failed("linking GPUs", &"this build has no NCCL; build with `--features nccl`"))
}

impl Gpu {
    fn new(device: &Device, options: GpuOptions) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        Ok(Self {
            products: Products::new(&stream)?,
            quantized: QuantizedProducts::new(&stream)?,
            staging: Staging::new(&stream)?,
            beside: Beside::new(&stream)?,
            functions: Functions::new(options.programmatic_launches),
            #[cfg(feature = "nccl")]
            rank: None,
            stream,
        })
    }

    /// Whether it is so on every rank.
    fn agree(&self, is_so: bool) -> Result<bool> {
        #[cfg(feature = "nccl")]
        if let Some(rank) = &self.rank {
            return rank.agrees(is_so);
        }
        Ok(is_so)
    }

    /// The driver's calls act on the thread's context.
    fn bind(&self) -> Result<()> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(|error| failed("binding its context", &error))
    }
}

impl Drop for Gpu {
    /// Waits, since pinned memory and modules are given back at once, whatever still uses them. That binds the context, too: the
    /// thread that drops a model need not be one that ran it, and cuBLAS and the model's memory are given back in it.
    fn drop(&mut self) {
        // Nobody is left who could be told of an error.
        self.stream.synchronize().ok();
        self.beside.synchronize().ok();
    }
}

impl Launcher for Gpu {
    #[expect(
        unsafe_code,
        reason = "memory of the driver is not initialised; the trait says so of its contents"
    )]
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer> {
        self.functions.interrupt();
        // SAFETY: bytes of any value are bytes, and no kernel reads what none wrote ([`Launcher::allocate`]).
        let memory: CudaSlice<u8> = unsafe { self.stream.alloc(num_bytes.max(1)) }
            .map_err(|error| no_room(num_bytes, &error))?;
        let address = Address(memory.device_ptr(&self.stream).0);
        Ok(Buffer::new(address, num_bytes, Some(Box::new(memory))))
    }

    fn free_bytes(&mut self) -> Result<Option<u64>> {
        // What was given back is free when the stream has come to it.
        self.stream.synchronize().map_err(|error| failed("waiting for it", &error))?;
        let (free, _all) = self
            .stream
            .context()
            .mem_get_info()
            .map_err(|error| failed("asking how much memory is free", &error))?;
        Ok(Some(free as u64))
    }

    #[expect(unsafe_code, reason = "the driver is told an address and a length")]
    fn clear(&mut self, buffer: &Buffer) -> Result<()> {
        self.bind()?;
        self.functions.interrupt();
        let (address, num_bytes) = (buffer.address().0, buffer.num_bytes());
        // SAFETY: a buffer is memory of this device, of that length, and lives until the stream has done this.
        unsafe { result::memset_d8_async(address, 0, num_bytes, self.stream.cu_stream()) }
            .map_err(|error| failed("clearing memory", &error))
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        self.functions.interrupt();
        self.staging.upload(&self.stream, to, bytes)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.download_all(&mut [(from, bytes)])
    }

    fn download_all(&mut self, reads: &mut [Read<'_>]) -> Result<()> {
        self.bind()?;
        self.functions.interrupt();
        self.staging.download(&self.stream, reads)
    }

    fn quantized_matrix(&mut self, blocks: &QTensor) -> Result<(Buffer, MatrixForm)> {
        let num_bytes = quantized::padded_bytes(blocks)?;
        let buffer = self.allocate(num_bytes)?;
        self.clear(&buffer)?;
        self.upload(buffer.address(), &blocks.data()?)?;
        Ok((buffer, MatrixForm::Quantized(blocks.dtype())))
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        self.bind()?;
        self.functions.start(&self.stream, launch)
    }

    fn matmul(&mut self, args: &MatmulArgs, weight: MatrixForm) -> Result<()> {
        self.bind()?;
        self.functions.interrupt();
        match weight {
            MatrixForm::Dense(element) => self.products.matmul(args, element),
            MatrixForm::Quantized(dtype) => self.quantized.matmul(&self.stream, args, dtype),
        }
    }

    #[cfg(feature = "nccl")]
    fn all_reduce(&mut self, args: &AllReduceArgs) -> Result<()> {
        let Some(rank) = &self.rank else { return Ok(()) };
        self.bind()?;
        self.functions.interrupt();
        rank.all_reduce(&self.stream, args)
    }

    #[cfg(not(feature = "nccl"))]
    fn all_reduce(&mut self, _args: &AllReduceArgs) -> Result<()> {
        Ok(())
    }

    fn upload_beside(&mut self, to: &Rows, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        self.beside.upload(&self.stream, to, bytes)
    }

    fn has_arrived(&mut self) -> Result<bool> {
        self.bind()?;
        self.beside.has_arrived()
    }

    fn begin(&mut self, recorded: &mut Recorded) -> Result<Begun> {
        self.bind()?;
        self.functions.interrupt();
        graph::begin(&self.stream, recorded)
    }

    fn end(&mut self, recorded: &mut Recorded, pass: Result<()>) -> Result<bool> {
        self.functions.interrupt();
        graph::end(&self.stream, recorded, pass, |is_so| self.agree(is_so))
    }
}

/// Memory that there is none of. Not the device's failure: a step that wants less may have it.
fn no_room(num_bytes: usize, error: &dyn Display) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!(
        "taking {num_bytes} bytes of the GPU's memory failed: {error}"
    )))
}

/// A call of the driver or of a library that failed.
fn failed(what: &str, error: &dyn Display) -> Error {
    let error = error.to_string();
    let first = error.lines().next().unwrap_or_default();
    Error::Device { device: "cuda".to_owned(), reason: format!("{what} failed: {first}") }
}
