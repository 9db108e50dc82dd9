//! The numbers that steer sampling, with OpenAI's and vLLM's names and meanings.

use super::Filter;
use crate::error::{Error, Result};

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
    /// Taken in place of chosen tokens, in order: what the model finds of a given answer is in their log-probabilities.
    pub forced_token_ids: Vec<u32>,
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
            forced_token_ids: Vec::new(),
            seed: 0,
            min_new_tokens: 0,
            ignore_eos: false,
            logprobs: false,
            num_top_logprobs: 0,
        }
    }
}

/// Most entries of `logit_bias`, as OpenAI has it.
const MAX_LOGIT_BIAS: usize = 300;
/// Most top log-probabilities a token, as OpenAI has it.
const MAX_TOP_LOGPROBS: usize = 20;

impl SamplingParams {
    /// Which tokens may be drawn.
    pub(super) fn filter(&self) -> Filter {
        Filter { top_k: self.top_k, top_p: self.top_p, min_p: self.min_p }
    }

    /// Whether the repetition penalty does anything.
    pub(super) fn penalises_repetition(&self) -> bool {
        (self.repetition_penalty - 1.0).abs() > f32::EPSILON
    }

    /// Checks every number against its range.
    ///
    /// # Errors
    /// [`Error::Request`] naming the field, what it is and what it may be.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let check = |holds: bool, field: &str, value: f32, range: &str| {
            if holds {
                return Ok(());
            }
            Err(Error::Request(format!("{field} is {value}; expected a number in {range}")))
        };
        let penalty = -2.0..=2.0;
        check(
            (0.0..=100.0).contains(&self.temperature),
            "temperature",
            self.temperature,
            "0..=100",
        )?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "0..=1, not 0")?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "0..=1")?;
        let (presence, frequency) = (self.presence_penalty, self.frequency_penalty);
        check(penalty.contains(&presence), "presence_penalty", presence, "-2..=2")?;
        check(penalty.contains(&frequency), "frequency_penalty", frequency, "-2..=2")?;
        let repetition = self.repetition_penalty;
        let in_range = repetition > 0.0 && repetition <= 10.0;
        check(in_range, "repetition_penalty", repetition, "0..=10, not 0")?;
        if self.logit_bias.len() > MAX_LOGIT_BIAS {
            return Err(Error::Request(format!(
                "logit_bias has {} entries; at most {MAX_LOGIT_BIAS} are allowed",
                self.logit_bias.len()
            )));
        }
        for &(id, bias) in &self.logit_bias {
            check((-100.0..=100.0).contains(&bias), "logit_bias", bias, "-100..=100")?;
            if id as usize >= vocab_size {
                return Err(Error::Request(format!(
                    "logit_bias names token {id}; the vocabulary has {vocab_size}"
                )));
            }
        }
        if let Some(id) = self.forced_token_ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::Request(format!(
                "forced token {id} is not below the vocabulary's {vocab_size}"
            )));
        }
        if self.num_top_logprobs > MAX_TOP_LOGPROBS {
            return Err(Error::Request(format!(
                "{} top log-probabilities; at most {MAX_TOP_LOGPROBS} are reported",
                self.num_top_logprobs
            )));
        }
        Ok(())
    }
}
