//! One sequence's choice of the next token.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::SamplingParams;
use super::filter::{Candidate, keep_min_p, keep_top_k, keep_top_p, probabilities};
use super::logprobs::Logprobs;
use crate::engine::TokenLogprob;

/// A chosen token with what is to be reported of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token; its log-probability is 0 where none was asked for.
    pub token: TokenLogprob,
    /// The most likely tokens, best first.
    pub top: Vec<TokenLogprob>,
}

/// The state of one sequence's sampling: its generator and which tokens it has seen.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    rng: ChaCha12Rng,
    prompt: BTreeSet<u32>,
    /// Generated tokens with how often.
    generated: BTreeMap<u32, u32>,
    num_generated: usize,
}

impl Sampler {
    /// Starts a sequence. The prompt counts for the repetition penalty alone.
    #[must_use]
    pub fn new(params: SamplingParams, prompt_token_ids: &[u32]) -> Self {
        let prompt = if params.penalises_repetition() {
            prompt_token_ids.iter().copied().collect()
        } else {
            BTreeSet::new()
        };
        let rng = ChaCha12Rng::seed_from_u64(params.seed);
        Self { params, rng, prompt, generated: BTreeMap::new(), num_generated: 0 }
    }

    /// Chooses the next token.
    ///
    /// # Shapes
    /// - `logits`: `[vocab_size]`, raw
    ///
    /// # Errors
    /// A text naming the first logit that is not finite: the model's arithmetic broke down, and nothing
    /// drawn from it means anything.
    pub fn sample(&mut self, logits: &[f32], stop_token_ids: &[u32]) -> Result<Sampled, String> {
        if let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(format!("the logit of token {id} is {}, not a finite number", logits[id]));
        }
        let adjusted = self.adjust(logits, stop_token_ids);
        let token_id =
            if self.params.temperature == 0.0 { argmax(&adjusted) } else { self.draw(&adjusted) };
        *self.generated.entry(token_id).or_insert(0) += 1;
        self.num_generated += 1;
        if !self.params.logprobs {
            let token = TokenLogprob { token_id, logprob: 0.0 };
            return Ok(Sampled { token, top: Vec::new() });
        }
        let logprobs = Logprobs::new(logits);
        Ok(Sampled {
            token: logprobs.of(token_id),
            top: logprobs.top(self.params.num_top_logprobs),
        })
    }

    /// Bias and penalties, then the stop tokens out of reach until `min_new_tokens`.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^24")]
    fn adjust(&self, logits: &[f32], stop_token_ids: &[u32]) -> Vec<f32> {
        let mut adjusted = logits.to_vec();
        for &(id, bias) in &self.params.logit_bias {
            adjusted[id as usize] += bias;
        }
        let repetition_penalty = self.params.repetition_penalty;
        if self.params.penalises_repetition() {
            let seen: BTreeSet<u32> =
                self.prompt.iter().chain(self.generated.keys()).copied().collect();
            for id in seen {
                let logit = &mut adjusted[id as usize];
                *logit = if *logit > 0.0 {
                    *logit / repetition_penalty
                } else {
                    *logit * repetition_penalty
                };
            }
        }
        for (&id, &count) in &self.generated {
            adjusted[id as usize] -=
                self.params.frequency_penalty * count as f32 + self.params.presence_penalty;
        }
        if self.num_generated < self.params.min_new_tokens {
            for &id in stop_token_ids {
                if let Some(logit) = adjusted.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        adjusted
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let mut candidates: Vec<Candidate> = probabilities(logits, self.params.temperature);
        keep_top_k(&mut candidates, self.params.top_k);
        keep_top_p(&mut candidates, self.params.top_p);
        keep_min_p(&mut candidates, self.params.min_p);
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut rest = self.unit() * total;
        for candidate in &candidates {
            rest -= candidate.weight;
            if rest < 0.0 {
                return candidate.token_id;
            }
        }
        // Rounding may leave a crumb behind the last one; a filter always keeps at least one.
        candidates.last().map_or_else(|| argmax(logits), |candidate| candidate.token_id)
    }

    /// Uniform in 0..1: the upper 53 bits of the sequence's own generator.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in f64")]
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The id of the largest logit, the lowest among equals.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0_u32..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}
