//! What a forward pass must read and compute at least, by the model's dimensions, and how long that takes at a device's limits.
//!
//! Counted are the weights of every product once a pass, the keys and values of the context once a sequence, and the operations
//! of products and attention. Not counted is what is small beside them (norms, activations, keys and values written) and what
//! caches and kernels may read twice: a limit is what no kernel can beat, not what one should reach.

use serde::Serialize;
use skeg_model::{KvCacheDtype, LlamaConfig};

/// A model's sizes, as far as they bound its speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Roofline {
    /// Parameters of the matrices of all layers.
    pub(super) layer_parameters: f64,
    /// Parameters of the output matrix.
    pub(super) head_parameters: f64,
    /// Parameters of the files: with the embedding, which a pass reads a row a token of, norms and biases.
    pub(super) all_parameters: f64,
    /// Bytes of a parameter, on average over the files.
    pub(super) bytes_per_parameter: f64,
    /// Bytes of keys and values of a token, all layers together.
    pub(super) kv_bytes_per_token: f64,
    /// Operations of attention for each pair of a query and an earlier position, all layers and heads together.
    pub(super) flops_per_pair: f64,
}

/// One pass: each of `num_seqs` sequences has `context` tokens in the cache and goes on by `num_rows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) num_seqs: usize,
    pub(super) context: usize,
    pub(super) num_rows: usize,
}

/// What a pass reads from memory and computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Work {
    pub(super) bytes: f64,
    /// Floating-point operations; a product and its sum are two.
    pub(super) flops: f64,
}

/// What a device does at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    pub(super) bytes_per_second: f64,
    pub(super) flops_per_second: f64,
}

/// The shortest time that some work can take, and why.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Limit {
    pub(super) limit_seconds: f64,
    pub(super) limited_by: LimitedBy,
}

/// Which of the two takes longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LimitedBy {
    Memory,
    Arithmetic,
}

impl Roofline {
    /// Of a model whose weights take `weight_bytes` in all: the files' size, or `None` where they are in f32.
    pub(super) fn new(
        config: &LlamaConfig,
        weight_bytes: Option<u64>,
        kv_cache_dtype: KvCacheDtype,
    ) -> Self {
        const F32_BYTES: f64 = 4.0;
        let of = |size: usize| size as f64;
        let (hidden, layers) = (of(config.hidden_size), of(config.num_hidden_layers));
        let q = of(config.num_attention_heads) * of(config.head_dim);
        let kv = of(config.num_key_value_heads) * of(config.head_dim);
        // q, k, v and the attention output, then gate, up and down.
        let layer =
            hidden * (q + 2.0 * kv) + q * hidden + 3.0 * hidden * of(config.intermediate_size);
        let head = of(config.vocab_size) * hidden;
        let num_embeddings = if config.tie_word_embeddings { 1.0 } else { 2.0 };
        let biases = if config.attention_bias { q + 2.0 * kv } else { 0.0 };
        let norms = (2.0 * layers + 1.0) * hidden;
        let all = layers * (layer + biases) + norms + num_embeddings * head;
        let kv_bytes = match kv_cache_dtype {
            KvCacheDtype::F32 => F32_BYTES,
            KvCacheDtype::F16 => 2.0,
        };
        Self {
            layer_parameters: layers * layer,
            head_parameters: head,
            all_parameters: all,
            bytes_per_parameter: weight_bytes.map_or(F32_BYTES, |bytes| bytes as f64 / all),
            kv_bytes_per_token: layers * 2.0 * kv * kv_bytes,
            // A query times a key, and a probability times a value: 2 operations a number each.
            flops_per_pair: layers * 4.0 * q,
        }
    }

    /// A pass with logits of each sequence's last row. A row attends to the context and to half of its pass's rows on average.
    pub(super) fn work(&self, pass: Pass) -> Work {
        let [num_seqs, context, num_rows] =
            [pass.num_seqs, pass.context, pass.num_rows].map(|size| size as f64);
        let pairs = num_seqs * num_rows * (context + num_rows / 2.0);
        Work {
            bytes: (self.layer_parameters + self.head_parameters) * self.bytes_per_parameter
                + self.kv_bytes_per_token * num_seqs * context,
            flops: 2.0 * self.layer_parameters * num_seqs * num_rows
                + 2.0 * self.head_parameters * num_seqs
                + self.flops_per_pair * pairs,
        }
    }
}

impl Limits {
    /// The longer of the two times: reading and computing overlap at best.
    pub(super) fn of(&self, work: Work) -> Limit {
        let reading = work.bytes / self.bytes_per_second;
        let computing = work.flops / self.flops_per_second;
        if reading >= computing {
            Limit { limit_seconds: reading, limited_by: LimitedBy::Memory }
        } else {
            Limit { limit_seconds: computing, limited_by: LimitedBy::Arithmetic }
        }
    }
}

