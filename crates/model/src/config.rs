//! A model's dimensions, with the names of Hugging Face's `config.json`.

use serde::Serialize;

/// The families that are implemented; both are pre-norm blocks with RoPE, GQA and SwiGLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// `LlamaForCausalLM`: SmolLM2, TinyLlama, Llama 2 to 3.3.
    Llama,
    /// `Qwen2ForCausalLM`: the same with biases on q, k and v.
    Qwen2,
}

/// How RoPE frequencies are stretched for long contexts (`rope_scaling`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Frequencies as trained.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1's rule: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context the model was first trained on, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// Everything of a model's configuration that changes its arithmetic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LlamaConfig {
    /// Family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; often but not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Added to the mean square in RMS norm.
    pub rms_norm_eps: f64,
    /// RoPE base.
    pub rope_theta: f64,
    /// RoPE stretching.
    pub rope_scaling: RopeScaling,
    /// Longest context the model is made for, in tokens.
    pub max_position_embeddings: usize,
    /// Whether `lm_head` is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases (qwen2).
    pub attention_bias: bool,
}
