//! The forward pass on a device whose memory is plain addresses: the shape that a GPU wants.
//!
//! candle's tensors stay for files, the CPU and public types. Here nothing is allocated in a step, addresses stay fixed, and
//! everything that changes from step to step goes up in one piece ([`args::StepHeader`]); so a step can be captured as a CUDA
//! graph and replayed. One pass, written over [`ops::DeviceOps`]:
//!
//! - `host`: plain Rust, the CPU counterpart of every operation; it rounds where the kernels round
//! - in tests, `emulated`: the kernels' own sources compiled for the CPU
//! - with the feature `cuda`, `cuda`: the kernels, on a GPU
//!
//! Architecture invariants: the residual stream is f32; a row with no plan has no arithmetic of steering; the vector is added
//! once, to the sum over all ranks.

mod arena;
mod args;
mod cache;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod emulated;
mod hooks;
mod host;
#[cfg(any(feature = "cuda", test))]
mod kernels;
#[cfg(any(feature = "cuda", test))]
mod launch;
mod memory;
mod model;
mod ops;
mod pass;
mod ranks;
mod recorded;
mod results;
mod shard;
mod step;
#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;
mod weights;

use candle_core::Device;

use crate::error::Result;
pub(crate) use cache::DeviceCache;
pub(crate) use hooks::site_index;
pub(crate) use host::HostOps;
pub(crate) use memory::{Address, Buffer};
pub(crate) use model::{DeviceModel, DeviceStep};
pub(crate) use ops::Rows;
pub(crate) use ranks::Ranks;
pub(crate) use step::StepBounds;

/// How a GPU is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuOptions {
    /// A row's bits do not depend on what is computed beside it, as on the CPU, for slower prompts. Default false.
    pub batch_invariant: bool,
    /// Steps of single tokens are recorded and replayed as CUDA graphs. Default true.
    pub cuda_graphs: bool,
    /// A kernel begins while the one before it ends (programmatic dependent launch), where kernels and GPU are of compute capability
    /// 9.0 or more. Default false: it was not run on a GPU yet.
    pub programmatic_launches: bool,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { batch_invariant: false, cuda_graphs: true, programmatic_launches: false }
    }
}

/// What a forward pass asks of `devices`, one a rank; `None` where that is the host, whose pass is over tensors.
///
/// # Errors
/// [`crate::Error::Device`] when a device cannot be used, or several cannot be used together.
#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "there is no GPU to use"))]
pub(crate) fn open(devices: &[Device], options: GpuOptions) -> Result<Option<Ranks>> {
    match devices {
        [Device::Cpu] => Ok(None),
        #[cfg(feature = "cuda")]
        [Device::Cuda(_), ..] => cuda::open(devices, options).map(Some),
        others => Err(crate::Error::Device {
            device: others.iter().map(crate::device_name).collect::<Vec<_>>().join(", "),
            reason:
                "no forward pass is written for it; choose `cpu`, or `cuda` in a build that has it"
                    .to_owned(),
        }),
    }
}