#[cfg(test)]
mod tests {
    use skeg_model::testing::tiny_config;

    use super::*;

    /// Llama-3-8B: 8.03 billion parameters, 2 bytes each.
    fn llama_3_8b() -> Roofline {
        let config = LlamaConfig {
            hidden_size: 4096,
            intermediate_size: 14336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            vocab_size: 128_256,
            tie_word_embeddings: false,
            ..tiny_config()
        };
        Roofline::new(&config, Some(2 * 8_030_261_248), KvCacheDtype::F16)
    }

    /// Whether it is what was computed by hand, to the digits given there.
    fn is(found: f64, by_hand: f64, digit: f64) -> bool {
        (found - by_hand).abs() <= digit / 2.0
    }

    #[test]
    fn llama_3_8b_reads_15_01_gigabytes_a_step() {
        let roofline = llama_3_8b();
        // Of a layer: qkv 4096 * 6144, output 4096 * 4096, gate and up 4096 * 28672, down 14336 * 4096.
        let layer = 25_165_824.0 + 16_777_216.0 + 117_440_512.0 + 58_720_256.0;
        assert!(is(roofline.layer_parameters, 32.0 * layer, 1.0));
        assert!(is(roofline.layer_parameters + roofline.head_parameters, 7_504_658_432.0, 1.0));
        assert!(is(roofline.bytes_per_parameter, 2.0, 1e-9));
        assert!(is(roofline.kv_bytes_per_token, 131_072.0, 1.0));
        let empty = roofline.work(Pass { num_seqs: 1, context: 0, num_rows: 1 });
        assert!(is(empty.bytes, 15.01e9, 0.01e9), "{empty:?}");
    }

    #[test]
    fn times_of_steps_are_those_worked_out_by_hand() {
        // Milliseconds at 4.3 TB/s, by batch and context.
        let limits = Limits { bytes_per_second: 4.3e12, flops_per_second: 790e12 };
        for (num_seqs, context, milliseconds) in [
            (1, 128, 3.49),
            (1, 4096, 3.62),
            (8, 4096, 4.49),
            (32, 1024, 4.49),
            (128, 128, 3.99),
            (128, 1024, 7.49),
            (128, 4096, 19.47),
        ] {
            let work = llama_3_8b().work(Pass { num_seqs, context, num_rows: 1 });
            let limit = limits.of(work);
            assert!(is(1e3 * limit.limit_seconds, milliseconds, 0.01), "{num_seqs} {limit:?}");
            assert_eq!(limit.limited_by, LimitedBy::Memory);
        }
        // 128 rows of 7.5 billion parameters.
        let products = llama_3_8b().work(Pass { num_seqs: 128, context: 0, num_rows: 1 });
        assert!(is(products.flops, 1.92e12, 0.01e12), "{products:?}");
    }

    #[test]
    fn a_prompt_of_2048_tokens_takes_29_7_tera_operations() {
        let limits = Limits { bytes_per_second: 4.3e12, flops_per_second: 790e12 };
        for (num_rows, tera_operations, milliseconds) in [(512, 7.2, 9.1), (2048, 29.7, 37.6)] {
            let work = llama_3_8b().work(Pass { num_seqs: 1, context: 0, num_rows });
            assert!(is(work.flops / 1e12, tera_operations, 0.1), "{work:?}");
            let limit = limits.of(work);
            assert!(is(1e3 * limit.limit_seconds, milliseconds, 0.1), "{limit:?}");
            assert_eq!(limit.limited_by, LimitedBy::Arithmetic);
        }
    }

    #[test]
    fn a_tied_model_in_f32_has_four_bytes_a_parameter_and_reads_its_embedding_as_its_head() {
        let config = LlamaConfig { tie_word_embeddings: true, ..tiny_config() };
        let roofline = Roofline::new(&config, None, KvCacheDtype::F32);
        assert!(is(roofline.head_parameters, 128.0 * 64.0, 0.1));
        // Per layer q, output: 2 * 64 * 64; k, v: 2 * 64 * 32; MLP: 3 * 64 * 192. Norms: 7 * 64.
        let layers = 3.0 * 49_152.0;
        assert!(is(roofline.all_parameters, layers + 8_192.0 + 448.0, 0.1), "{roofline:?}");
        let work = roofline.work(Pass { num_seqs: 2, context: 10, num_rows: 1 });
        // Keys and values: 3 layers * 2 * 32 numbers * 4 bytes a token.
        assert!(is(work.bytes, 4.0 * (layers + 8_192.0) + 768.0 * 20.0, 0.1), "{work:?}");
    }
}
