//! The operations on an NVIDIA GPU: our kernels, cuBLAS for wide products, candle's kernels for quantised ones.
//!
//! All work of a pass goes to the device's one stream, so it is done in the order in which it is asked; new vectors go up on another. Nothing but [`Launcher::allocate`]
//! takes memory.

mod beside;
mod graph;
#[cfg(feature = "nccl")]
mod nccl;
mod products;
mod quantized;
mod staging;

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Display;
use std::sync::Arc;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, result,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
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
#[cfg(feature = "nccl")]
use nccl::{NcclGroup, NcclRank};
use products::Products;
use quantized::QuantizedProducts;
use staging::Staging;

/// The kernels of `cuda/`, compiled when this crate was: name of the source, and its fatbin.
const KERNELS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// One GPU.
pub(crate) struct Gpu {
    stream: Arc<CudaStream>,
    modules: HashMap<&'static str, Arc<CudaModule>>,
    /// By name, with the dynamic shared memory that each was asked for: the driver grants 48 KiB unasked, but a kernel's own arrays
    /// count among them.
    functions: HashMap<&'static str, (CudaFunction, u32)>,
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
    let mut gpus = devices.iter().map(Gpu::new).collect::<Result<Vec<_>>>()?;
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
    fn new(device: &Device) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        Ok(Self {
            products: Products::new(&stream)?,
            quantized: QuantizedProducts::new(&stream)?,
            staging: Staging::new(&stream)?,
            beside: Beside::new(&stream)?,
            modules: HashMap::new(),
            functions: HashMap::new(),
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

    /// A kernel that may have so much dynamic shared memory.
    fn function(&mut self, launch: &Launch<'_>) -> Result<&CudaFunction> {
        if !self.functions.contains_key(launch.kernel) {
            let module = self.module(launch.module)?;
            let function = module.load_function(launch.kernel).map_err(|error| {
                failed(&format!("loading the kernel {}", launch.kernel), &error)
            })?;
            self.functions.insert(launch.kernel, (function, 0));
        }
        let (function, shared) = self
            .functions
            .get_mut(launch.kernel)
            .ok_or_else(|| failed("looking up a kernel", &launch.kernel))?;
        if launch.shared_bytes > *shared {
            let bytes = i32::try_from(launch.shared_bytes).map_err(candle_core::Error::wrap)?;
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, bytes).map_err(|error| {
                failed(
                    &format!("asking {bytes} bytes of shared memory for {}", launch.kernel),
                    &error,
                )
            })?;
            *shared = launch.shared_bytes;
        }
        Ok(function)
    }

    fn module(&mut self, name: &'static str) -> Result<Arc<CudaModule>> {
        if let Some(module) = self.modules.get(name) {
            return Ok(module.clone());
        }
        let (_, fatbin) = KERNELS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| failed("looking up a module of kernels", &name))?;
        let module = self.stream.context().load_module(Ptx::from_binary(fatbin.to_vec())).map_err(|error| {
            failed(
                &format!(
                    "loading the kernels of {name}.cu (this program's kernels may be for another compute capability: build \
                     it with CUDA_COMPUTE_CAP set to this GPU's)"
                ),
                &error,
            )
        })?;
        self.modules.insert(name, module.clone());
        Ok(module)
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
        // SAFETY: bytes of any value are bytes, and no kernel reads what none wrote ([`Launcher::allocate`]).
        let memory: CudaSlice<u8> = unsafe { self.stream.alloc(num_bytes.max(1)) }
            .map_err(|error| failed(&format!("taking {num_bytes} bytes of its memory"), &error))?;
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
        let (address, num_bytes) = (buffer.address().0, buffer.num_bytes());
        // SAFETY: a buffer is memory of this device, of that length, and lives until the stream has done this.
        unsafe { result::memset_d8_async(address, 0, num_bytes, self.stream.cu_stream()) }
            .map_err(|error| failed("clearing memory", &error))
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        self.staging.upload(&self.stream, to, bytes)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.download_all(&mut [(from, bytes)])
    }

    fn download_all(&mut self, reads: &mut [Read<'_>]) -> Result<()> {
        self.bind()?;
        self.staging.download(&self.stream, reads)
    }

    fn quantized_matrix(&mut self, blocks: &QTensor) -> Result<(Buffer, MatrixForm)> {
        let num_bytes = quantized::padded_bytes(blocks)?;
        let buffer = self.allocate(num_bytes)?;
        self.clear(&buffer)?;
        self.upload(buffer.address(), &blocks.data()?)?;
        Ok((buffer, MatrixForm::Quantized(blocks.dtype())))
    }

    #[expect(unsafe_code, reason = "a kernel is handed its arguments as bytes")]
    fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        let [x, y, z] = launch.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        self.bind()?;
        let function = self.function(launch)?.cu_function();
        let mut parameters = [launch.args.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel has one parameter by value, of the structure whose bytes these are; the driver reads it before it
        // returns and does not write it. What the structure names is memory that lives until the step's end ([`super::pass`]).
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.block, 1, 1),
                launch.shared_bytes,
                self.stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(|error| failed(&format!("starting the kernel {}", launch.kernel), &error))
    }

    fn matmul(&mut self, args: &MatmulArgs, weight: MatrixForm) -> Result<()> {
        self.bind()?;
        match weight {
            MatrixForm::Dense(element) => self.products.matmul(args, element),
            MatrixForm::Quantized(dtype) => self.quantized.matmul(&self.stream, args, dtype),
        }
    }

    #[cfg(feature = "nccl")]
    fn all_reduce(&mut self, args: &AllReduceArgs) -> Result<()> {
        let Some(rank) = &self.rank else { return Ok(()) };
        self.bind()?;
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
        graph::begin(&self.stream, recorded)
    }

    fn end(&mut self, recorded: &mut Recorded, pass: Result<()>) -> Result<bool> {
        graph::end(&self.stream, recorded, pass, |is_so| self.agree(is_so))
    }
}

/// A call of the driver or of a library that failed.
fn failed(what: &str, error: &dyn Display) -> Error {
    let error = error.to_string();
    let first = error.lines().next().unwrap_or_default();
    Error::Device { device: "cuda".to_owned(), reason: format!("{what} failed: {first}") }
}
