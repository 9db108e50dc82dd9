//! `skeg bench gpu`: how near a model comes to what its device can do at most, measured in one run.
//!
//! It runs on any device and knows nothing of how the model uses it.

mod clock;
mod logits;
mod passes;
mod report;
mod roofline;
mod served;
mod serving;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use skeg_model::{KvCacheDtype, Llama, TimedRuns, time_copies, time_products};

use super::instructions::Instructions;
use super::machine::{Machine, available_bytes};
use super::stats::Spread;
use super::{InProcess, InProcessFlags, Subject};
use crate::output;
use clock::Clock;
use report::{LeftOut, Rate, Report};
use roofline::{Limits, Roofline};

/// A model against its device: prompts, decode steps, steering, registrations and a load, each beside the limit of memory and arithmetic
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct Args {
    /// What is measured, besides the device's limits
    #[arg(
        long,
        value_name = "PART",
        value_delimiter = ',',
        default_value = "prefill,decode,steering,swap,served"
    )]
    part: Vec<Part>,
    /// Prompt lengths, in tokens
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "512,2048")]
    prefill: Vec<usize>,
    /// Sequences that decode together
    #[arg(long, value_name = "SEQS", value_delimiter = ',', default_value = "1,8,32,128")]
    batch: Vec<usize>,
    /// Context lengths of decode steps, in tokens; the first one is steering's as well
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "128,1024,4096")]
    context: Vec<usize>,
    /// Pairs of steps a steering mode, at most
    #[arg(long, value_name = "NUM", default_value_t = 200)]
    pairs: usize,
    /// How long all may take, loading not counted; what there is no time for is left out and named
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    budget: u64,
    /// Write the report as JSON here, anew after each measurement
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// First write the logits of these token ids (a JSON list) to --out
    #[arg(long, value_name = "TOKENS.json", requires = "out")]
    logits: Option<PathBuf>,
    /// Where logits are written: safetensors with `prefill` and `decode`, [tokens, vocabulary], f32
    #[arg(long, value_name = "FILE", requires = "logits")]
    out: Option<PathBuf>,
    #[command(flatten)]
    common: InProcessFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg bench gpu --model Meta-Llama-3-8B-Instruct --report results.json
  skeg bench gpu --part decode --batch 1,8 --context 128
  skeg bench gpu --logits tokens.json --out logits.safetensors --part prefill

A limit is what must be read (weights once a pass, keys and values of the context) over the bandwidth of a copy, or the
operations of the products over the rate of a large product, whichever takes longer; both rates are measured in the same run.
docs/gpu.md says what each figure means.";

/// Vectors that sequences take in turn where they are steered.
const CATEGORIES: usize = 16;
/// Runs of each measurement of the device.
const LIMIT_RUNS: usize = 5;
/// The share of the memory that is free which a measurement may take.
const MEMORY_SHARE: f64 = 0.8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Prompts
    Prefill,
    /// Decode steps
    Decode,
    /// The modes of `skeg bench steering`
    Steering,
    /// Registrations of vectors under load
    Swap,
    /// Sequences that come and go
    Served,
}

/// One run.
struct Bench<'m> {
    llama: &'m Arc<Llama>,
    instructions: &'m mut Instructions,
    kv_cache_dtype: KvCacheDtype,
    clock: Clock,
    limits: Limits,
    /// Tokens a second of the last prompts.
    fill_rate: Option<f64>,
    report: Report,
    path: Option<PathBuf>,
}

/// What a measurement takes.
#[derive(Debug, Clone, Copy)]
struct Needs {
    num_seqs: usize,
    /// Longest sequence, in tokens.
    seq_len: usize,
    /// As far as it is known before.
    seconds: f64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let sizes = [&args.batch, &args.context, &args.prefill];
    if args.pairs == 0 || sizes.iter().any(|sizes| sizes.is_empty() || sizes.contains(&0)) {
        bail!("--batch, --context, --prefill and --pairs take numbers of at least 1");
    }
    let started = Instant::now();
    let InProcess { model, subject, mut instructions } = InProcess::load(&args.common)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let llama = Arc::new(model.llama);
    if let Some((tokens, out)) = args.logits.as_ref().zip(args.out.as_ref()) {
        output::note(&format!("logits of {} to {}", tokens.display(), out.display()));
        logits::write(&llama, tokens, out, args.common.kv_cache_dtype)?;
    }
    let mut bench = Bench::start(args, (&llama, subject), load_seconds, &mut instructions)?;
    for part in &args.part {
        match part {
            Part::Prefill => bench.measure_prefill(&args.prefill),
            Part::Decode => bench.measure_decode(&args.batch, &args.context),
            Part::Steering => bench.measure_steering(&args.batch, args.context[0], args.pairs),
            Part::Swap => bench.measure_swap(args.batch.iter().copied().max().unwrap_or(1)),
            Part::Served => bench.measure_served(&args.batch),
        }
    }
    bench.save()?;
    let report = &bench.report;
    if args.common.json {
        output::json(report)?;
    } else {
        report.print()?;
    }
    ensure!(report.failed.is_empty(), "{} measurements failed", report.failed.len());
    Ok(())
}

