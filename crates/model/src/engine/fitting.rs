//! How many tokens a cache may hold on a GPU whose memory is shared by model, cache, steering tables and steps.

use super::config::EngineConfig;
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::gpu::StepBounds;
use crate::kv_cache::KvCacheDtype;
use crate::steering::SteeringTables;

/// Of the free memory, in tenths, what is planned with. The rest is for what hooks read, the ends of prompts, graphs and kernels.
const TENTHS_PLANNED: u64 = 9;
const GIGABYTE: f64 = 1e9;

/// An engine that is to be made for a model on a GPU.
pub(super) struct Fitting<'a> {
    pub(super) engine: &'a EngineConfig,
    pub(super) model: &'a LlamaConfig,
    /// Bytes that the GPU has left beside the model.
    pub(super) free: u64,
    /// Whether all rows are attended one by one, as batch invariance wants it.
    pub(super) attends_alone: bool,
}

impl Fitting<'_> {
    /// The most tokens that fit: whole blocks, and no more than all sequences at their longest need.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no room for a block, or for one sequence of a `max_model_len` that was set.
    pub(super) fn tokens(&self) -> Result<usize> {
        let block_size = self.engine.block_size;
        let planned = self.free / 10 * TENTHS_PLANNED;
        let block_bytes = block_size as u64 * self.bytes_per_token();
        let in_memory = usize::try_from(planned / block_bytes).unwrap_or(usize::MAX);
        let useful = self.engine.max_num_seqs.saturating_mul(self.longest().div_ceil(block_size));
        let (mut fits, mut too_many) = (0, in_memory.min(useful) + 1);
        while fits + 1 < too_many {
            let blocks = fits.midpoint(too_many);
            if self.needs(blocks * block_size) <= planned {
                fits = blocks;
            } else {
                too_many = blocks;
            }
        }
        let tokens = fits * block_size;
        let least = self.engine.max_model_len.unwrap_or(1).next_multiple_of(block_size);
        if tokens < least { Err(self.no_room(least)) } else { Ok(tokens) }
    }

    /// Bytes of a cache of so many tokens, and of everything beside it.
    fn needs(&self, tokens: usize) -> u64 {
        let engine = self.engine;
        let bounds = StepBounds {
            rows: engine.max_num_batched_tokens,
            seqs: engine.max_num_seqs,
            seq_len: self.longest().min(tokens),
            block_size: engine.block_size,
            attends_alone: self.attends_alone,
        };
        let slots = engine.num_steering_slots + 1; // slot 0 holds nothing
        let beside =
            bounds.num_bytes(self.model) + SteeringTables::num_bytes_on_device(self.model, slots);
        tokens as u64 * self.bytes_per_token() + beside as u64
    }

    /// Of keys and values, in all layers.
    fn bytes_per_token(&self) -> u64 {
        let model = self.model;
        let numbers = 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim;
        let size = match self.engine.kv_cache_dtype {
            KvCacheDtype::F32 => 4,
            KvCacheDtype::F16 => 2,
        };
        numbers as u64 * size
    }

    /// Longest sequence, if the cache holds it.
    fn longest(&self) -> usize {
        let context = self.model.max_position_embeddings;
        self.engine.max_model_len.unwrap_or(context).min(context)
    }

    fn no_room(&self, least: usize) -> Error {
        let gigabytes = |bytes: u64| bytes as f64 / GIGABYTE;
        let engine = self.engine;
        Error::Device {
            device: "cuda".to_owned(),
            reason: format!(
                "{:.2} GB of its memory are left beside the model, and an engine with a cache of {least} tokens needs {:.2} GB, of \
                 which the cache takes {:.2} GB: lower max_num_batched_tokens (now {}), max_num_seqs (now {}) or max_model_len (now \
                 {}), end what else takes its memory, or take a smaller model",
                gigabytes(self.free),
                gigabytes(self.needs(least) / TENTHS_PLANNED * 10),
                gigabytes(least as u64 * self.bytes_per_token()),
                engine.max_num_batched_tokens,
                engine.max_num_seqs,
                self.longest(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny_config;

    /// Llama-3-8B's dimensions.
    fn llama_3_8b() -> LlamaConfig {
        LlamaConfig {
            hidden_size: 4096,
            intermediate_size: 14336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            vocab_size: 128_256,
            max_position_embeddings: 8192,
            ..tiny_config()
        }
    }

    /// The defaults on a GPU.
    fn engine() -> EngineConfig {
        EngineConfig { max_num_seqs: 128, max_num_batched_tokens: 2048, ..EngineConfig::default() }
    }

    /// What there is beside the cache for 2048 rows, 128 rows of logits and 64 steering slots, counted by hand: places of powers of two.
    fn beside_the_cache(decode_items: u64) -> std::ops::Range<u64> {
        let hidden_rows = 3 << 25; // three times 2048 x 4096 f32
        let attention = (1 << 26) + (1 << 25); // 2048 x 6144 and 2048 x 4096
        let partials = (decode_items * 32 * 130 * 4).next_power_of_two();
        let mlp = (1 << 28) + (1 << 27); // 2048 x 28672 and 2048 x 14336
        let head = (1 << 21) + (1 << 26); // 128 x 4096 and 128 x 128256
        let tables = 2 * 32 * 65 * 4096 * 4;
        let large = hidden_rows + attention + partials + mlp + head + tables;
        // The step itself, and what a choice of tokens takes.
        large..large + (16 << 20)
    }

    fn tokens(engine: &EngineConfig, free: u64, attends_alone: bool) -> u64 {
        let model = llama_3_8b();
        Fitting { engine, model: &model, free, attends_alone }.tokens().unwrap() as u64
    }

    #[test]
    fn llama_3_8b_fills_nine_tenths_of_what_is_left() {
        // An H100 beside weights of 16 GB.
        let free = 64_000_000_000;
        let found = tokens(&engine(), free, false);
        // 128 sequences of 32 chunks.
        let beside = beside_the_cache(128 * 32);
        let bytes = found * 131_072;
        assert_eq!(found % 32, 0);
        assert!(bytes + beside.start <= free / 10 * 9, "{found}");
        assert!(bytes + 32 * 131_072 + beside.end > free / 10 * 9, "{found}");
    }

    #[test]
    fn what_is_attended_row_by_row_takes_of_the_cache() {
        let free = 64_000_000_000;
        let found = tokens(&engine(), free, true);
        let beside = beside_the_cache(2048 * 32);
        assert!(found * 131_072 + beside.start <= free / 10 * 9, "{found}");
        assert!((found + 32) * 131_072 + beside.end > free / 10 * 9, "{found}");
        let wide = EngineConfig { kv_cache_dtype: KvCacheDtype::F32, ..engine() };
        let beside = beside_the_cache(128 * 32);
        let found = tokens(&wide, free, false);
        assert!(found * 262_144 + beside.start <= free / 10 * 9, "{found}");
        assert!((found + 32) * 262_144 + beside.end > free / 10 * 9, "{found}");
    }

    #[test]
    fn a_cache_is_no_larger_than_all_sequences_at_their_longest_need() {
        let few = EngineConfig { max_num_seqs: 3, max_model_len: Some(1000), ..engine() };
        assert_eq!(tokens(&few, 64_000_000_000, false), 3 * 1024);
        let beyond = EngineConfig { max_num_seqs: 3, max_model_len: Some(10_000), ..engine() };
        assert_eq!(tokens(&beyond, 64_000_000_000, false), 3 * 8192);
    }

    /// Partial results for a context of 131,072 would take more than there is, and none so long can be there.
    #[test]
    fn a_long_context_in_little_memory_is_cut_by_the_cache() {
        let model = LlamaConfig { max_position_embeddings: 131_072, ..llama_3_8b() };
        let fitting =
            Fitting { engine: &engine(), model: &model, free: 6_000_000_000, attends_alone: true };
        let tokens = fitting.tokens().unwrap();
        assert!((4_000..131_072).contains(&tokens), "{tokens}");
        assert!(fitting.needs(tokens) <= 5_400_000_000);
        assert!(fitting.needs(tokens + 32) > 5_400_000_000);
    }

    #[test]
    fn without_room_it_says_what_there_is_what_is_needed_and_what_to_set() {
        let refused = |engine: &EngineConfig, free| {
            let model = llama_3_8b();
            let fitting = Fitting { engine, model: &model, free, attends_alone: false };
            fitting.tokens().unwrap_err().to_string()
        };
        let said = refused(&engine(), 500_000_000);
        for part in
            ["0.50 GB", "cache of 32 tokens", "max_num_batched_tokens (now 2048)", "max_num_seqs"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        let long = EngineConfig { max_model_len: Some(8000), ..engine() };
        let said = refused(&long, 1_500_000_000);
        assert!(
            said.contains("8000 tokens") && said.contains("max_model_len (now 8000)"),
            "{said}"
        );
        assert!(refused(&engine(), 0).contains("0.00 GB"));
    }
}
