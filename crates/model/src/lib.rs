//! skeg-model: a candle Llama that can be read and steered inside its forward pass.
//!
//! Token ids and tensors in, token ids and numbers out. It holds the model, the paged KV cache, the hooks at
//! `attn_out` and `resid_post`, the sampler and the continuous-batching engine; beside them the tokenizer and
//! the chat template, which belong to a model's files. It knows no category, no policy and no HTTP.
//!
//! Architecture invariants: no async function and no tokio type in the public interface; no network; on CPU the
//! arithmetic of a row does not depend on the rows beside it.

mod batch;
mod chat_template;
mod config;
mod device;
pub mod engine;
mod error;
mod gpu;
pub mod hooks;
mod identity;
mod kernels;
mod kv_cache;
mod llama;
mod loaded_model;
mod loader;
pub mod sampling;
pub mod steering;
#[doc(hidden)]
pub mod testing;
mod tokenizer;

pub use batch::PackedBatch;
pub use chat_template::{ChatMessage, ChatTemplate};
pub use config::{Architecture, LlamaConfig, RopeScaling};
pub use device::{DeviceChoice, Opened, TimedRuns, device_name, time_copies, time_products};
pub use error::{Error, Result};
pub use gpu::GpuOptions;
pub use hooks::{
    Capture, Hooks, ProjectionFinding, ProjectionProbe, ProjectionSample, SteerRows, When,
};
pub use identity::ModelIdentity;
pub use kernels::{CpuKernels, CpuOptions};
pub use kv_cache::{KvCache, KvCacheDtype};
pub use llama::Llama;
pub use loaded_model::LoadedModel;
pub use loader::{LoadOptions, ModelFiles, WeightForm};
pub use tokenizer::{Detokenizer, Tokenizer, TokenizerConfig};
