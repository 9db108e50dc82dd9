//! The gate: what a request that names no steering is to be done with, decided from its own prompt's activations.
//!
//! A gated sequence is prefilled unsteered, and the last rows of its prompt are copied out on the way. Its [`Gate`] looks at
//! them before the first token is sampled. If nothing is due, the token is sampled from that very step, so a gated request that
//! turns out harmless costs a few copied rows and has, bitwise, the answer of an unsteered one. If steering is due, the step's
//! logits are dropped and the sequence is computed again from the first row that its plan steers: the whole prompt, with what
//! the prefix cache has of it, or for `generation` row P-1 alone (with the rest of its block where that block is full, since
//! others may read it by then). While an answer goes on unsteered the gate can be asked again.

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;

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

/// The most rows of a prompt that a gate may read, which bounds what is copied and kept of a sequence.
pub const MAX_GATE_ROWS: usize = 64;

/// Decides about sequences by their activations. Called on the engine's thread between passes, so it takes microseconds and waits
/// for nothing.
pub trait Gate: Send + Sync + Debug {
    /// Where in a block it reads.
    fn site(&self) -> Site;

    /// Blocks from 0 whose rows it reads, ascending, each once, at least one.
    fn layers(&self) -> &[usize];

    /// How many of the prompt's last rows [`Self::decide`] reads, at most [`MAX_GATE_ROWS`]; of a shorter prompt all. The prefix
    /// cache gives none of them, so they are computed each time.
    fn last_rows(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// Decides by the last rows of the prompt, computed unsteered; row P-1 is the last of them. Called once a sequence.
    ///
    /// # Shapes
    /// - `activations`: `[min(last_rows, P), num_layers, hidden_size]`, finite
    fn decide(&self, activations: &[f32]) -> GateDecision;

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

/// Refuses a gate that reads what the model does not have.
pub(super) fn check(gate: &dyn Gate, config: &LlamaConfig) -> Result<()> {
    let (layers, last_rows) = (gate.layers(), gate.last_rows());
    if last_rows.get() > MAX_GATE_ROWS {
        return Err(Error::Request(format!(
            "a gate on the last {last_rows} rows of a prompt; expected at most {MAX_GATE_ROWS}"
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
    /// The prompt's rows that it reads, of chunks before the last: `[num_rows, num_layers, hidden_size]`.
    pub(super) read: Vec<f32>,
}

impl GateState {
    pub(super) fn new(gate: Arc<dyn Gate>) -> Self {
        Self { gate, is_decided: false, read: Vec::new() }
    }

    /// Known tokens, from the end of `prompt_len` and `num_generated`, whose rows it reads when the last of them is computed, and
    /// what it is asked then.
    pub(super) fn reads(
        &self,
        prompt_len: usize,
        num_generated: usize,
    ) -> Option<(usize, Question)> {
        if !self.is_decided {
            return Some((self.gate.last_rows().get().min(prompt_len), Question::Prompt));
        }
        let every = self.gate.recheck_every()?;
        let is_due = num_generated > 0 && num_generated.is_multiple_of(every.get());
        is_due.then_some((1, Question::Answer(num_generated)))
    }
}
