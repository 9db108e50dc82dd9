//! `skeg evaluate --quick`: what the vectors of a store do to the answers of a model. `skeg evaluate judges`: how far
//! the judges of answers can be believed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use skeg_lab::evaluate::{Agreement, EngineAnswerer, QuickSpec, evaluate_quick, refusal_agreement};
use skeg_lab::recipes::{MeasurePlan, Measured, measure};
use skeg_lab::{Item, Part, SplitRule};
use skeg_model::LoadedModel;
use skeg_model::engine::EngineConfig;
use skeg_vector_store::{Category, load_generation, read_current};

use super::data_flags::DataFlags;
use super::progress::Bar;
use super::running::{binding, model_path};
use super::{ModelFlags, judges, study};
use crate::output;

/// Ask held-out prompts unsteered, steered and with controls, and count refusals and broken answers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    quick: QuickArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Judges(judges::Args),
    Study(Box<study::Args>),
}

#[derive(Debug, clap::Args)]
struct QuickArgs {
    /// The quick evaluation, the only one there is: short greedy answers, judged by refusal phrases
    #[arg(long, required = true)]
    quick: bool,
    /// Prompts (.jsonl, .json, .csv, .tsv or .parquet) with categories
    // Required where no subcommand is given, which the type cannot say.
    #[arg(long, value_name = "FILE", required = true)]
    data: Option<PathBuf>,
    #[command(flatten)]
    data_flags: DataFlags,
    /// Answers labelled `refusal` or `compliance`, to measure the judge on; may be given several times
    #[arg(long, value_name = "FILE")]
    judge_data: Vec<PathBuf>,
    /// Prompts a category, from the end of the file, where extraction never looks
    #[arg(long, value_name = "NUM", default_value_t = SplitRule::SHIPPED.num_evaluation)]
    per_category: usize,
    /// Strength for every category [default: each category's of the policy]
    #[arg(long)]
    strength: Option<f32>,
    /// Try these strengths first, on every fourth prompt that vectors are extracted from, and write all figures
    /// to --measured, for `skeg extract --recipe shipped`
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires_all = ["measured", "strength"])]
    tune: Vec<f32>,
    /// File for the figures of --tune
    #[arg(long, value_name = "FILE", requires = "tune")]
    measured: Option<PathBuf>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 40)]
    max_tokens: usize,
    /// Seed of the random control
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Vector store [default: vectors/MODEL here, then beside the program]
    #[arg(long, env = "SKEG_VECTORS", value_name = "DIR")]
    vectors: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print Markdown, as in CARD.md
    #[arg(long)]
    markdown: bool,
}

const AFTER_HELP: &str = "\
Examples:
  skeg evaluate --quick --data catqa.jsonl
  skeg evaluate judges --test labelled.jsonl
  skeg evaluate --quick --data catqa.jsonl --strength 1.2 --tune 0.7,1,1.2,1.5,2 --measured measured.json

Figures only: no prompt and no answer is printed or kept. The judge reads refusal phrases; --judge-data prints
how far it agrees with people, and `skeg evaluate judges` compares all judges.";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Some(Command::Judges(args)) => judges::run(args),
        Some(Command::Study(args)) => study::run(args),
        None => quick(&args.quick),
    }
}

fn quick(args: &QuickArgs) -> anyhow::Result<()> {
    let data = args.data.as_deref().context("--data FILE is missing")?;
    let config = args.model.config(args.vectors.clone())?;
    let root = config.model.vectors_root()?;
    let path = model_path(&config.model, args.model.fetch)?;
    let items = args.data_flags.read(data)?.items;
    let judge = args
        .judge_data
        .iter()
        .map(|path| agreement(path, &args.data_flags))
        .collect::<anyhow::Result<_>>()?;
    let model = LoadedModel::load(&path, &config.model.load_options())?;
    let current = read_current(&root)?;
    let generation = load_generation(&root, &current.generation, Some(&binding(&model.identity)))?;
    let mut prompts = part(&items, args.per_category, Part::Evaluation)?;
    prompts.retain(|category, _| generation.vectors.contains_key(category));
    if prompts.is_empty() {
        bail!("{}: no category of {} has a prompt there", data.display(), generation.id);
    }
    let mut spec = QuickSpec::of_generation(&generation, prompts, args.max_tokens)?;
    spec.seed = args.seed;
    spec.judge = judge;
    if let Some(strength) = args.strength {
        spec.strengths.values_mut().for_each(|each| *each = strength);
    }
    let engine_config = EngineConfig {
        max_num_seqs: config.engine.max_num_seqs,
        max_num_batched_tokens: config.engine.max_num_batched_tokens,
        kv_cache_tokens: config.engine.kv_cache_tokens,
        max_model_len: config.engine.max_model_len,
        // One run has one vector a category.
        num_steering_slots: generation.vectors.len(),
        ..EngineConfig::default()
    };
    let mut answerer = EngineAnswerer::new(model, &engine_config, args.max_tokens)?;
    let report = match (&args.measured, args.strength) {
        (Some(file), Some(strength)) => {
            let mut tuning = part(&items, args.per_category, Part::Tuning)?;
            tuning.retain(|category, _| generation.vectors.contains_key(category));
            let plan = MeasurePlan {
                held_out: spec,
                tuning,
                strengths: args.tune.clone(),
                strength,
                weights: config.model.weights_name().to_owned(),
            };
            let measured = measure(&mut answerer, &plan, &mut Bar::new()?)?;
            write_figures(file, &measured)?;
            measured.held_out
        }
        _ => evaluate_quick(&mut answerer, &spec, &mut Bar::new()?)?,
    };
    if args.json {
        return Ok(output::json(&report)?);
    }
    let text = if args.markdown { report.to_markdown() } else { report.to_plain() };
    Ok(output::line(&text)?)
}

/// The judge's agreement with the people who labelled a file's answers.
fn agreement(path: &Path, flags: &DataFlags) -> anyhow::Result<Agreement> {
    let set = flags.read(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(refusal_agreement(&name, &set.items)?)
}

fn write_figures(path: &Path, measured: &Measured) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(measured)?;
    std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// The prompts of one side of the split that leaves the last ones of each category for evaluation.
fn part(
    items: &[Item],
    per_category: usize,
    part: Part,
) -> anyhow::Result<BTreeMap<Category, Vec<&Item>>> {
    let rule = SplitRule { num_evaluation: per_category, ..SplitRule::SHIPPED };
    Ok(rule.part(items, part)?)
}
