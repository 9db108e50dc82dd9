//! `skeg bench gate`: what the gate of `auto` adds to a prefill, and how long its probe takes.

mod prefill;
mod reader;
mod times;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Serialize;
use skeg_lab::judge::{Embed, SentenceEmbedder};
use skeg_lab::probe::{ActivationInput, Probe};
use skeg_model::LlamaConfig;
use skeg_model::steering::Site;

use super::super::layers::parse_layers;
use super::load::words;
use super::machine::{Machine, peak_memory_bytes};
use super::modes::spread_layers;
use super::stats::Spread;
use super::{InProcess, InProcessFlags, Subject};
use crate::output::{self, Table};
use prefill::{Cost, Setting, compare};
use reader::Reader;
use times::{ProbeTimes, conversation};

/// Layers that are read where nothing says which.
const NUM_LAYERS: usize = 3;

/// What a gate adds to a prefill in the engine, and how long a probe takes for its verdict
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct Args {
    /// Sequences that are prefilled together
    #[arg(long, value_name = "SEQS", value_delimiter = ',', default_value = "1,32")]
    batch: Vec<usize>,
    /// Tokens of each prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    prompt_tokens: usize,
    /// Pairs of prefills a batch size
    #[arg(long, value_name = "NUM", default_value_t = 30)]
    pairs: usize,
    /// Most rows of one pass
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    chunk: usize,
    /// Probe whose layers are read and whose verdict is made of them [default: a gate that reads and does nothing else]
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// Layers that are read without a probe, `14,18` or `8-19` [default: three, spread over the model]
    #[arg(long, conflicts_with = "probe")]
    layers: Option<String>,
    /// Folder of the sentence embedder, for a probe that has a member on embeddings
    #[arg(long, value_name = "DIR", requires = "probe")]
    embedder: Option<PathBuf>,
    /// Times that verdict and text scores of the probe are timed
    #[arg(long, value_name = "NUM", default_value_t = 200, requires = "probe")]
    repetitions: usize,
    #[command(flatten)]
    common: InProcessFlags,
}

const AFTER_HELP: &str = "\
Each pair prefills the same prompts with the gate and without, the order alternating, in one engine without a prefix cache. The
gate decides that nothing is due, so what is measured is what harmless requests pay.

Examples:
  skeg bench gate
  skeg bench gate --probe probe.safetensors --pairs 150 --json
  skeg bench gate --layers 14,18,22 --batch 1,8,32 --prompt-tokens 512

The ratio is the median over pairs of the time with the gate over the time without; the bounds are its bootstrap bounds at 95 %
(2,000 resamples).";

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Report {
    subject: Subject,
    machine: Machine,
    seed: u64,
    /// Absent where the probe reads text alone, and there is no gate in the engine.
    reads: Option<Reads>,
    costs: Vec<Cost>,
    probe: Option<ProbeTimes>,
    peak_memory_bytes: Option<u64>,
    /// Why instructions were not counted.
    instructions_refused: Option<String>,
}

/// What the gate reads.
#[derive(Debug, Serialize)]
struct Reads {
    site: Site,
    layers: Vec<usize>,
    /// Whether it reads the mean of the prompt's rows beside the last one.
    mean: bool,
}

/// A probe, and what its text members need.
struct Loaded {
    probe: Probe,
    embedder: Option<SentenceEmbedder>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if args.pairs == 0 || args.prompt_tokens == 0 || args.batch.contains(&0) || args.chunk == 0 {
        bail!("--pairs, --prompt-tokens, --chunk and --batch take numbers of at least 1");
    }
    let loaded = args.probe.as_deref().map(|path| args.load(path)).transpose()?;
    let InProcess { model, subject, mut instructions } = InProcess::load(&args.common)?;
    let llama = Arc::new(model.llama);
    let input = args.reads(loaded.as_ref(), llama.config())?;
    let reads = input.as_ref().map(|input| Reads {
        site: input.site,
        layers: input.layers.clone(),
        mean: input.mean_without.is_some(),
    });
    let text = words(args.common.seed, args.prompt_tokens);
    let times = loaded.as_ref().map(|loaded| loaded.times(args, &text)).transpose()?;
    let mut costs = Vec::new();
    if let Some(input) = input {
        let with_text = loaded.map(|loaded| loaded.with_text(&text)).transpose()?;
        let gate = Arc::new(Reader::new(input, with_text));
        let bar = output::step_bar("pairs", (args.batch.len() * args.pairs) as u64);
        for &num_seqs in &args.batch {
            let setting = args.setting(num_seqs);
            costs.push(compare(&llama, &gate, setting, &mut instructions, || bar.inc(1))?);
        }
        bar.finish_and_clear();
    }
    let report = Report {
        subject,
        machine: Machine::here(),
        seed: args.common.seed,
        reads,
        costs,
        probe: times,
        peak_memory_bytes: peak_memory_bytes(),
        instructions_refused: instructions.refused().map(ToOwned::to_owned),
    };
    if args.common.json { Ok(output::json(&report)?) } else { report.print() }
}

