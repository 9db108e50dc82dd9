//! The kernels of `cuda/` on a GPU: loaded when each is first started, and started.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchConfig, cuLaunchKernelEx,
};
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, CudaStream};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use super::failed;
use crate::error::Result;
use crate::gpu::launch::Launch;

/// The kernels, compiled when this crate was: name of the source, and its fatbin.
const KERNELS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// From here on a kernel that was compiled for it knows how to wait for the one before it (`wait_for_earlier` in
/// `cuda/device.cuh`).
const WAITING_CAPABILITY: i32 = 90;

/// What was loaded so far.
pub(super) struct Functions {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<&'static str, Function>,
    /// [`crate::gpu::GpuOptions::programmatic_launches`].
    begins_early: bool,
    /// Whether the last thing that was asked of the stream is a kernel of these: only behind one may another begin early.
    follows_kernel: bool,
}

/// A kernel's entry.
struct Function {
    function: CudaFunction,
    /// Dynamic shared memory that it was asked for: the driver grants 48 KiB unasked, but a kernel's own arrays count among them.
    shared_bytes: u32,
    /// Whether it waits for what it needs by itself.
    waits: bool,
}

impl Functions {
    /// None yet. With `begins_early` a kernel may begin while the one before it ends (programmatic dependent launch), if it was
    /// compiled to wait by itself.
    pub(super) fn new(begins_early: bool) -> Self {
        Self {
            modules: HashMap::new(),
            functions: HashMap::new(),
            begins_early,
            follows_kernel: false,
        }
    }

    /// Something else is asked of the stream than a kernel of these: the next one begins when that has ended.
    pub(super) fn interrupt(&mut self) {
        self.follows_kernel = false;
    }

    /// Starts a kernel; the context must be bound.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when it cannot be loaded or started.
    #[expect(unsafe_code, reason = "a kernel is handed its arguments as bytes")]
    pub(super) fn start(&mut self, stream: &Arc<CudaStream>, launch: &Launch<'_>) -> Result<()> {
        let [x, y, z] = launch.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let may_begin_early = self.begins_early && self.follows_kernel;
        let function = self.function(stream, launch)?;
        let mut begins_early = u32::from(may_begin_early && function.waits);
        let mut early = early_start();
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: begins_early,
        };
        let mut parameters = [
            launch.args.as_ptr().cast_mut().cast::<c_void>(),
            (&raw mut begins_early).cast::<c_void>(),
        ];
        // SAFETY: the kernel has two parameters by value, of the structure whose bytes these are and a number; the driver reads
        // them and the attribute before it returns and writes none of them. What the structure names is memory that lives until the step's end
        // ([`crate::gpu::pass`]).
        unsafe {
            cuLaunchKernelEx(
                &raw const config,
                function.function.cu_function(),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(|error| failed(&format!("starting the kernel {}", launch.kernel), &error))?;
        self.follows_kernel = true;
        Ok(())
    }

    /// A kernel that may have as much dynamic shared memory as is asked.
    fn function(&mut self, stream: &Arc<CudaStream>, launch: &Launch<'_>) -> Result<&Function> {
        if !self.functions.contains_key(launch.kernel) {
            let function = self.load(stream, launch)?;
            self.functions.insert(launch.kernel, function);
        }
        let function = self
            .functions
            .get_mut(launch.kernel)
            .ok_or_else(|| failed("looking up a kernel", &launch.kernel))?;
        if launch.shared_bytes > function.shared_bytes {
            let bytes = i32::try_from(launch.shared_bytes).map_err(candle_core::Error::wrap)?;
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.function.set_attribute(attribute, bytes).map_err(|error| {
                failed(
                    &format!("asking {bytes} bytes of shared memory for {}", launch.kernel),
                    &error,
                )
            })?;
            function.shared_bytes = launch.shared_bytes;
        }
        Ok(function)
    }

    fn load(&mut self, stream: &Arc<CudaStream>, launch: &Launch<'_>) -> Result<Function> {
        let loading = || format!("loading the kernel {}", launch.kernel);
        let module = self.module(stream, launch.module)?;
        let function =
            module.load_function(launch.kernel).map_err(|error| failed(&loading(), &error))?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        let capability =
            function.get_attribute(attribute).map_err(|error| failed(&loading(), &error))?;
        Ok(Function { function, shared_bytes: 0, waits: capability >= WAITING_CAPABILITY })
    }

    fn module(&mut self, stream: &Arc<CudaStream>, name: &'static str) -> Result<Arc<CudaModule>> {
        if let Some(module) = self.modules.get(name) {
            return Ok(module.clone());
        }
        let (_, fatbin) = KERNELS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| failed("looking up a module of kernels", &name))?;
        let module = stream.context().load_module(Ptx::from_binary(fatbin.to_vec())).map_err(|error| {
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

/// Lets a kernel begin when every block of the one before it has begun or ended.
fn early_start() -> CUlaunchAttribute {
    let mut value = CUlaunchAttributeValue { pad: [0; 64] };
    value.programmaticStreamSerializationAllowed = 1;
    let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    CUlaunchAttribute { id, pad: [0; 4], value }
}