impl<'m> Bench<'m> {
    /// Measures the device.
    fn start(
        args: &Args,
        (llama, subject): (&'m Arc<Llama>, Subject),
        load_seconds: f64,
        instructions: &'m mut Instructions,
    ) -> anyhow::Result<Self> {
        let clock = Clock::start(Duration::from_secs(args.budget));
        let kv_cache_dtype = args.common.kv_cache_dtype;
        output::note("the device's limits");
        let copies = rate(time_copies(llama.device(), LIMIT_RUNS)?)?;
        let products = rate(time_products(llama.device(), LIMIT_RUNS)?)?;
        let limits = Limits {
            bytes_per_second: copies.per_second.median,
            flops_per_second: products.per_second.median,
        };
        let as_stored = subject.weights == "as-stored";
        let weight_bytes = as_stored.then_some(subject.weight_file_bytes);
        let report = Report {
            roofline: Roofline::new(llama.config(), weight_bytes, kv_cache_dtype),
            subject,
            machine: Machine::here(),
            seed: args.common.seed,
            load_seconds,
            copies,
            products,
            prefill: Vec::new(),
            decode: Vec::new(),
            steering: Vec::new(),
            swap: None,
            served: Vec::new(),
            left_out: Vec::new(),
            failed: Vec::new(),
            seconds: 0.0,
        };
        let path = args.report.clone();
        Ok(Self {
            llama,
            instructions,
            kv_cache_dtype,
            clock,
            limits,
            fill_rate: None,
            report,
            path,
        })
    }

    /// Runs one measurement, unless what it needs is not there. An error ends it alone: what else there is to be known on a machine
    /// that is had for minutes is still measured.
    fn case<T>(
        &mut self,
        name: &str,
        needs: Needs,
        run: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> Option<T> {
        output::note(&format!("{:4.0} s: {name}", self.clock.elapsed()));
        let result = match self.lacks(needs) {
            Some(reason) => Err((true, reason)),
            None => self.save().and_then(|()| run(self)).map_err(|error| {
                let reason = format!("{error:#}");
                (is_out_of_memory(&reason), reason)
            }),
        };
        result
            .map_err(|(is_left_out, reason)| {
                output::note(&format!("        {name}: {reason}"));
                let Report { left_out, failed, .. } = &mut self.report;
                let list = if is_left_out { left_out } else { failed };
                list.push(LeftOut { what: name.to_owned(), reason });
            })
            .ok()
    }

    /// Why a measurement cannot be made, as far as that is known before.
    fn lacks(&self, needs: Needs) -> Option<String> {
        let longest = self.llama.config().max_position_embeddings;
        if needs.seq_len > longest {
            return Some(format!(
                "{} tokens do not fit the model's context of {longest}",
                needs.seq_len
            ));
        }
        let tokens = (needs.num_seqs * needs.seq_len) as f64;
        let bytes = tokens * self.report.roofline.kv_bytes_per_token;
        // A GPU says so itself when memory is asked for; a CPU's system gives it and ends the program later.
        let free = if self.llama.device().is_cpu() { available_bytes() } else { None };
        match free {
            Some(free) if bytes > free as f64 * MEMORY_SHARE => Some(format!(
                "keys and values take {:.1} GB, and {:.1} GB of memory are free",
                bytes / 1e9,
                free as f64 / 1e9
            )),
            _ => self.clock.refuses(needs.seconds),
        }
    }

    /// Writes what there is so far.
    fn save(&mut self) -> anyhow::Result<()> {
        self.report.seconds = self.clock.elapsed();
        self.path.as_deref().map_or(Ok(()), |path| self.report.write(path))
    }
}

/// Whether an error is that the device has no more room: the driver's name for it, or a library's.
fn is_out_of_memory(reason: &str) -> bool {
    let reason = reason.to_lowercase().replace('_', " ");
    reason.contains("out of memory") || reason.contains("alloc failed")
}

fn rate(timed: TimedRuns) -> anyhow::Result<Rate> {
    let rates: Vec<f64> = timed.seconds.iter().map(|seconds| timed.amount / seconds).collect();
    let per_second = Spread::of(&rates).context("no run of the device was timed")?;
    Ok(Rate { what: timed.what, per_second })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_no_failure() {
        for reason in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CUBLAS_STATUS_ALLOC_FAILED",
        ] {
            assert!(is_out_of_memory(reason), "{reason}");
        }
        assert!(!is_out_of_memory("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)"));
    }

    #[test]
    fn a_rate_is_the_amount_over_the_time_of_each_run() {
        let timed = TimedRuns { what: "w".to_owned(), amount: 6.0, seconds: vec![2.0, 1.0, 3.0] };
        let rate = rate(timed).unwrap();
        assert_eq!(rate.per_second, Spread { median: 3.0, min: 2.0, max: 6.0 });
    }
}
