//! What `skeg bench gpu` found: figures with their limits, what was left out and why, as JSON and as tables.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::super::machine::Machine;
use super::super::pairs::Cost;
use super::super::stats::{Percentiles, Spread};
use super::super::throughput::Throughput;
use super::super::{Subject, print_head, steering};
use super::roofline::{Limit, Roofline, Work};
use crate::output::{self, Table};

/// Everything that was measured in one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) subject: Subject,
    pub(super) machine: Machine,
    pub(super) seed: u64,
    /// What reading and checking the files took.
    pub(super) load_seconds: f64,
    pub(super) roofline: Roofline,
    /// Bytes copied a second, read and written counted.
    pub(super) copies: Rate,
    /// Floating-point operations a second.
    pub(super) products: Rate,
    pub(super) prefill: Vec<Passes>,
    pub(super) decode: Vec<Passes>,
    pub(super) steering: Vec<Cost>,
    pub(super) swap: Option<Swap>,
    pub(super) served: Vec<Served>,
    /// What does not fit the model's context, the memory or the time.
    pub(super) left_out: Vec<LeftOut>,
    /// What was begun and ended with an error.
    pub(super) failed: Vec<LeftOut>,
    pub(super) seconds: f64,
}

/// A limit of the device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Rate {
    pub(super) what: String,
    pub(super) per_second: Spread,
}

/// Forward passes of one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Passes {
    #[serde(flatten)]
    pub(super) throughput: Throughput,
    /// Of one pass, median.
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) work: Work,
    #[serde(flatten)]
    pub(super) limit: Limit,
    /// The limit over the time.
    pub(super) share_of_limit: f64,
}

/// What registering vectors does to the steps of running sequences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Swap {
    pub(super) num_seqs: usize,
    /// Vectors of one registration, each for every layer.
    pub(super) vectors: usize,
    /// Their numbers in f32.
    pub(super) bytes: usize,
    pub(super) registrations: usize,
    /// From asking for slots to having them, a step in progress included.
    pub(super) register_seconds: Percentiles,
    pub(super) steps: usize,
    /// From a token of one sequence to its next.
    pub(super) step_seconds: Percentiles,
    /// The same without registrations.
    pub(super) quiet_step_seconds: Percentiles,
}

/// A load on an engine whose sequences end at different times and are followed by others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Served {
    /// Sequences that run at once.
    pub(super) num_seqs: usize,
    /// Vectors that the sequences take in turn, each for every layer; 0 = not steered.
    pub(super) vectors: usize,
    pub(super) requests: usize,
    pub(super) prompt_tokens: usize,
    pub(super) generated_tokens: usize,
    pub(super) seconds: f64,
    pub(super) tokens_per_second: f64,
    /// All prompts in one pass, and every token in a full batch at the mean context.
    pub(super) limit_seconds: f64,
    pub(super) share_of_limit: f64,
}

/// What was not measured, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LeftOut {
    pub(super) what: String,
    pub(super) reason: String,
}

impl Passes {
    /// What was measured of passes of `rows_per_pass` rows in all, beside their limit.
    pub(super) fn new(
        throughput: Throughput,
        rows_per_pass: usize,
        work: Work,
        limit: Limit,
    ) -> Self {
        let seconds = rows_per_pass as f64 / throughput.tokens_per_second.median;
        Self { throughput, seconds, work, limit, share_of_limit: limit.limit_seconds / seconds }
    }

    fn cells(&self, what: String) -> Vec<String> {
        let by = format!("{:?}", self.limit.limited_by).to_lowercase();
        vec![
            what,
            milliseconds(self.seconds),
            format!("{:.1}", self.throughput.tokens_per_second.median),
            format!("{:.2}", self.work.bytes / 1e9),
            format!("{:.2}", self.work.flops / 1e12),
            format!("{} ({by})", milliseconds(self.limit.limit_seconds)),
            percent(self.share_of_limit),
        ]
    }
}

impl Report {
    /// Writes it as JSON, in place of what was there.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        print_head(&self.subject, &self.machine)?;
        for (rate, unit) in [(&self.copies, "GB/s"), (&self.products, "GFLOP/s")] {
            let Spread { median, min, max } = rate.per_second;
            let [median, min, max] = [median, min, max].map(|rate| rate / 1e9);
            output::line(&format!("{}: {median:.1} {unit} ({min:.1}..{max:.1})", rate.what))?;
        }
        let header = ["WHAT", "MS", "TOK/S", "GB", "TFLOP", "LIMIT MS", "OF LIMIT"];
        let mut table = Table::new(&header);
        for passes in &self.prefill {
            table.row(passes.cells(format!("prefill {}", passes.throughput.timed_tokens)));
        }
        for passes in &self.decode {
            let Throughput { num_seqs, context_tokens, .. } = passes.throughput;
            table.row(passes.cells(format!("decode {num_seqs} at {context_tokens}")));
        }
        for served in &self.served {
            table.row(served.cells());
        }
        table.print()?;
        if !self.steering.is_empty() {
            steering::table(&self.steering).print()?;
        }
        self.swap.as_ref().map_or(Ok(()), Swap::print)?;
        for (what, list) in [("left out", &self.left_out), ("FAILED", &self.failed)] {
            for LeftOut { what: name, reason } in list {
                output::line(&format!("{what}: {name}: {reason}"))?;
            }
        }
        Ok(output::line(&format!(
            "loaded in {:.1} s, measured in {:.1} s",
            self.load_seconds, self.seconds
        ))?)
    }
}

impl Served {
    fn cells(&self) -> Vec<String> {
        let Self { num_seqs, vectors, .. } = self;
        vec![
            format!("served {num_seqs}, {vectors} vectors"),
            milliseconds(self.seconds),
            format!("{:.1}", self.tokens_per_second),
            "-".to_owned(),
            "-".to_owned(),
            milliseconds(self.limit_seconds),
            percent(self.share_of_limit),
        ]
    }
}

impl Swap {
    fn print(&self) -> anyhow::Result<()> {
        let mut table = Table::new(&["SWAP UNDER LOAD", "P50 MS", "P95 MS", "P99 MS"]);
        let rows = [
            (format!("step of {} sequences", self.num_seqs), self.quiet_step_seconds),
            ("the same, with registrations".to_owned(), self.step_seconds),
            (format!("registering {} vectors", self.vectors), self.register_seconds),
        ];
        for (name, Percentiles { p50, p95, p99 }) in rows {
            let times = [p50, p95, p99].map(milliseconds);
            table.row([vec![name], times.to_vec()].concat());
        }
        Ok(table.print()?)
    }
}

/// Three digits after the point, as a step of a small model needs.
pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", 1e3 * seconds)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
