//! `skeg bench steering`: what steering adds to a decode step.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use serde::Serialize;
use skeg_lab::figures::{Figure, Line, NamedPoint};

use super::machine::{Machine, peak_memory_bytes};
use super::modes::{Mode, spread_layers};
use super::pairs::{Cost, Setting, compare};
use super::{InProcess, InProcessFlags, Subject};
use crate::output::{self, Table};

/// What steering adds to a decode step, mode by mode, against a step without any hook
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct Args {
    /// Numbers of steered layers, spread evenly over the model; `all` for every layer
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', default_value = "1,12,all")]
    layers: Vec<LayerCount>,
    /// Sequences that decode together
    #[arg(long, value_name = "SEQS", value_delimiter = ',', default_value = "1,8,32")]
    batch: Vec<usize>,
    /// Numbers of slots and strengths that rows take in turn, a mode each
    #[arg(long, value_name = "NUM", value_delimiter = ',', default_value = "4,16")]
    per_request: Vec<usize>,
    /// Pairs of steps a mode; the shipped figures have at least 200
    #[arg(long, value_name = "NUM", default_value_t = 200)]
    pairs: usize,
    /// Context of each sequence, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    context: usize,
    /// Write a chart of throughput by mode, of the last number of layers and of sequences
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,
    #[command(flatten)]
    common: InProcessFlags,
}

const AFTER_HELP: &str = "\
Modes, each paired step by step with `disabled` on the same context, the order alternating:
  disabled            no hook: paired with itself it shows the noise of the machine
  enabled_idle        tables filled and a hook registered, no row steered
  all_steered_shared  every row steered, all with one slot
  per_request_N       every row steered, N slots and strengths in turn (--per-request)

Examples:
  skeg bench steering                                all settings: long on a small machine
  skeg bench steering --pairs 50 --layers all --batch 1,8
  skeg bench steering --layers 12 --batch 8 --per-request 1,10,100,1000       how the cost grows

The ratio is the median over pairs of the mode's time over `disabled`'s; the bounds are its bootstrap bounds at
95 % (2,000 resamples).";

/// Rows of one prefill pass.
const CHUNK: usize = 512;

/// How many layers are steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerCount {
    Number(usize),
    All,
}

impl FromStr for LayerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if number > 0 => Ok(Self::Number(number)),
            _ if text == "all" => Ok(Self::All),
            _ => Err(format!("`{text}` is no number of layers; expected 1 or more, or `all`")),
        }
    }
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Report {
    subject: Subject,
    machine: Machine,
    seed: u64,
    context_tokens: usize,
    costs: Vec<Cost>,
    peak_memory_bytes: Option<u64>,
    /// Why instructions were not counted.
    instructions_refused: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if args.pairs == 0 || args.batch.contains(&0) {
        bail!("--pairs and --batch take numbers of at least 1");
    }
    let InProcess { model, subject, mut instructions } = InProcess::load(&args.common)?;
    let config = model.llama.config();
    let longest = config.max_position_embeddings;
    if args.context >= longest {
        bail!("--context {} and a token after it do not fit the model's {longest}", args.context);
    }
    let layer_sets = layer_sets(&args.layers, config.num_hidden_layers);
    if args.per_request.contains(&0) {
        bail!("--per-request 0: expected numbers of at least 1");
    }
    let modes = Mode::all(&args.per_request);
    let num_pairs = layer_sets.len() * args.batch.len() * args.pairs * modes.len();
    let bar = output::step_bar("pairs", num_pairs as u64);
    let mut costs = Vec::new();
    for layers in &layer_sets {
        for &num_seqs in &args.batch {
            let setting = Setting {
                num_seqs,
                context: args.context,
                pairs: args.pairs,
                chunk: CHUNK,
                seed: args.common.seed,
                kv_cache_dtype: args.common.kv_cache_dtype,
            };
            costs.extend(compare(
                &model.llama,
                layers,
                &modes,
                setting,
                &mut instructions,
                || bar.inc(1),
            )?);
        }
    }
    bar.finish_and_clear();
    let report = Report {
        subject,
        machine: Machine::here(),
        seed: args.common.seed,
        context_tokens: args.context,
        costs,
        peak_memory_bytes: peak_memory_bytes(),
        instructions_refused: instructions.refused().map(ToOwned::to_owned),
    };
    if args.common.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    args.chart.as_deref().map_or(Ok(()), |path| report.chart().write(path))?;
    Ok(())
}

