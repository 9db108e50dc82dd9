//! What one sequence adds to the metrics: its tokens at the times the engine gave them, and its end exactly once.

use std::time::Instant;

use crate::metrics::{FinishedReason, SequenceMetrics};

/// One sequence as the metrics see it. Dropped while it runs, it was given up because the client left.
#[derive(Debug)]
pub(super) struct Meter {
    metrics: SequenceMetrics,
    arrived: Instant,
    prompt_tokens: usize,
    /// When the first token and the last one so far came.
    tokens: Option<(Instant, Instant)>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not yet with the engine: dropped, it counts nowhere.
    New,
    Running,
    Ended,
}

impl Meter {
    /// For a sequence of a request that arrived then, with a prompt of so many tokens.
    pub(super) fn new(metrics: SequenceMetrics, arrived: Instant, prompt_tokens: usize) -> Self {
        Self { metrics, arrived, prompt_tokens, tokens: None, state: State::New }
    }

    /// The engine has it.
    pub(super) fn submitted(&mut self) {
        self.state = State::Running;
    }

    /// It was handed in to be judged alone, and counts nowhere.
    pub(super) fn withdrawn(&mut self) {
        self.state = State::New;
    }

    /// The engine gave a token at `at`.
    pub(super) fn token(&mut self, at: Instant) {
        match self.tokens {
            None => {
                self.metrics.first_token(self.prompt_tokens, at.duration_since(self.arrived));
                self.tokens = Some((at, at));
            }
            Some((first, last)) => {
                self.metrics.next_token(at.duration_since(last));
                self.tokens = Some((first, at));
            }
        }
    }

    /// It ended at `at`; a second end does not count.
    pub(super) fn ended(&mut self, reason: FinishedReason, at: Instant) {
        if self.state == State::Ended {
            return;
        }
        self.state = State::Ended;
        self.metrics.finished(reason);
        if matches!(reason, FinishedReason::Stop | FinishedReason::Length) {
            let (first, last) = self.tokens.unwrap_or((at, at));
            self.metrics.times(at.duration_since(self.arrived), last.duration_since(first));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.state == State::Running {
            self.metrics.finished(FinishedReason::Abort);
        }
    }
}
