//! Sequences of the engine: how they ended, their tokens and their times, under vLLM's names and with vLLM's buckets
//! (`vllm/v1/metrics/loggers.py`), so that its dashboards work. As in vLLM each of a request's `n` answers is a sequence.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// In seconds, as all bounds here.
const FIRST_TOKEN_BOUNDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN_BOUNDS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const REQUEST_BOUNDS: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

const FINISHED_HELP: &str = "Sequences that ended; finished_reason: stop, length, content_filter (a look at the answer ended it), abort (the client left) or error";
const PROMPT_HELP: &str =
    "Prompt tokens of sequences that came to their first token, cached ones included";
const GENERATION_HELP: &str = "Tokens generated";
const FIRST_TOKEN_HELP: &str = "Time from the request to a sequence's first token, in seconds";
const INTER_TOKEN_HELP: &str = "Time from one token of a sequence to its next, in seconds";
const E2E_HELP: &str =
    "Time from the request to the end of a sequence that ended by stop or length, in seconds";
const DECODE_HELP: &str =
    "Time from the first token to the last of a sequence that ended by stop or length, in seconds";

/// Why a sequence ended, in vLLM's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FinishedReason {
    Stop,
    Length,
    /// The gate ended it.
    ContentFilter,
    /// The client left.
    Abort,
    Error,
}

impl FinishedReason {
    const ALL: [Self; 5] =
        [Self::Stop, Self::Length, Self::ContentFilter, Self::Abort, Self::Error];

    /// vLLM's word; OpenAI's where the client is told.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// Numbers of sequences; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct SequenceMetrics {
    finished: Family<FinishedLabel, Counter>,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    first_token: Histogram,
    inter_token: Histogram,
    e2e: Histogram,
    decode: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishedLabel {
    finished_reason: &'static str,
}

impl Default for SequenceMetrics {
    fn default() -> Self {
        let finished = Family::<FinishedLabel, Counter>::default();
        // There from the start: an increase from nothing would not be seen.
        for reason in FinishedReason::ALL {
            drop(finished.get_or_create(&FinishedLabel { finished_reason: reason.as_str() }));
        }
        Self {
            finished,
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            first_token: Histogram::new(FIRST_TOKEN_BOUNDS),
            inter_token: Histogram::new(INTER_TOKEN_BOUNDS),
            e2e: Histogram::new(REQUEST_BOUNDS),
            decode: Histogram::new(REQUEST_BOUNDS),
        }
    }
}

impl SequenceMetrics {
    /// A sequence with this prompt came to its first token so long after the request.
    pub(crate) fn first_token(&self, prompt_tokens: usize, after: Duration) {
        self.prompt_tokens.inc_by(u64::try_from(prompt_tokens).unwrap_or(u64::MAX));
        self.generation_tokens.inc();
        self.first_token.observe(after.as_secs_f64());
    }

    /// A sequence came to a token so long after the one before.
    pub(crate) fn next_token(&self, after: Duration) {
        self.generation_tokens.inc();
        self.inter_token.observe(after.as_secs_f64());
    }

    /// A sequence ended.
    pub(crate) fn finished(&self, reason: FinishedReason) {
        self.finished.get_or_create(&FinishedLabel { finished_reason: reason.as_str() }).inc();
    }

    /// The times of a sequence that ended by itself: from the request, and from its first token to its last.
    pub(crate) fn times(&self, e2e: Duration, decode: Duration) {
        self.e2e.observe(e2e.as_secs_f64());
        self.decode.observe(decode.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("vllm:request_success", FINISHED_HELP, self.finished.clone());
        for (name, help, counter) in [
            ("vllm:prompt_tokens", PROMPT_HELP, &self.prompt_tokens),
            ("vllm:generation_tokens", GENERATION_HELP, &self.generation_tokens),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, histogram) in [
            ("vllm:time_to_first_token_seconds", FIRST_TOKEN_HELP, &self.first_token),
            ("vllm:inter_token_latency_seconds", INTER_TOKEN_HELP, &self.inter_token),
            ("vllm:e2e_request_latency_seconds", E2E_HELP, &self.e2e),
            ("vllm:request_decode_time_seconds", DECODE_HELP, &self.decode),
        ] {
            registry.register(name, help, histogram.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn times_fall_into_vllm_s_buckets() {
        let metrics = SequenceMetrics::default();
        metrics.first_token(19, Duration::from_millis(30));
        metrics.next_token(Duration::from_millis(12));
        metrics.next_token(Duration::from_millis(60));
        metrics.finished(FinishedReason::Length);
        metrics.times(Duration::from_millis(700), Duration::from_millis(72));
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "vllm:prompt_tokens_total 19",
            "vllm:generation_tokens_total 3",
            "vllm:request_success_total{finished_reason=\"length\"} 1",
            "vllm:request_success_total{finished_reason=\"stop\"} 0",
            "vllm:request_success_total{finished_reason=\"abort\"} 0",
            "vllm:request_success_total{finished_reason=\"error\"} 0",
            "vllm:time_to_first_token_seconds_bucket{le=\"0.02\"} 0",
            "vllm:time_to_first_token_seconds_bucket{le=\"0.04\"} 1",
            "vllm:inter_token_latency_seconds_bucket{le=\"0.025\"} 1",
            "vllm:inter_token_latency_seconds_bucket{le=\"0.075\"} 2",
            "vllm:e2e_request_latency_seconds_bucket{le=\"0.5\"} 0",
            "vllm:e2e_request_latency_seconds_bucket{le=\"0.8\"} 1",
            "vllm:request_decode_time_seconds_bucket{le=\"0.3\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let num_buckets = |name: &str| text.matches(&format!("{name}_bucket")).count();
        assert_eq!(num_buckets("vllm:time_to_first_token_seconds"), FIRST_TOKEN_BOUNDS.len() + 1);
    }
}
