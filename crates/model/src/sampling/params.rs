//! The numbers that steer sampling, with OpenAI's and vLLM's names and meanings.

/// Sampling of one sequence. [`Default`] is greedy without penalties.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 = greedy (the most likely token, lowest id first among equals); otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this, in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep tokens at least this share of the most likely one's probability, in 0..=1; 0 keeps all.
    pub min_p: f32,
    /// Subtracted once from the logit of each token that was generated already, in -2..=2.
    pub presence_penalty: f32,
    /// Subtracted times the count from the logit of each token that was generated already, in -2..=2.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or answer; 1 = none.
    pub repetition_penalty: f32,
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Start of the sequence's own generator.
    pub seed: u64,
    /// Stop tokens cannot be chosen before this many tokens were generated.
    pub min_new_tokens: usize,
    /// Stop tokens do not end the answer (benchmarks).
    pub ignore_eos: bool,
    /// Whether log-probabilities are computed at all.
    pub logprobs: bool,
    /// How many of the most likely tokens to report with each token; 0..=20, needs `logprobs`.
    pub num_top_logprobs: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            min_new_tokens: 0,
            ignore_eos: false,
            logprobs: false,
            num_top_logprobs: 0,
        }
    }
}
