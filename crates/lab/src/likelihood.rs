//! How likely a model finds a text: of answers under the unsteered model or under a second one, and of plain text while
//! the model is steered.
//!
//! The mean negative log-likelihood of a token, `-1/n sum ln p(x_i | x_<i)`, in nats; its exponential is the perplexity.
//! For answers it is a rough figure of coherence: high is unusual text, low is fluent, or repetitive.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skeg_model::steering::{SlotLease, SteeringPlan, SteeringTables, SteeringVector};
use skeg_model::{Hooks, KvCache, KvCacheDtype, Llama, PackedBatch, SteerRows};

use crate::error::{Error, Result};
use crate::evaluate::{AppliedVector, SharedModel, TextSide};
use crate::progress::Progress;

/// A plain text with a vector on every token, at its strength, or unsteered.
#[derive(Debug, Clone, Copy)]
pub struct SteeredText<'a> {
    /// The text.
    pub text: &'a str,
    /// The vector.
    pub vector: Option<&'a AppliedVector>,
}

/// How likely a plain text is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextNll {
    /// Sum of the negative log-likelihoods of all tokens but the first, in nats.
    pub sum: f64,
    /// Those tokens.
    pub num_tokens: usize,
}

/// Scores answers and texts.
pub trait Likelihood {
    /// The mean negative log-likelihood a token of each answer after its prompt, both as (prompt, answer); `None` for an
    /// answer without a token.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `progress` asks to stop, and what the model returns.
    fn mean_nll(
        &mut self,
        exchanges: &[(&str, &str)],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Option<f64>>>;

    /// How likely plain texts are, each on its own. A text is cut at the most tokens that are scored.
    ///
    /// # Errors
    /// [`Error::Interrupted`], and what the model returns.
    fn text_nlls(
        &mut self,
        texts: &[SteeredText<'_>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<TextNll>>;

    /// Perplexity of plain texts, over all tokens but each text's first.
    ///
    /// # Errors
    /// [`Error::Data`] when no text has two tokens, and as [`Self::text_nlls`].
    fn perplexity(
        &mut self,
        texts: &[SteeredText<'_>],
        progress: &mut dyn Progress,
    ) -> Result<f64> {
        let scores = self.text_nlls(texts, progress)?;
        let num_tokens: usize = scores.iter().map(|score| score.num_tokens).sum();
        if num_tokens == 0 {
            return Err(Error::Data("no text has two tokens to be scored".to_owned()));
        }
        let sum: f64 = scores.iter().map(|score| score.sum).sum();
        Ok((sum / num_tokens as f64).exp())
    }
}

/// One vector's, beside slot 0, which holds nothing.
const NUM_SLOTS: usize = 2;

/// Tokens a cache block.
const BLOCK_SIZE: usize = 32;

/// Scores with a model of its own cache.
#[derive(Debug)]
pub struct ModelLikelihood {
    llama: Arc<Llama>,
    text_side: Arc<TextSide>,
    cache: KvCache,
    max_tokens: usize,
}

impl ModelLikelihood {
    /// Scores texts of up to `max_tokens` tokens, prompt and template included; what is longer is scored up to there.
    ///
    /// # Errors
    /// [`Error::Model`] when the cache cannot be made.
    pub fn new(model: &SharedModel, max_tokens: usize) -> Result<Self> {
        let llama = Arc::clone(&model.llama);
        let max_tokens = max_tokens.clamp(2, llama.config().max_position_embeddings);
        let num_blocks = max_tokens.div_ceil(BLOCK_SIZE);
        let cache = KvCache::new(&llama, num_blocks, BLOCK_SIZE, KvCacheDtype::F32)?;
        Ok(Self { text_side: Arc::clone(&model.text_side), llama, cache, max_tokens })
    }

    /// The sum of the negative log-likelihoods of `token_ids[from..]` in nats, with every row steered or none.
    fn nll_sum(
        &mut self,
        token_ids: &[u32],
        from: usize,
        steering: Option<&Steered>,
    ) -> Result<f64> {
        let known = &token_ids[..token_ids.len() - 1];
        let num_blocks = u32::try_from(known.len().div_ceil(BLOCK_SIZE))
            .map_err(|error| Error::Spec(format!("a text's length: {error}")))?;
        let batch = PackedBatch {
            token_ids: known.to_vec(),
            positions: (0..known.len()).collect(),
            cu_seqlens: vec![0, known.len()],
            block_tables: vec![(0..num_blocks).collect()],
            logit_rows: (from - 1..known.len()).collect(),
        };
        let steer = steering
            .map(|steered| SteerRows::new(&steered.tables, vec![Some(&steered.plan); known.len()]));
        let mut hooks = Hooks { steer, capture: None };
        let logits = self.llama.forward(&batch, &mut self.cache, &mut hooks)?;
        #[expect(clippy::disallowed_methods, reason = "scores are made on the host")]
        let rows = logits.to_vec2::<f32>().map_err(skeg_model::Error::from)?;
        Ok(rows.iter().zip(&token_ids[from..]).map(|(row, &token)| nll(row, token)).sum())
    }
}

impl Likelihood for ModelLikelihood {
    fn mean_nll(
        &mut self,
        exchanges: &[(&str, &str)],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Option<f64>>> {
        let mut scores = Vec::with_capacity(exchanges.len());
        for (prompt, answer) in exchanges {
            let prompt = self.text_side.prompt_token_ids(None, prompt)?;
            let answer = self.text_side.tokenizer.encode(answer, false)?;
            let mut token_ids = [prompt.as_slice(), &answer].concat();
            token_ids.truncate(self.max_tokens);
            // A first token has no likelihood: nothing stands before it.
            let from = prompt.len().max(1);
            let num_scored = token_ids.len().saturating_sub(from);
            scores.push(if num_scored == 0 {
                None
            } else {
                Some(self.nll_sum(&token_ids, from, None)? / num_scored as f64)
            });
            // Not a step of its own: whoever asked counts answers.
            if progress.advance(0).is_break() {
                return Err(Error::Interrupted { done: scores.len(), total: exchanges.len() });
            }
        }
        Ok(scores)
    }

    fn text_nlls(
        &mut self,
        texts: &[SteeredText<'_>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<TextNll>> {
        let mut scores = Vec::with_capacity(texts.len());
        for SteeredText { text, vector } in texts {
            let steered = vector.map(|vector| Steered::new(&self.llama, vector)).transpose()?;
            let mut token_ids = self.text_side.tokenizer.encode(text, true)?;
            token_ids.truncate(self.max_tokens);
            let num_tokens = token_ids.len().saturating_sub(1);
            let sum =
                if num_tokens == 0 { 0.0 } else { self.nll_sum(&token_ids, 1, steered.as_ref())? };
            scores.push(TextNll { sum, num_tokens });
            if progress.advance(1).is_break() {
                return Err(Error::Interrupted { done: scores.len(), total: texts.len() });
            }
        }
        Ok(scores)
    }
}

/// A vector on every row of a pass.
struct Steered {
    tables: SteeringTables,
    plan: SteeringPlan,
    /// Keeps the slot.
    _lease: SlotLease,
}

impl Steered {
    fn new(llama: &Llama, vector: &AppliedVector) -> Result<Self> {
        let mut tables = SteeringTables::new(llama, NUM_SLOTS);
        let layers = vector.layers.as_ref().clone();
        let lease = tables.register(&[SteeringVector { site: vector.site, layers }])?;
        let slot = lease.slots().first().copied().unwrap_or_default();
        let mut slot_by_layer = vec![0; llama.config().num_hidden_layers];
        for row in vector.layers.iter() {
            slot_by_layer[row.layer] = slot;
        }
        let plan = SteeringPlan {
            site: vector.site,
            operator: vector.operator,
            positions: vector.positions,
            strength: vector.strength,
            slot_by_layer,
        };
        Ok(Self { tables, plan, _lease: lease })
    }
}

/// `-ln softmax(logits)[token]`.
fn nll(logits: &[f32], token: u32) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    largest + sum.ln() - f64::from(logits[token as usize])
}
