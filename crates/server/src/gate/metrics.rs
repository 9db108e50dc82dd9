//! What the gate takes and how sure it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

const TEXT_HELP: &str = "Time for the text scores of a gated request, before the engine has it";
const PROBE_HELP: &str = "Time for the verdict of a gated request, on the engine's thread";
const CONFIDENCE_HELP: &str = "Probability of harm of gated requests, by the generation's probe or the classifier behind an \
    endpoint";
const RECHECKS_HELP: &str = "Looks at answers to prompts that were found harmless; outcome: harmless, steered (from there on), stopped \
    (policy refuses what was found), shadow (action log) or not_steerable (policy steers its prompts alone)";

/// What a look at an answer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recheck {
    Harmless,
    Steered,
    Stopped,
    Shadow,
    NotSteerable,
}

impl Recheck {
    fn as_str(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Steered => "steered",
            Self::Stopped => "stopped",
            Self::Shadow => "shadow",
            Self::NotSteerable => "not_steerable",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecheckLabel {
    outcome: &'static str,
}

/// Upper bounds in seconds: microseconds for n-grams and probe, milliseconds for a sentence embedder or an endpoint.
const SECONDS: [f64; 12] =
    [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5];
const CONFIDENCES: [f64; 11] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99];

/// Numbers of gated requests; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct GateMetrics {
    text: Histogram,
    probe: Histogram,
    confidence: Histogram,
    rechecks: Family<RecheckLabel, Counter>,
    /// The log has said that a category is not steered in mid-answer.
    has_warned: Arc<AtomicBool>,
}

impl Default for GateMetrics {
    fn default() -> Self {
        Self {
            text: Histogram::new(SECONDS),
            probe: Histogram::new(SECONDS),
            confidence: Histogram::new(CONFIDENCES),
            rechecks: Family::default(),
            has_warned: Arc::default(),
        }
    }
}

impl GateMetrics {
    /// The text of a request was scored.
    pub(crate) fn scored(&self, took: Duration) {
        self.text.observe(took.as_secs_f64());
    }

    /// A verdict fell.
    pub(crate) fn judged(&self, took: Duration, harm: f32) {
        self.probe.observe(took.as_secs_f64());
        self.found(harm);
    }

    /// Somebody said how likely harm is.
    pub(crate) fn found(&self, harm: f32) {
        self.confidence.observe(f64::from(harm));
    }

    /// An answer was looked at.
    pub(super) fn rechecked(&self, outcome: Recheck) {
        self.rechecks.get_or_create(&RecheckLabel { outcome: outcome.as_str() }).inc();
    }

    /// Says once that policy has no row left to steer in an answer.
    pub(super) fn warn_not_steerable(&self, category: &str) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                category,
                "an answer was found harmful and goes on: the policy steers this category in prompts alone; `positions` of `all` or \
                 `generation` would steer it from there on (said once)"
            );
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let mut seconds = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds("skeg_probe_text_duration", TEXT_HELP, &self.text);
        seconds("skeg_probe_duration", PROBE_HELP, &self.probe);
        registry.register("skeg_probe_confidence", CONFIDENCE_HELP, self.confidence.clone());
        registry.register("skeg_gate_rechecks", RECHECKS_HELP, self.rechecks.clone());
    }
}
