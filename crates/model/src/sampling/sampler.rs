//! One sequence's choice of the next token.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::SamplingParams;
use super::filter::{self, keep_min_p, keep_top_k, keep_top_p};
use super::logprobs::Logprobs;
use crate::engine::TokenLogprob;
use crate::kernels;

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
        let (_, all_finite) = kernels::largest(logits);
        if !all_finite && let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(format!("the logit of token {id} is {}, not a finite number", logits[id]));
        }
        let token_id = match self.params.forced_token_ids.get(self.num_generated) {
            Some(&forced) => forced,
            None => self.choose(logits, stop_token_ids),
        };
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

    fn choose(&mut self, logits: &[f32], stop_token_ids: &[u32]) -> u32 {
        let adjusted = self.adjust(logits, stop_token_ids);
        if self.params.temperature == 0.0 { argmax(&adjusted) } else { self.draw(&adjusted) }
    }

    /// Bias and penalties, then the stop tokens out of reach until `min_new_tokens`.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^24")]
    fn adjust<'a>(&self, logits: &'a [f32], stop_token_ids: &[u32]) -> Cow<'a, [f32]> {
        let params = &self.params;
        let penalises = params.penalises_repetition()
            || params.frequency_penalty != 0.0
            || params.presence_penalty != 0.0;
        let keeps_going = self.num_generated < params.min_new_tokens;
        if params.logit_bias.is_empty() && !penalises && !keeps_going {
            return Cow::Borrowed(logits);
        }
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
        if keeps_going {
            for &id in stop_token_ids {
                if let Some(logit) = adjusted.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Cow::Owned(adjusted)
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let (largest, _) = kernels::largest(logits);
        let weights = kernels::weights(logits, largest, self.params.temperature);
        let params = &self.params;
        if params.top_k == 0 && params.top_p >= 1.0 && params.min_p <= 0.0 {
            let drawn = self.draw_from(&weights).and_then(|idx| u32::try_from(idx).ok());
            return drawn.unwrap_or_else(|| argmax(logits));
        }
        let mut candidates = filter::candidates(&weights);
        keep_top_k(&mut candidates, params.top_k);
        keep_top_p(&mut candidates, params.top_p);
        keep_min_p(&mut candidates, params.min_p);
        let weights: Vec<f32> = candidates.iter().map(|candidate| candidate.weight).collect();
        let drawn = self.draw_from(&weights).map(|idx| candidates[idx].token_id);
        drawn.unwrap_or_else(|| argmax(logits))
    }

    /// An index drawn with these weights; `None` where nothing weighs anything.
    fn draw_from(&mut self, weights: &[f32]) -> Option<usize> {
        /// Weights whose sum is made on its own: one after the other would wait for each addition.
        const CHUNK: usize = 64;
        let sum = |chunk: &[f32]| chunk.iter().map(|weight| f64::from(*weight)).sum::<f64>();
        let sums: Vec<f64> = weights.chunks(CHUNK).map(sum).collect();
        let mut rest = self.unit() * sums.iter().sum::<f64>();
        let mut chunk = 0;
        while chunk + 1 < sums.len() && rest >= sums[chunk] {
            rest -= sums[chunk];
            chunk += 1;
        }
        let end = weights.len().min((chunk + 1) * CHUNK);
        let within = (chunk * CHUNK..end).find(|&idx| {
            rest -= f64::from(weights[idx]);
            rest < 0.0
        });
        // Rounding may leave a crumb behind the last one that weighs anything.
        within.or_else(|| weights[..end].iter().rposition(|weight| *weight > 0.0))
    }

    /// Uniform in 0..1: the upper 53 bits of the sequence's own generator.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in f64")]
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The id of the largest logit, the lowest among equals.
fn argmax(logits: &[f32]) -> u32 {
    let (largest, _) = kernels::largest(logits);
    let best = (0_u32..).zip(logits).find(|(_, logit)| **logit >= largest);
    best.map_or(0, |(id, _)| id)
}
