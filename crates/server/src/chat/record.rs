//! One request's line of the decision log, written exactly once: at its end, or when it is dropped before.

use crate::auth::Caller;
use crate::decision_log::{DecisionLine, DecisionLog};
use crate::errors::ApiError;
use crate::kill_switch::OverrideAction;
use crate::resolve::Resolution;
use crate::state::unix_time;

use super::sequences::{Sequences, Taken};

/// What is known of the request so far.
#[derive(Debug)]
pub(super) struct Record {
    log: Option<DecisionLog>,
    request_id: String,
    caller: Caller,
    category: String,
    source: &'static str,
    generation: String,
    action: &'static str,
    strength: Vec<f32>,
    overridden: Option<OverrideAction>,
    steered_prompt_tokens: usize,
    steered_completion_tokens: usize,
    completion_tokens: usize,
    outcome: String,
}

impl Record {
    pub(super) fn new(
        log: Option<DecisionLog>,
        request_id: String,
        caller: Caller,
        resolution: &Resolution,
        generation: &str,
    ) -> Self {
        Self {
            log,
            request_id,
            caller,
            category: resolution.label(),
            source: resolution.source.as_str(),
            generation: generation.to_owned(),
            action: resolution.decision.as_str(),
            strength: resolution.categories.iter().map(|category| category.strength).collect(),
            overridden: resolution.overridden,
            steered_prompt_tokens: 0,
            steered_completion_tokens: 0,
            completion_tokens: 0,
            // What is the case if nobody says otherwise before the drop.
            outcome: "client_closed".to_owned(),
        }
    }

    /// Notes what was done so far; the last note counts, whether or not the answer comes to its end.
    pub(super) fn took(&mut self, sequences: &Sequences) {
        let sum = |count: fn(&Taken) -> usize| sequences.taken().map(|taken| count(&taken)).sum();
        self.steered_prompt_tokens = sum(|taken| taken.report.steered_prompt_tokens);
        self.steered_completion_tokens = sum(|taken| taken.report.steered_completion_tokens);
        self.completion_tokens = sum(|taken| taken.completion_tokens);
    }

    /// The answer was given.
    pub(super) fn finished(mut self, outcome: &'static str) {
        outcome.clone_into(&mut self.outcome);
    }

    /// The request was not answered.
    pub(super) fn failed(&mut self, error: &ApiError) {
        self.outcome = format!("failed:{}", error.code());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(log) = &self.log else { return };
        log.record(DecisionLine {
            unix_ms: u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX),
            request_id: &self.request_id,
            principal: &self.caller.name,
            group: &self.caller.group,
            category: std::mem::take(&mut self.category),
            source: self.source,
            confidence: None,
            generation: std::mem::take(&mut self.generation),
            action: self.action,
            strength: std::mem::take(&mut self.strength),
            steered_prompt_tokens: self.steered_prompt_tokens,
            steered_completion_tokens: self.steered_completion_tokens,
            completion_tokens: self.completion_tokens,
            outcome: std::mem::take(&mut self.outcome),
            overridden: self.overridden,
            lost_before: 0,
        });
    }
}
