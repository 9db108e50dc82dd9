//! The engine: continuous batching of prefill and decode over one model, one step at a time.
//!
//! [`Engine`] is the seam: `LlamaEngine` runs a real model, and the server's tests run a scripted
//! one. [`EngineThread`] gives an engine its own thread; everybody else holds an [`EngineHandle`].
//!
//! Architecture invariants: the engine sees token ids, never text or categories; nothing in here waits
//! for a client, a file or a socket; every queue has a bound.

mod block_key;
mod block_pool;
mod config;
mod fitting;
mod gate;
mod llama_engine;
mod outbox;
mod projection;
mod request;
mod row_sums;
mod scheduler;
mod sequence;
mod stats;
mod thread;

pub use config::EngineConfig;
pub use gate::{Gate, GateDecision, PromptActivations};
pub use llama_engine::LlamaEngine;
pub use projection::{LayerProjections, PROJECTION_RATIO_BOUNDS, SharedProjections};
pub use request::{
    Event, EventSink, Finish, FinishReason, GenerationRequest, SeqId, SinkClosed, SteeringReport,
    TokenLogprob,
};
pub use stats::{EngineStats, SharedStats};
pub use thread::{EngineHandle, EngineThread, SubmitError};

use crate::error::Result;
use crate::steering::{Registering, SlotLease, SteeringVector};

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// No sequence was waiting or running.
    Idle,
    /// One forward pass was made.
    Advanced,
}

/// A batch of sequences that advances one forward pass at a time.
pub trait Engine: Send {
    /// Queues a sequence; its events go to `sink` from the next steps on.
    ///
    /// # Errors
    /// [`crate::Error::Request`] when it can never be served (empty prompt, context, id out of
    /// range), [`crate::Error::Steering`] when its plan does not fit the tables. Nothing is queued then,
    /// and the reason went to `sink` as [`Event::Failed`].
    fn submit(&mut self, request: GenerationRequest, sink: Box<dyn EventSink>) -> Result<SeqId>;

    /// Drops a sequence and frees what it held. Unknown ids are ignored: it may have just ended.
    fn cancel(&mut self, seq_id: SeqId);

    /// Puts vectors into free slots of the steering tables, one slot a vector.
    ///
    /// # Errors
    /// [`crate::Error::Steering`] when a vector does not fit the model or no slot is free.
    fn register_vectors(&mut self, vectors: &[SteeringVector]) -> Result<SlotLease>;

    /// Begins what [`Self::register_vectors`] does at once: in parts, with steps in between.
    ///
    /// # Errors
    /// As [`Self::register_vectors`].
    fn begin_registering(&mut self, vectors: Vec<SteeringVector>) -> Result<Registering> {
        self.register_vectors(&vectors).map(Registering::done)
    }

    /// Does the next part; true when it was the last, and the lease can be handed out.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] or [`crate::Error::Device`] when the rows cannot be written.
    fn go_on_registering(&mut self, _registering: &mut Registering) -> Result<bool> {
        Ok(true)
    }

    /// Makes one forward pass over the packed batch, if there is anything to do. Its events are delivered when it returns.
    ///
    /// # Errors
    /// An error ends every sequence of the batch with [`Event::Failed`]: nothing is answered from a
    /// step that failed.
    fn step(&mut self) -> Result<StepOutcome>;

    /// [`Self::step`] for a caller that makes the next one at once: an engine may keep the events and deliver them while the next
    /// pass runs. None is kept where no pass was made, it failed, or no sequence is left.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn step_ahead(&mut self) -> Result<StepOutcome> {
        self.step()
    }

    /// Sequences queued or running.
    fn num_unfinished(&self) -> usize;

    /// Where its numbers can be read while it runs.
    fn stats(&self) -> SharedStats;

    /// Where what its live probe found can be read while it runs; empty for an engine without one.
    fn projections(&self) -> SharedProjections {
        SharedProjections::default()
    }
}