impl Args {
    fn load(&self, path: &Path) -> anyhow::Result<Loaded> {
        let bytes = Probe::read_file(path)?;
        let probe = Probe::from_bytes(&bytes)
            .with_context(|| format!("{} is not a probe", path.display()))?;
        let embedder = match (&self.embedder, probe.embedder()) {
            (Some(folder), Some(_)) => Some(SentenceEmbedder::load(folder)?),
            (None, Some(_)) => {
                bail!("--embedder is missing: the probe has a member on sentence embeddings")
            }
            (_, None) => None,
        };
        Ok(Loaded { probe, embedder })
    }

    /// What the gate reads, checked against the model; `None` for a probe that reads text alone.
    fn reads(
        &self,
        loaded: Option<&Loaded>,
        config: &LlamaConfig,
    ) -> anyhow::Result<Option<ActivationInput>> {
        let longest = config.max_position_embeddings;
        if self.prompt_tokens >= longest {
            let tokens = self.prompt_tokens;
            bail!(
                "--prompt-tokens {tokens} and a token after them do not fit the model's {longest}"
            );
        }
        let num_layers = config.num_hidden_layers;
        let of_layers = |layers| ActivationInput {
            site: Site::ResidPost,
            layers,
            hidden_size: config.hidden_size,
            last: true,
            mean_without: None,
        };
        let input = match (loaded, &self.layers) {
            (Some(loaded), _) => loaded.probe.activation_input(),
            (None, Some(text)) => {
                let mut layers = parse_layers(text)?;
                layers.sort_unstable();
                layers.dedup();
                Some(of_layers(layers))
            }
            (None, None) => Some(of_layers(spread_layers(NUM_LAYERS, num_layers))),
        };
        if let Some(ActivationInput { layers, hidden_size, .. }) = &input {
            if *hidden_size != config.hidden_size {
                bail!(
                    "--probe: it reads rows of {hidden_size} numbers, and this model has {}; give the model that it was trained on",
                    config.hidden_size
                );
            }
            if layers.last().is_some_and(|&last| last >= num_layers) {
                bail!("layers {layers:?}: this model has {num_layers}, counted from 0");
            }
        }
        Ok(input)
    }

    fn setting(&self, num_seqs: usize) -> Setting {
        Setting {
            num_seqs,
            prompt_tokens: self.prompt_tokens,
            pairs: self.pairs,
            chunk: self.chunk,
            seed: self.common.seed,
            kv_cache_dtype: self.common.kv_cache_dtype,
        }
    }
}

impl Loaded {
    fn embedder(&self) -> Option<&dyn Embed> {
        self.embedder.as_ref().map(|embedder| embedder as &dyn Embed)
    }

    fn times(&self, args: &Args, text: &str) -> anyhow::Result<ProbeTimes> {
        let effort = (args.repetitions, args.common.seed);
        ProbeTimes::measure(&self.probe, text, self.embedder(), effort)
    }

    /// The probe with its scores of a text: in the server these are made before the engine has the request.
    fn with_text(self, text: &str) -> anyhow::Result<(Probe, skeg_lab::probe::TextScores)> {
        let scores = self.probe.text_scores(&conversation(text), self.embedder())?;
        Ok((self.probe, scores))
    }
}

impl Report {
    fn print(&self) -> anyhow::Result<()> {
        super::print_head(&self.subject, &self.machine)?;
        match &self.reads {
            Some(reads) => self.print_costs(reads)?,
            None => {
                output::note(
                    "the probe reads text alone: there is no gate in the engine to measure",
                );
            }
        }
        if let Some(times) = &self.probe {
            output::line(&format!(
                "probe of {}: verdict {}, text scores of {} words {}; median of {} [least, most]",
                times.members.join(" and "),
                microseconds(times.verdict_microseconds),
                times.words,
                microseconds(times.text_scores_microseconds),
                times.repetitions
            ))?;
        }
        super::print_foot(self.peak_memory_bytes, self.instructions_refused.as_deref())
    }

    fn print_costs(&self, reads: &Reads) -> anyhow::Result<()> {
        let layers: Vec<String> = reads.layers.iter().map(ToString::to_string).collect();
        let site = reads.site.as_str();
        let mean = if reads.mean { ", and the mean of the prompt's rows" } else { "" };
        output::line(&format!("the gate reads {site} of layers {}{mean}", layers.join(", ")))?;
        let header = [
            "SEQS",
            "TOKENS",
            "PAIRS",
            "RATIO",
            "LOWER",
            "UPPER",
            "TOK/S GATED",
            "TOK/S WITHOUT",
            "INSTRUCTIONS",
        ];
        let mut table = Table::new(&header);
        for cost in &self.costs {
            table.row(vec![
                cost.num_seqs.to_string(),
                cost.prompt_tokens.to_string(),
                cost.pairs.to_string(),
                format!("{:.4}", cost.ratio),
                format!("{:.4}", cost.lower),
                format!("{:.4}", cost.upper),
                format!("{:.1}", cost.gated_tokens_per_second),
                format!("{:.1}", cost.ungated_tokens_per_second),
                cost.instruction_ratio
                    .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.5}")),
            ]);
        }
        Ok(table.print()?)
    }
}

fn microseconds(spread: Spread) -> String {
    format!("{:.1} µs [{:.1}, {:.1}]", spread.median, spread.min, spread.max)
}
