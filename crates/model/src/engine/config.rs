//! The engine's limits.

use super::fitting::Fitting;
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::kv_cache::KvCacheDtype;
use crate::llama::Llama;

/// Limits of one engine, fixed when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sequences in one step; more wait. Default 8: on a few cores more only lengthens each answer. On a GPU 128, the largest
    /// step of single tokens that is replayed as a graph.
    pub max_num_seqs: usize,
    /// Rows of one forward pass, decode steps and prompt chunks together; at least `max_num_seqs`. A small
    /// value keeps decode steps short beside long prompts, a large one fills the machine. Default 512, on a GPU 2048.
    pub max_num_batched_tokens: usize,
    /// Longest sequence, prompt and answer, in tokens; `None` = the model's context. Never above it.
    pub max_model_len: Option<usize>,
    /// Tokens the KV cache holds for all sequences together. Default 32768; on a GPU see [`EngineConfig::with_fitting_cache`].
    pub kv_cache_tokens: usize,
    /// Type of the cached keys and values. Default f16.
    pub kv_cache_dtype: KvCacheDtype,
    /// Tokens a cache block. Default 32.
    pub block_size: usize,
    /// Whether full cache blocks are kept after use and shared by sequences that begin alike: the same tokens,
    /// steered alike. Answers are the same either way; on the CPU bit for bit. Off where no caller may learn
    /// from the time to the first token what another one asked. Default true.
    pub enable_prefix_caching: bool,
    /// Steering vectors the tables hold at once, slot 0 not counted. Default 64.
    pub num_steering_slots: usize,
    /// Every how many steps with steered rows the live probe measures one row a steered layer
    /// ([`crate::ProjectionProbe`]); 0 = never. Answers are bitwise the same either way. A row that did not move as
    /// planned ends the sequences that its vector steers. Default 64: below a thousandth of the time.
    pub projection_sample_interval: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 8,
            max_num_batched_tokens: 512,
            max_model_len: None,
            kv_cache_tokens: 32_768,
            kv_cache_dtype: KvCacheDtype::default(),
            block_size: 32,
            enable_prefix_caching: true,
            num_steering_slots: 64,
            projection_sample_interval: 64,
        }
    }
}

impl EngineConfig {
    /// The defaults on a GPU, whose cache is still to be fitted ([`Self::with_fitting_cache`]).
    #[must_use]
    pub fn on_gpu() -> Self {
        Self { max_num_seqs: 128, max_num_batched_tokens: 2048, ..Self::default() }
    }

    /// With as many tokens in the cache as the memory has room for that a GPU has left beside the model: nine tenths of it, less
    /// what the largest step and the steering tables take; never more than all sequences at their longest need. On the CPU, whose
    /// memory is taken as it is used, nothing changes.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no room for a block, or for one sequence of a `max_model_len` that was set,
    /// [`Error::Request`] when another limit makes no sense.
    pub fn with_fitting_cache(self, llama: &Llama) -> Result<Self> {
        self.validate()?;
        let Some(model) = llama.device_model() else { return Ok(self) };
        let Some(free) = model.free_bytes()? else { return Ok(self) };
        let (model, attends_alone) = (model.rank_config(), model.is_batch_invariant());
        let fitting = Fitting { engine: &self, model, free, attends_alone };
        let kv_cache_tokens = fitting.tokens()?;
        Ok(Self { kv_cache_tokens, ..self })
    }

    /// Checks the limits against each other.
    ///
    /// # Errors
    /// [`Error::Request`] naming the limit that makes no sense.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_model_len", self.max_model_len.unwrap_or(1)),
            ("kv_cache_tokens", self.kv_cache_tokens),
            ("block_size", self.block_size),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Request(format!("engine limit {name} is 0; expected at least 1")));
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(Error::Request(format!(
                "engine limit max_num_batched_tokens = {} is below max_num_seqs = {}; every running \
                 sequence needs a row a step",
                self.max_num_batched_tokens, self.max_num_seqs
            )));
        }
        if u32::try_from(self.max_num_batched_tokens).is_err() {
            return Err(Error::Request(format!(
                "engine limit max_num_batched_tokens = {} is above {}, the most that is counted",
                self.max_num_batched_tokens,
                u32::MAX
            )));
        }
        if self.kv_cache_tokens < self.block_size {
            return Err(Error::Request(format!(
                "engine limit kv_cache_tokens = {} is below block_size = {}",
                self.kv_cache_tokens, self.block_size
            )));
        }
        Ok(())
    }

    /// Longest sequence this engine serves on a model: by limit, context and cache.
    pub(super) fn longest_sequence(&self, model: &LlamaConfig) -> usize {
        let cache = self.kv_cache_tokens / self.block_size * self.block_size;
        let context = model.max_position_embeddings;
        self.max_model_len.unwrap_or(context).min(context).min(cache)
    }
}
