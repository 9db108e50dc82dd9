//! The figures of one level of load.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::stats::{Percentiles, median};
use super::client::{Answer, Failure};

/// What one level was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli::bench) enum Load {
    /// Closed loop: so many clients, each with one request at a time.
    Clients(usize),
    /// Open loop: so many requests a second on average, whatever becomes of them.
    Rate(f64),
}

/// What happened in it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) elapsed: Duration,
    pub(super) outcomes: Vec<Result<Answer, Failure>>,
    /// Arrivals that were not sent because too many requests were in flight.
    pub(super) num_not_sent: usize,
}

/// What is said of it. Latencies are in seconds and of answered requests alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli::bench) struct Level {
    pub(in crate::cli::bench) load: Load,
    /// From the first request to the last answer.
    pub(in crate::cli::bench) seconds: f64,
    pub(in crate::cli::bench) num_answered: usize,
    /// By HTTP status, or `timeout`, `connection`, `stream`.
    pub(in crate::cli::bench) failures: BTreeMap<String, usize>,
    /// Arrivals dropped at the bound of requests in flight.
    pub(in crate::cli::bench) num_not_sent: usize,
    pub(in crate::cli::bench) output_tokens: usize,
    /// Answers whose tokens the server counted; the others' were counted by chunk.
    pub(in crate::cli::bench) num_with_usage: usize,
    pub(in crate::cli::bench) median_prompt_tokens: Option<f64>,
    pub(in crate::cli::bench) output_tokens_per_second: f64,
    pub(in crate::cli::bench) answers_per_second: f64,
    pub(in crate::cli::bench) time_to_first_token_seconds: Option<Percentiles>,
    pub(in crate::cli::bench) inter_token_latency_seconds: Option<Percentiles>,
    pub(in crate::cli::bench) end_to_end_latency_seconds: Option<Percentiles>,
    /// The first failure's own words.
    #[serde(skip)]
    pub(in crate::cli::bench) first_failure: Option<Failure>,
}

impl Level {
    pub(super) fn of(load: Load, run: &Run) -> Self {
        let answers: Vec<&Answer> = run.outcomes.iter().flatten().collect();
        let mut failures = BTreeMap::new();
        for failure in run.outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            *failures.entry(failure.kind.clone()).or_insert(0) += 1;
        }
        let seconds = run.elapsed.as_secs_f64();
        let per_second = |number: usize| if seconds > 0.0 { number as f64 / seconds } else { 0.0 };
        let output_tokens = answers.iter().map(|answer| answer.output_tokens()).sum();
        let usages: Vec<f64> = answers
            .iter()
            .filter_map(|answer| answer.usage.map(|usage| usage.prompt_tokens as f64))
            .collect();
        let first_tokens: Vec<f64> =
            answers.iter().filter_map(|answer| answer.time_to_first_token).collect();
        let gaps: Vec<f64> =
            answers.iter().flat_map(|answer| answer.inter_token.iter().copied()).collect();
        let totals: Vec<f64> = answers.iter().map(|answer| answer.end_to_end).collect();
        Self {
            load,
            seconds,
            num_answered: answers.len(),
            failures,
            num_not_sent: run.num_not_sent,
            output_tokens,
            num_with_usage: usages.len(),
            median_prompt_tokens: median(&usages),
            output_tokens_per_second: per_second(output_tokens),
            answers_per_second: per_second(answers.len()),
            time_to_first_token_seconds: Percentiles::of(&first_tokens),
            inter_token_latency_seconds: Percentiles::of(&gaps),
            end_to_end_latency_seconds: Percentiles::of(&totals),
            first_failure: run.outcomes.iter().find_map(|outcome| outcome.clone().err()),
        }
    }

    pub(in crate::cli::bench) fn num_failed(&self) -> usize {
        self.failures.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Usage;
    use super::*;

    #[test]
    fn failures_count_for_no_rate_and_no_latency() {
        let answer = Answer {
            time_to_first_token: Some(0.5),
            inter_token: vec![0.1, 0.3],
            end_to_end: 0.9,
            num_chunks: 3,
            usage: Some(Usage { prompt_tokens: 20, completion_tokens: 4 }),
        };
        let without_usage = Answer { usage: None, ..answer.clone() };
        let failure = |kind: &str| Failure { kind: kind.to_owned(), reason: "no".to_owned() };
        let outcomes = vec![
            Ok(answer),
            Err(failure("429")),
            Ok(without_usage),
            Err(failure("timeout")),
            Err(failure("429")),
        ];
        let run = Run { elapsed: Duration::from_secs(2), outcomes, num_not_sent: 1 };
        let level = Level::of(Load::Clients(4), &run);
        assert_eq!((level.num_answered, level.num_failed(), level.num_not_sent), (2, 3, 1));
        assert_eq!(level.failures, [("429".to_owned(), 2), ("timeout".to_owned(), 1)].into());
        // 4 by the server's count, 3 by chunks.
        assert_eq!((level.output_tokens, level.num_with_usage), (7, 1));
        assert!((level.output_tokens_per_second - 3.5).abs() < 1e-9);
        assert!((level.inter_token_latency_seconds.unwrap().p50 - 0.2).abs() < 1e-9);
        assert_eq!(level.first_failure, Some(failure("429")));
    }

    #[test]
    fn a_level_without_answers_has_no_latency() {
        let run = Run { elapsed: Duration::ZERO, outcomes: Vec::new(), num_not_sent: 0 };
        let level = Level::of(Load::Rate(2.0), &run);
        assert_eq!(level.end_to_end_latency_seconds, None);
        assert_eq!(level.output_tokens_per_second.to_bits(), 0.0_f64.to_bits());
    }
}
