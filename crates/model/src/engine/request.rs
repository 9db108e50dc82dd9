//! What the engine is asked, and what it answers: token ids and numbers, no text.

use std::fmt;
use std::sync::Arc;

use super::gate::Gate;
use crate::sampling::SamplingParams;
use crate::steering::{SlotLease, SteeringPlan};

/// A sequence's name within one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq-{}", self.0)
    }
}

/// One sequence to generate.
#[derive(Debug, Clone)]
pub struct GenerationRequest {
    /// The rendered prompt, at least one token; with `max_new_tokens` it must fit the context.
    pub prompt_token_ids: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// The answer ends with `length` after this many tokens; at least 1.
    pub max_new_tokens: usize,
    /// Ids that end the answer with `stop`; the id itself is reported as the last token.
    pub stop_token_ids: Vec<u32>,
    /// The steering, and the lease that keeps its slots alive; `None` = not steered.
    pub steering: Option<(SteeringPlan, SlotLease)>,
    /// Who says what is due, where `steering` does not; never both.
    pub gate: Option<Arc<dyn Gate>>,
}

/// Why an answer ended (OpenAI's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was generated.
    Stop,
    /// `max_new_tokens` were generated.
    Length,
    /// The gate stopped it.
    Gated,
}

/// A token's id and its log-probability (natural log, of the model's raw logits: before penalties,
/// bias and temperature, as vLLM reports it).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token_id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What was measured at the hook for one sequence: the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SteeringReport {
    /// Prompt rows to which the plan was applied.
    pub steered_prompt_tokens: usize,
    /// Generated tokens that came from a steered row.
    pub steered_completion_tokens: usize,
    /// Largest `||strength * v|| / ||h||` over steered rows and layers, h being the row at the hook
    /// before the change; `None` where the device does not measure it or nothing was steered.
    pub max_relative_norm: Option<f32>,
    /// Index in the whole sequence of the first steered token.
    pub started_at_token: Option<usize>,
}

/// How one sequence ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Length of the prompt, in tokens.
    pub prompt_tokens: usize,
    /// Tokens generated, the stop token included.
    pub completion_tokens: usize,
    /// What steering did.
    pub steering: SteeringReport,
}

/// One event of a running sequence; at most `max_new_tokens` tokens and then one end.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A new token.
    Token {
        /// The token, with its log-probability.
        token: TokenLogprob,
        /// The most likely tokens, best first, as many as `SamplingParams::num_top_logprobs`.
        top: Vec<TokenLogprob>,
        /// What steering did up to this token, its own row included: a reader that stops here has the evidence.
        steering: SteeringReport,
    },
    /// The answer is complete.
    Finished(Finish),
    /// The sequence was given up; no further event follows. The text says why.
    Failed(String),
}

/// The receiver is gone: the sequence is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkClosed;

/// Where a sequence's events go. Must not wait: the engine thread calls it between steps. A channel
/// of `max_new_tokens + 1` places never fills.
pub trait EventSink: Send {
    /// Hands over one event.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody will read it; the engine then drops the sequence.
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed>;

    /// Whether the reader is gone, so that work for it can be dropped before there is an event.
    fn is_closed(&self) -> bool;
}
