//! The gate: what a request that names no steering is to be done with, decided from its own prompt's activations.
//!
//! A gated sequence is prefilled unsteered, and on the way its prompt's last row is copied out, and the sum of its rows where the
//! gate reads their mean. Its [`Gate`] looks at them before the first token is sampled. If nothing is due, the token is sampled
//! from that very step, so a gated request that turns out harmless costs copied rows and has, bitwise, the answer of an
//! unsteered one. If steering is due, the step's
//! logits are dropped and the sequence is computed again from the first row that its plan steers: the whole prompt, with what
//! the prefix cache has of it, or for `generation` row P-1 alone (with the rest of its block where that block is full, since
//! others may read it by then). While an answer goes on unsteered the gate can be asked again.

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::row_sums::RowSums;
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::steering::{Site, SlotLease, SteeringPlan};

/// What is to be done with a sequence.
#[derive(Debug, Clone)]
pub enum GateDecision {
    /// Nothing is due.
    Unsteered,
    /// It is steered: by its positions if the prompt was asked about, from the next row on if the answer was.
    Steer(SteeringPlan, SlotLease),
    /// It ends here, with the tokens it has and [`super::FinishReason::Gated`].
    Stop,
}

/// What a gate is shown of a prompt, computed unsteered. All numbers are finite.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PromptActivations<'a> {
    /// Row P-1, which yields the first token of the answer: `[num_layers, hidden_size]`.
    pub last: &'a [f32],
    /// The mean of the rows from [`Gate::mean_from`] to P-1, `[num_layers, hidden_size]`; empty where it is not asked for.
    pub mean: &'a [f32],
}

/// Decides about sequences by their activations. Called on the engine's thread between passes, so it takes microseconds and waits
/// for nothing.
pub trait Gate: Send + Sync + Debug {
    /// Where in a block it reads.
    fn site(&self) -> Site;

    /// Blocks from 0 whose rows it reads, ascending, each once, at least one.
    fn layers(&self) -> &[usize];

    /// First of the prompt's rows that count in the mean of its rows, below P; `None` = it does not read the mean. With `Some`, a
    /// sequence takes from the prefix cache only blocks beside which lies the sum of the same rows, layers and site, left by
    /// another gated sequence; the other blocks it computes again, once, and leaves their sums.
    fn mean_from(&self) -> Option<usize> {
        None
    }

    /// Decides by the prompt's activations. Called once a sequence.
    fn decide(&self, activations: PromptActivations<'_>) -> GateDecision;

    /// Generated tokens between looks at an answer that goes on unsteered; `None` = it is not looked at.
    fn recheck_every(&self) -> Option<NonZeroUsize> {
        None
    }

    /// Decides by the row of the last of `num_generated` tokens; that row was computed unsteered and yields one more token so. A
    /// plan holds from the row after it on, with `all` as with `generation`: what was computed stays. With `prompt` it fails the
    /// sequence, since no row is left that it would steer.
    ///
    /// # Shapes
    /// - `activations`: `[num_layers, hidden_size]`, finite
    fn recheck(&self, _activations: &[f32], _num_generated: usize) -> GateDecision {
        GateDecision::Unsteered
    }
}

/// Refuses a gate that reads what the model or the prompt does not have.
pub(super) fn check(gate: &dyn Gate, config: &LlamaConfig, prompt_len: usize) -> Result<()> {
    let layers = gate.layers();
    if let Some(from) = gate.mean_from().filter(|&from| from >= prompt_len) {
        return Err(Error::Request(format!(
            "a gate on the mean of a prompt's rows from row {from} on; the prompt has {prompt_len}"
        )));
    }
    let fits = layers.is_sorted_by(|a, b| a < b)
        && layers.last().is_some_and(|&last| last < config.num_hidden_layers);
    if fits {
        return Ok(());
    }
    Err(Error::Request(format!(
        "a gate on layers {layers:?}; expected at least one of the model's {}, ascending, each once",
        config.num_hidden_layers
    )))
}

/// What a step asks a sequence's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// About the prompt.
    Prompt,
    /// About an answer of so many tokens.
    Answer(usize),
}

/// A sequence's gate and how far it was asked.
#[derive(Debug)]
pub(super) struct GateState {
    pub(super) gate: Arc<dyn Gate>,
    /// It has said that nothing is due; a preempted sequence is not asked about its prompt again.
    pub(super) is_decided: bool,
    /// The row that it is asked about next, once it is computed: `[num_layers, hidden_size]`.
    pub(super) last: Vec<f32>,
    /// Where it reads the mean of the prompt's rows. They go on with the answer, so that the next turn of a conversation finds
    /// its history.
    pub(super) sums: Option<RowSums>,
}

impl GateState {
    pub(super) fn new(gate: Arc<dyn Gate>, block_size: usize) -> Self {
        let place = (gate.site(), gate.layers());
        let sums = gate.mean_from().map(|from| RowSums::new(place, from, block_size));
        Self { gate, is_decided: false, last: Vec::new(), sums }
    }

    /// What it is asked when the last known row is computed, after `num_generated` tokens.
    pub(super) fn question(&self, num_generated: usize) -> Option<Question> {
        if !self.is_decided {
            return Some(Question::Prompt);
        }
        let every = self.gate.recheck_every()?;
        let is_due = num_generated > 0 && num_generated.is_multiple_of(every.get());
        is_due.then_some(Question::Answer(num_generated))
    }

    /// Asks it, with what was kept of a prompt of `prompt_len` tokens or of the answer's last row.
    pub(super) fn ask(
        &mut self,
        question: Question,
        prompt_len: usize,
    ) -> Result<GateDecision, String> {
        let last = std::mem::take(&mut self.last);
        let mean = match (question, &self.sums) {
            (Question::Prompt, Some(sums)) => sums
                .mean(prompt_len)
                .ok_or_else(|| "a row whose mean its gate reads was not read".to_owned())?,
            (Question::Prompt, None) | (Question::Answer(_), _) => Vec::new(),
        };
        if !last.iter().chain(&mean).all(|value| value.is_finite()) {
            return Err("the activations that its gate reads are not finite".to_owned());
        }
        Ok(match question {
            Question::Prompt => self.gate.decide(PromptActivations { last: &last, mean: &mean }),
            Question::Answer(num_generated) => self.gate.recheck(&last, num_generated),
        })
    }

    /// Forgets what was read: all rows are computed again.
    pub(super) fn restart(&mut self) {
        self.last.clear();
        if let Some(sums) = &mut self.sums {
            sums.clear();
        }
    }
}
