//! From files to weights: which files a path means, what they say of the model, and their tensors one by
//! one under the names of a Hugging Face checkpoint.
//!
//! Both formats end in the same [`WeightSource`](crate::llama::WeightSource); everything a file asks for that
//! is not implemented is an error that names the field.

mod census;
mod config_fields;
mod files;
mod fingerprint;
mod gguf;
mod gguf_config;
mod gguf_names;
mod hf_config;
mod safetensors;
mod stop_tokens;

pub use files::ModelFiles;
pub(crate) use files::read_json;
pub(crate) use fingerprint::{architecture_id, weights_id};
pub(crate) use gguf::GgufSource;
pub(crate) use hf_config::config_from_json;
pub(crate) use safetensors::SafetensorsSource;
pub(crate) use stop_tokens::{stop_tokens_from_gguf, stop_tokens_from_json};

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use candle_core::{Device, DeviceLocation};

use crate::device::{DeviceChoice, device_name};
use crate::error::{Error, Result};
use crate::gpu::GpuOptions;
use crate::kernels::CpuOptions;

/// Logical tensor names (Hugging Face) with their shapes.
pub(crate) type TensorShapes = BTreeMap<String, Vec<usize>>;

/// How weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightForm {
    /// As in the file: quantised blocks stay quantised, f16 and bf16 stay as they are.
    #[default]
    AsStored,
    /// Dequantised or widened to f32: the portable path of extraction and of the golden tests.
    F32,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where it runs; the first GPU where it is split over several.
    pub device: DeviceChoice,
    /// GPUs that each layer is split over, from `device` on; 1 where it is not split.
    pub tensor_parallel: NonZeroUsize,
    /// How its weights are kept.
    pub weights: WeightForm,
    /// How the CPU is used.
    pub cpu: CpuOptions,
    /// How a GPU is used, where it runs on one.
    pub gpu: GpuOptions,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            tensor_parallel: NonZeroUsize::MIN,
            weights: WeightForm::default(),
            cpu: CpuOptions::default(),
            gpu: GpuOptions::default(),
        }
    }
}

impl LoadOptions {
    /// Opens the devices that the model is split over, after a warning in the log where the host's processor is taken for want of a
    /// GPU.
    ///
    /// # Errors
    /// [`Error::Device`] when one cannot be opened, or this build cannot split a model over several.
    pub(crate) fn open_devices(&self) -> Result<Vec<Device>> {
        let first = self.device.open()?.announced();
        let num_ranks = self.tensor_parallel.get();
        if num_ranks == 1 {
            return Ok(vec![first]);
        }
        let refused = |reason: &str| Error::Device {
            device: device_name(&first),
            reason: format!("tensor parallelism over {num_ranks} GPUs: {reason}"),
        };
        let DeviceLocation::Cuda { gpu_id } = first.location() else {
            return Err(refused(
                "the model runs on no GPU; choose `cuda`, or tensor parallelism 1",
            ));
        };
        if !cfg!(feature = "nccl") {
            return Err(refused("this build has no NCCL; build with `--features nccl`"));
        }
        let rest = (gpu_id + 1..gpu_id + num_ranks)
            .map(|ordinal| Ok(DeviceChoice::Cuda(ordinal).open()?.announced()));
        std::iter::once(Ok(first)).chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_on_the_cpu_is_not_split() {
        let two = NonZeroUsize::new(2).unwrap();
        let options = LoadOptions { tensor_parallel: two, ..LoadOptions::default() };
        let error = options.open_devices().unwrap_err().to_string();
        for part in ["`cpu`", "over 2 GPUs", "choose `cuda`"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(LoadOptions::default().open_devices().unwrap().len(), 1);
    }
}
