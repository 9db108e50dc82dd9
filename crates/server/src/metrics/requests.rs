//! Chat requests by what was decided and how they ended. Labels are the policy's categories and words of this program: a request
//! counts once a [`Resolution`] stands, and what a client wrote is in no label.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::resolve::{Decision, Resolution};

/// The label of a request with more than one category: their combinations have no bound. No category can have this name, since
/// slugs hold letters, digits and underscores alone.
const SEVERAL: &str = "<several>";

const REQUESTS_HELP: &str = "Chat requests whose category was resolved, one for each line of the decision log; category: one of \
    the policy's, none, or <several>; source: header, body, auto or default; outcome: steered, unsteered (no category), shadow (action \
    log), refused (by the policy's text), rejected (answered 4xx), failed (5xx, or an error frame) or client_closed";
const TOKENS_HELP: &str = "Tokens that were steered, over all answers of a request, those included that did not come to their end; \
    phase: prompt or completion";

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered as it was decided.
    Served,
    /// Answered with an error that is the client's to mend, or that asks it to wait.
    Rejected,
    /// Answered with an error of ours.
    Failed,
    /// The client left before the end.
    ClientClosed,
}

/// Counters of requests; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestMetrics {
    requests: Family<RequestLabels, Counter>,
    steered_tokens: Family<TokenLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    category: String,
    source: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    category: String,
    phase: &'static str,
}

impl RequestMetrics {
    /// Counts one request with the tokens that were steered for it, in prompts and in answers.
    pub(crate) fn count(
        &self,
        resolution: &Resolution,
        outcome: Outcome,
        steered_prompt_tokens: usize,
        steered_completion_tokens: usize,
    ) {
        let category = category(resolution);
        let labels = RequestLabels {
            category: category.to_owned(),
            source: resolution.source.as_str(),
            outcome: word(outcome, &resolution.decision),
        };
        self.requests.get_or_create(&labels).inc();
        let phases = [("prompt", steered_prompt_tokens), ("completion", steered_completion_tokens)];
        for (phase, tokens) in phases.into_iter().filter(|&(_, tokens)| tokens > 0) {
            let labels = TokenLabels { category: category.to_owned(), phase };
            let tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
            self.steered_tokens.get_or_create(&labels).inc_by(tokens);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("skeg_requests", REQUESTS_HELP, self.requests.clone());
        registry.register("skeg_steered_tokens", TOKENS_HELP, self.steered_tokens.clone());
    }
}

fn category(resolution: &Resolution) -> &str {
    match resolution.categories.as_slice() {
        [] => "none",
        [category] => &category.slug,
        _ => SEVERAL,
    }
}

fn word(outcome: Outcome, decision: &Decision) -> &'static str {
    match (outcome, decision) {
        (Outcome::Served, Decision::Steer) => "steered",
        (Outcome::Served, Decision::Unsteered) => "unsteered",
        (Outcome::Served, Decision::Shadow) => "shadow",
        (Outcome::Served, Decision::Refuse(_)) => "refused",
        (Outcome::Rejected, _) => "rejected",
        (Outcome::Failed, _) => "failed",
        (Outcome::ClientClosed, _) => "client_closed",
    }
}
