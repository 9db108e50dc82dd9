//! One sequence's choice of the next token.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::logprobs::Logprobs;
use super::{Answer, Ask, SamplingParams, draw};
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
#[derive(Debug, Clone, PartialEq)]
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

    /// What is asked of the row that yields the next token. A draw takes its number from the generator here, once a token: the
    /// answer must be accepted then, or the sequence given up.
    pub fn ask(&mut self) -> Ask {
        let (params, filter) = (&self.params, self.params.filter());
        let temperature = params.temperature;
        if params.logprobs || self.forced().is_some() || self.adjusts() {
            Ask::Logits
        } else if temperature == 0.0 {
            Ask::Greedy
        } else if filter.keeps_all() {
            Ask::Draw { temperature, unit: self.unit() }
        } else {
            Ask::Filtered { temperature, unit: self.unit(), filter }
        }
    }

    /// Takes the next token from the answer to [`Self::ask`], or from a row of logits where nothing was asked.
    ///
    /// # Errors
    /// A text that says that a logit is not finite, and which if the row is here: the model's arithmetic broke down, and
    /// nothing drawn from it means anything.
    pub fn accept(
        &mut self,
        answer: Answer<'_>,
        stop_token_ids: &[u32],
    ) -> Result<Sampled, String> {
        let token_id = match answer {
            Answer::Token { id, is_finite: true } => id,
            Answer::Token { is_finite: false, .. } => {
                return Err("a logit of the row is not a finite number".to_owned());
            }
            Answer::Logits(logits) => {
                check_finite(logits)?;
                self.forced().unwrap_or_else(|| self.choose(logits, stop_token_ids))
            }
        };
        *self.generated.entry(token_id).or_insert(0) += 1;
        self.num_generated += 1;
        match answer {
            Answer::Logits(logits) if self.params.logprobs => {
                let logprobs = Logprobs::new(logits);
                Ok(Sampled {
                    token: logprobs.of(token_id),
                    top: logprobs.top(self.params.num_top_logprobs),
                })
            }
            Answer::Logits(_) | Answer::Token { .. } => {
                let token = TokenLogprob { token_id, logprob: 0.0 };
                Ok(Sampled { token, top: Vec::new() })
            }
        }
    }

    /// The token that is taken whatever the row says.
    fn forced(&self) -> Option<u32> {
        self.params.forced_token_ids.get(self.num_generated).copied()
    }

    fn choose(&mut self, logits: &[f32], stop_token_ids: &[u32]) -> u32 {
        let adjusted = self.adjust(logits, stop_token_ids);
        let (largest, _) = kernels::largest(&adjusted);
        if self.params.temperature == 0.0 {
            draw::argmax(&adjusted, largest)
        } else {
            self.draw(&adjusted, largest)
        }
    }

    /// Whether the stop tokens are out of reach.
    fn keeps_going(&self) -> bool {
        self.num_generated < self.params.min_new_tokens
    }

    /// Whether [`Self::adjust`] may change a row.
    fn adjusts(&self) -> bool {
        let params = &self.params;
        !params.logit_bias.is_empty()
            || params.penalises_repetition()
            || params.frequency_penalty != 0.0
            || params.presence_penalty != 0.0
            || self.keeps_going()
    }

    /// Bias and penalties, then the stop tokens out of reach until `min_new_tokens`.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^24")]
    fn adjust<'a>(&self, logits: &'a [f32], stop_token_ids: &[u32]) -> Cow<'a, [f32]> {
        if !self.adjusts() {
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
        if self.keeps_going() {
            for &id in stop_token_ids {
                if let Some(logit) = adjusted.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Cow::Owned(adjusted)
    }

    fn draw(&mut self, logits: &[f32], largest: f32) -> u32 {
        let unit = self.unit();
        let (temperature, filter) = (self.params.temperature, self.params.filter());
        if filter.keeps_all() {
            draw::draw(logits, largest, temperature, unit)
        } else {
            draw::draw_filtered(logits, largest, (temperature, unit), filter)
        }
    }

    /// Uniform in 0..1: the upper 53 bits of the sequence's own generator.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in f64")]
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn check_finite(logits: &[f32]) -> Result<(), String> {
    let (_, all_finite) = kernels::largest(logits);
    if !all_finite && let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
        return Err(format!("the logit of token {id} is {}, not a finite number", logits[id]));
    }
    Ok(())
}