/// The layers of each setting; settings that come to the same layers are one.
fn layer_sets(counts: &[LayerCount], num_hidden_layers: usize) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for count in counts {
        let layers = match *count {
            LayerCount::Number(number) => spread_layers(number, num_hidden_layers),
            LayerCount::All => (0..num_hidden_layers).collect(),
        };
        if !sets.contains(&layers) {
            sets.push(layers);
        }
    }
    sets
}

impl Report {
    fn print(&self) -> anyhow::Result<()> {
        super::print_head(&self.subject, &self.machine)?;
        table(&self.costs).print()?;
        super::print_foot(self.peak_memory_bytes, self.instructions_refused.as_deref())
    }

    /// Tokens a second of each mode: the median step of `disabled`, made longer by the mode's ratio.
    fn chart(&self) -> Line {
        let last = self.costs.last().map(|cost| (cost.num_layers, cost.num_seqs));
        let shown = |cost: &&Cost| Some((cost.num_layers, cost.num_seqs)) == last;
        let points = self.costs.iter().filter(shown).map(|cost| {
            let rate = |ratio| cost.num_seqs as f64 / (cost.median_disabled_step_seconds * ratio);
            NamedPoint {
                label: short(cost.mode),
                value: rate(cost.ratio),
                range: Some((rate(cost.upper), rate(cost.lower))),
            }
        });
        let (num_layers, num_seqs) = last.unwrap_or_default();
        Line {
            title: format!(
                "{}: {num_seqs} sequences steered at {num_layers} layers",
                self.subject.model
            ),
            x_name: "mode, or number of distinct vectors".to_owned(),
            y_name: "tokens per second".to_owned(),
            points: points.collect(),
        }
    }
}

/// One row a setting and mode.
pub(super) fn table(costs: &[Cost]) -> Table {
    let mut table = Table::new(&[
        "LAYERS",
        "SEQS",
        "MODE",
        "RATIO",
        "LOWER",
        "UPPER",
        "STEP MS",
        "DISABLED MS",
        "INSTRUCTIONS",
    ]);
    for cost in costs {
        table.row(vec![
            cost.num_layers.to_string(),
            cost.num_seqs.to_string(),
            cost.mode.to_string(),
            format!("{:.4}", cost.ratio),
            format!("{:.4}", cost.lower),
            format!("{:.4}", cost.upper),
            format!("{:.3}", cost.median_step_seconds * 1e3),
            format!("{:.3}", cost.median_disabled_step_seconds * 1e3),
            cost.instruction_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.5}")),
        ]);
    }
    table
}

/// A mode's name as it fits below a chart's axis.
fn short(mode: Mode) -> String {
    match mode {
        Mode::Disabled => "disabled".to_owned(),
        Mode::EnabledIdle => "idle".to_owned(),
        Mode::AllSteeredShared => "shared".to_owned(),
        Mode::PerRequest(number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_counts_are_numbers_or_all() {
        assert_eq!("12".parse(), Ok(LayerCount::Number(12)));
        assert_eq!("all".parse(), Ok(LayerCount::All));
        for text in ["0", "-1", "some"] {
            assert!(text.parse::<LayerCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn settings_that_come_to_the_same_layers_are_measured_once() {
        let counts = [LayerCount::Number(1), LayerCount::Number(12), LayerCount::All];
        assert_eq!(layer_sets(&counts, 30).len(), 3);
        assert_eq!(layer_sets(&counts, 3), [vec![1], vec![0, 1, 2]]);
        assert_eq!(layer_sets(&counts, 1), [[0]]);
    }
}
