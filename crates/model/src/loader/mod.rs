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

use crate::device::DeviceChoice;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// How its weights are kept.
    pub weights: WeightForm,
    /// How the CPU is used.
    pub cpu: CpuOptions,
}
