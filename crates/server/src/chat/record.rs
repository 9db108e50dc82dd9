//! One request's line of the decision log and its count in the metrics, from the same facts and each exactly once: at its end, or when
//! it is dropped before.

use std::sync::Arc;

use crate::auth::Caller;
use crate::decision_log::{DecisionLine, DecisionLog};
use crate::errors::ApiError;
use crate::gate::MidAnswer;
use crate::metrics::{Outcome, RequestMetrics};
use crate::resolve::{Decision, Resolution};
use crate::state::{App, unix_time};

use super::sequences::{Sequences, Taken};

/// What is known of the request so far.
#[derive(Debug)]
pub(super) struct Record {
    log: Option<DecisionLog>,
    metrics: RequestMetrics,
    request_id: String,
    caller: Caller,
    resolution: Resolution,
    generation: String,
    steered_prompt_tokens: usize,
    steered_completion_tokens: usize,
    completion_tokens: usize,
    /// What looks at the answers changed.
    found: Option<Arc<MidAnswer>>,
    outcome: Outcome,
    /// The code of the error that it was answered with.
    error_code: &'static str,
}

impl Record {
    pub(super) fn new(
        app: &App,
        request_id: String,
        caller: Caller,
        resolution: Resolution,
        generation: String,
    ) -> Self {
        Self {
            log: app.decision_log.clone(),
            metrics: app.operations.requests.clone(),
            request_id,
            caller,
            resolution,
            generation,
            steered_prompt_tokens: 0,
            steered_completion_tokens: 0,
            completion_tokens: 0,
            found: None,
            // What is the case if nobody says otherwise before the drop.
            outcome: Outcome::ClientClosed,
            error_code: "",
        }
    }

    /// The gate has settled what was open.
    pub(super) fn settled(&mut self, resolution: Resolution) {
        self.resolution = resolution;
    }

    /// Notes what was done so far; the last note counts, whether or not the answer comes to its end.
    pub(super) fn took(&mut self, sequences: &Sequences) {
        let sum = |count: fn(&Taken) -> usize| sequences.taken().map(|taken| count(&taken)).sum();
        self.steered_prompt_tokens = sum(|taken| taken.report.steered_prompt_tokens);
        self.steered_completion_tokens = sum(|taken| taken.report.steered_completion_tokens);
        self.completion_tokens = sum(|taken| taken.completion_tokens);
        self.found = sequences.strictest_found();
    }

    /// What held in the end.
    fn resolution(&self) -> &Resolution {
        self.found.as_deref().map_or(&self.resolution, |found| &found.resolution)
    }

    /// The answer was given.
    pub(super) fn finished(mut self) {
        self.outcome = Outcome::Served;
    }

    /// The request was not answered.
    pub(super) fn failed(&mut self, error: &ApiError) {
        self.error_code = error.code();
        self.outcome = if error.is_of_the_server() { Outcome::Failed } else { Outcome::Rejected };
    }

    /// The log's word for the end.
    fn outcome(&self) -> String {
        match (self.outcome, &self.resolution().decision) {
            (Outcome::Served, Decision::Refuse(_)) => "refused".to_owned(),
            (Outcome::Served, _) => "completed".to_owned(),
            (Outcome::Rejected | Outcome::Failed, _) => format!("failed:{}", self.error_code),
            (Outcome::ClientClosed, _) => "client_closed".to_owned(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let resolution = self.resolution();
        self.metrics.count(
            resolution,
            self.outcome,
            self.steered_prompt_tokens,
            self.steered_completion_tokens,
        );
        let Some(log) = &self.log else { return };
        log.record(DecisionLine {
            unix_ms: u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX),
            request_id: &self.request_id,
            principal: &self.caller.name,
            group: &self.caller.group,
            category: resolution.label(),
            source: resolution.source.as_str(),
            confidence: resolution.confidence,
            classifier: resolution.classifier(),
            generation: &self.generation,
            action: resolution.decision.as_str(),
            strength: resolution.categories.iter().map(|category| category.strength).collect(),
            steered_prompt_tokens: self.steered_prompt_tokens,
            steered_completion_tokens: self.steered_completion_tokens,
            completion_tokens: self.completion_tokens,
            steered_from: self.found.as_deref().and_then(MidAnswer::steered_from),
            outcome: self.outcome(),
            overridden: resolution.overridden,
            lost_before: 0,
        });
    }
}
