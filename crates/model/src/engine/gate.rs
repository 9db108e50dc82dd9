//! The gate: what a request that names no steering is to be done with, decided from its own prompt's activations.
//!
//! A gated sequence is prefilled unsteered, and the row that yields its first token is copied out on the way. Its [`Gate`] looks at
//! that row before the token is sampled. If nothing is due, the token is sampled from that very step, so a gated request that
//! turns out harmless costs a copied row and has, bitwise, the answer of an unsteered one. If steering is due, the step's
//! logits are dropped and the sequence is computed again under its plan, from what the prefix cache has of it: of rows before
//! the first that the plan steers everything but the rest of a block. While an answer goes on unsteered the gate can be
//! asked again.

use std::fmt::Debug;
use std::num::NonZeroUsize;

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

/// Decides about sequences by their activations. Called on the engine's thread between passes, so it takes microseconds and waits
/// for nothing.
pub trait Gate: Send + Sync + Debug {
    /// Where in a block it reads.
    fn site(&self) -> Site;

    /// Blocks from 0 whose rows it reads, ascending, each once, at least one.
    fn layers(&self) -> &[usize];

    /// Decides by row P-1 of the prompt, `[num_layers * hidden_size]`, layer by layer, computed unsteered. A sequence that is
    /// preempted before its first token may be asked about again.
    fn decide(&self, activations: &[f32]) -> GateDecision;

    /// Generated tokens between looks at an answer that goes on unsteered; `None` = it is not looked at.
    fn recheck_every(&self) -> Option<NonZeroUsize> {
        None
    }

    /// Decides by the row of the last of `num_generated` tokens. A plan whose positions are `prompt` fails the sequence.
    fn recheck(&self, _activations: &[f32], _num_generated: usize) -> GateDecision {
        GateDecision::Unsteered
    }
}

/// Refuses a gate that reads what the model does not have.
pub(super) fn check(gate: &dyn Gate, config: &LlamaConfig) -> Result<()> {
    let layers = gate.layers();
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
    pub(super) gate: std::sync::Arc<dyn Gate>,
    /// It has said what is due; a preempted sequence is not asked about again.
    pub(super) is_decided: bool,
}

impl GateState {
    /// What is to be asked in a step that computes the last known row of an unsteered sequence with so many generated tokens.
    pub(super) fn question(&self, num_generated: usize) -> Option<Question> {
        if !self.is_decided {
            return Some(Question::Prompt);
        }
        let every = self.gate.recheck_every()?;
        let is_due = num_generated > 0 && num_generated.is_multiple_of(every.get());
        is_due.then_some(Question::Answer(num_generated))
    }
}
