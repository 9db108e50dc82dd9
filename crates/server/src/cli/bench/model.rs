//! `skeg bench model`: how fast one model is, without a server.

use std::path::PathBuf;

use anyhow::bail;
use serde::Serialize;
use skeg_lab::figures::{Figure, Line, NamedPoint};
use skeg_model::{LlamaConfig, LoadedModel};

use super::instructions::Instructions;
use super::machine::{Machine, peak_memory_bytes};
use super::throughput::{Effort, Throughput, decode, prefill};
use super::{InProcess, InProcessFlags, Subject};
use crate::output::{self, Table};

/// Prefill and decode rates of one model in this process: forward passes alone, no sampling, no HTTP
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct Args {
    /// Prompt lengths for prefill, in tokens [default: 128,512,2048]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    prefill: Option<Vec<usize>>,
    /// Context lengths before decoding, in tokens [default: 0,512,4096]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    context: Option<Vec<usize>>,
    /// Sequences that decode together [default: 1,2,4,8,16,32]
    #[arg(long, value_name = "SEQS", value_delimiter = ',')]
    batch: Option<Vec<usize>>,
    /// Context of each sequence of a batch, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    batch_context: usize,
    /// Decode steps timed together as one repetition [default: 32, with --quick 8]
    #[arg(long, value_name = "STEPS")]
    steps: Option<usize>,
    /// Repetitions of each measurement, after one to warm up [default: 5, with --quick 3]
    #[arg(long, value_name = "NUM")]
    repetitions: Option<usize>,
    /// Most rows of one prefill pass
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    chunk: usize,
    /// A small set: prefill 128; contexts 0 and 512; batches 1 and 4
    #[arg(long)]
    quick: bool,
    /// Write a chart of throughput by batch
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,
    /// Write a chart of throughput by context
    #[arg(long, value_name = "FILE.svg")]
    context_chart: Option<PathBuf>,
    #[command(flatten)]
    common: InProcessFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg bench model                                   everything, a few minutes
  skeg bench model --quick
  skeg bench model --batch 1,8 --chart batch.svg --json

Each figure is the median of the repetitions, with the smallest and the largest. Sizes of the default lists that
do not fit the model's context are left out, and named. docs/performance.md says what each figure means.";

/// What is measured.
#[derive(Debug)]
struct Plan {
    prefill: Vec<usize>,
    context: Vec<usize>,
    batch: Vec<usize>,
    effort: Effort,
    /// Sizes of the defaults that the model has no room for.
    left_out: Vec<String>,
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Report {
    subject: Subject,
    machine: Machine,
    seed: u64,
    repetitions: usize,
    decode_steps: usize,
    prefill: Vec<Throughput>,
    decode: Vec<Throughput>,
    batch: Vec<Throughput>,
    left_out: Vec<String>,
    peak_memory_bytes: Option<u64>,
    /// Why instructions were not counted.
    instructions_refused: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let InProcess { model, subject, mut instructions } = InProcess::load(&args.common)?;
    let plan = Plan::of(args, model.llama.config())?;
    let report = measure(args, plan, &model, subject, &mut instructions)?;
    if args.common.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    let by_batch = || report.chart("sequences in the batch", &report.batch, |row| row.num_seqs);
    let by_context = || report.chart("tokens of context", &report.decode, |row| row.context_tokens);
    args.chart.as_deref().map_or(Ok(()), |path| by_batch().write(path))?;
    Ok(args.context_chart.as_deref().map_or(Ok(()), |path| by_context().write(path))?)
}

impl Plan {
    fn of(args: &Args, config: &LlamaConfig) -> anyhow::Result<Self> {
        let longest = config.max_position_embeddings;
        let default_steps = if args.quick { 8 } else { 32 };
        let effort = Effort {
            steps: args.steps.unwrap_or(default_steps),
            repetitions: args.repetitions.unwrap_or(if args.quick { 3 } else { 5 }),
            chunk: args.chunk,
            seed: args.common.seed,
            kv_cache_dtype: args.common.kv_cache_dtype,
        };
        if effort.steps == 0 || effort.repetitions == 0 || effort.chunk == 0 {
            bail!("--steps, --repetitions and --chunk must be at least 1");
        }
        let pick = |quick: &[usize], full: &[usize]| {
            if args.quick { quick.to_vec() } else { full.to_vec() }
        };
        let mut left_out = Vec::new();
        let mut fit = |flag: &str,
                       given: Option<&Vec<usize>>,
                       default: Vec<usize>,
                       extra: usize| {
            let Some(given) = given else {
                let (fit, rest): (Vec<_>, Vec<_>) =
                    default.into_iter().partition(|size| size + extra <= longest);
                left_out.extend(rest.into_iter().map(|size| format!("{flag} {size}")));
                return Ok(fit);
            };
            match given.iter().find(|&size| size.saturating_add(extra) > longest) {
                None => Ok(given.clone()),
                Some(size) => bail!(
                    "--{flag} {size} and {extra} tokens after it do not fit the model's context of {longest}"
                ),
            }
        };
        let prefill = pick(&[128], &[128, 512, 2048]);
        let prefill = fit("prefill", args.prefill.as_ref(), prefill, 0)?;
        let context = pick(&[0, 512], &[0, 512, 4096]);
        let context = fit("context", args.context.as_ref(), context, effort.steps)?;
        fit("batch-context", Some(&vec![args.batch_context]), Vec::new(), effort.steps)?;
        let batch = args.batch.clone().unwrap_or_else(|| pick(&[1, 4], &[1, 2, 4, 8, 16, 32]));
        if prefill.contains(&0) || batch.contains(&0) {
            bail!("--prefill and --batch take numbers of at least 1");
        }
        Ok(Self { prefill, context, batch, effort, left_out })
    }
}

fn measure(
    args: &Args,
    plan: Plan,
    model: &LoadedModel,
    subject: Subject,
    instructions: &mut Instructions,
) -> anyhow::Result<Report> {
    let Plan { effort, left_out, .. } = plan;
    let num_cases = plan.prefill.len() + plan.context.len() + plan.batch.len();
    let bar = output::step_bar("measuring", num_cases as u64);
    let llama = &model.llama;
    let mut report = Report {
        subject,
        machine: Machine::here(),
        seed: args.common.seed,
        repetitions: effort.repetitions,
        decode_steps: effort.steps,
        prefill: Vec::new(),
        decode: Vec::new(),
        batch: Vec::new(),
        left_out,
        peak_memory_bytes: None,
        instructions_refused: instructions.refused().map(ToOwned::to_owned),
    };
    for &num_tokens in &plan.prefill {
        report.prefill.push(prefill(llama, num_tokens, effort, instructions)?);
        bar.inc(1);
    }
    for &context in &plan.context {
        report.decode.push(decode(llama, (1, context), effort, instructions)?);
        bar.inc(1);
    }
    for &num_seqs in &plan.batch {
        report.batch.push(decode(llama, (num_seqs, args.batch_context), effort, instructions)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    report.peak_memory_bytes = peak_memory_bytes();
    Ok(report)
}

impl Report {
    fn print(&self) -> anyhow::Result<()> {
        super::print_head(&self.subject, &self.machine)?;
        let header =
            ["WHAT", "SEQS", "CONTEXT", "TOK/S", "MIN..MAX", "TOK/S A SEQ", "INSTRUCTIONS/TOKEN"];
        let mut table = Table::new(&header);
        let parts = [("prefill", &self.prefill), ("decode", &self.decode), ("batch", &self.batch)];
        for (what, rows) in parts {
            for row in rows {
                table.row(row.cells(what));
            }
        }
        table.print()?;
        if !self.left_out.is_empty() {
            output::note(&format!(
                "left out, longer than the model's context: {}",
                self.left_out.join(", ")
            ));
        }
        super::print_foot(self.peak_memory_bytes, self.instructions_refused.as_deref())
    }

    /// Rows in their order, each under its number.
    fn chart(&self, x_name: &str, rows: &[Throughput], number: fn(&Throughput) -> usize) -> Line {
        let points = rows.iter().map(|row| {
            let rate = row.tokens_per_second;
            NamedPoint {
                label: number(row).to_string(),
                value: rate.median,
                range: Some((rate.min, rate.max)),
            }
        });
        Line {
            title: format!("{}: decode throughput", self.subject.model),
            x_name: x_name.to_owned(),
            y_name: "tokens per second".to_owned(),
            points: points.collect(),
        }
    }
}
