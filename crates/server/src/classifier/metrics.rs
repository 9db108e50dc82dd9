//! How often the classifier behind an endpoint is asked, what comes of it, and how long that takes.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use skeg_lab::Error;
use skeg_lab::probe::Verdict;

use super::OnFailure;

const REQUESTS_HELP: &str = "Verdicts that the classifier behind an endpoint was asked for; outcome: ok, timeout (also where no \
    place was free in time) or error";
const UNANSWERED_HELP: &str = "Requests without a verdict by what was done: refuse (503), abstain (the policy's on_abstain) or \
    none (no category)";
const DURATION_HELP: &str =
    "Time for a verdict of the classifier behind an endpoint, waiting for a place included";
const WAITING_HELP: &str = "Requests that wait for a place at the classifier behind an endpoint";

/// Upper bounds in seconds: from a small classifier beside the server to a guard model that is busy.
const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    Timeout,
    Error,
}

impl Outcome {
    pub(super) fn of(verdict: &Result<Verdict, Error>) -> Self {
        match verdict {
            Ok(_) => Self::Ok,
            Err(Error::Classifier { timed_out: true, .. }) => Self::Timeout,
            Err(_) => Self::Error,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OnFailureLabel {
    on_failure: &'static str,
}

/// Numbers of the classifier; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ClassifierMetrics {
    requests: Family<OutcomeLabel, Counter>,
    unanswered: Family<OnFailureLabel, Counter>,
    seconds: Histogram,
    waiting: Gauge,
}

impl Default for ClassifierMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            unanswered: Family::default(),
            seconds: Histogram::new(SECONDS),
            waiting: Gauge::default(),
        }
    }
}

/// A request that waits for a place, as long as it lives.
#[derive(Debug)]
pub(super) struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ClassifierMetrics {
    /// A request begins to wait.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }

    /// The classifier was asked.
    pub(super) fn asked(&self, outcome: Outcome, took: Duration) {
        self.requests.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A request was settled without a verdict.
    pub(super) fn unanswered(&self, on_failure: OnFailure) {
        self.unanswered.get_or_create(&OnFailureLabel { on_failure: on_failure.as_str() }).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("skeg_classifier_requests", REQUESTS_HELP, self.requests.clone());
        registry.register("skeg_classifier_unanswered", UNANSWERED_HELP, self.unanswered.clone());
        registry.register_with_unit(
            "skeg_classifier_duration",
            DURATION_HELP,
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register("skeg_classifier_waiting", WAITING_HELP, self.waiting.clone());
    }
}
