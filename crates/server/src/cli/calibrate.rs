//! `skeg calibrate`: from data to a generation whose strengths were chosen and whose effect was proven.

use std::path::PathBuf;

use anyhow::{Context, bail};
use skeg_lab::calibrate::{
    Bounds, CalibrateSpec, Calibration, Candidate, Force, Grid, Plan, Publication, calibrate,
    generation_of,
};
use skeg_lab::data::{overlap, refuse_overlap};
use skeg_lab::experiment::{Prompt, harmless_prompts, spread};
use skeg_lab::extract::{ExtractSpec, Extraction, PromptForm};
use skeg_lab::{DataSet, Item, Shares};
use skeg_model::steering::{Operator, Site};
use skeg_model::{LoadOptions, LoadedModel, WeightForm};

use super::ModelFlags;
use super::data_flags::DataFlags;
use super::extract_variant::VariantFlags;
use super::extractions::kept_extractions;
use super::judge_flags::JudgeFlags;
use super::laboratory::{AnswerFlags, answering, model_name};
use super::layers::parse_layers;
use super::print_flags::PrintFlags;
use super::progress::Bar;
use super::recipe::{RecipeName, contrast};
use super::running::model_path;
use super::written::Written;
use crate::config::Config;
use crate::output;

/// Make vectors from data, find where and how strongly they act best, prove it on prompts nothing was chosen on, and
/// publish what passes.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Data with harmful prompts by category (.jsonl, .json, .csv, .tsv or .parquet), and for `prompts` and `responses` the
    /// safe side; divided by category into extraction, calibration and test
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    data_flags: DataFlags,
    /// Harmless prompts that are steered all the same: half to choose on, half to test on
    #[arg(long, value_name = "FILE", num_args = 1..)]
    harmless: Vec<PathBuf>,
    /// Vector store to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What vectors are made from
    #[arg(long, value_enum, default_value_t = RecipeName::Contrast)]
    recipe: RecipeName,
    /// Folder of contrast texts, one file a category, beside the built-in ones
    #[arg(long, value_name = "DIR")]
    contrast: Option<PathBuf>,
    /// Sites to try
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ["attn_out", "resid_post"],
        value_parser = super::extract::parse_site)]
    sites: Vec<Site>,
    /// Layers to try, from 0, for example `8-19` [default: all but the first and the last fifth]
    #[arg(long)]
    layers: Option<String>,
    /// Also try vectors that restore the row's norm
    #[arg(long)]
    norm_restored: bool,
    /// Prompts a category to choose on, and as many to test on, at most
    #[arg(long, value_name = "NUM", default_value_t = 20)]
    per_category: usize,
    /// Harmless prompts to choose on, and as many to test on, at most
    #[arg(long, value_name = "NUM", default_value_t = 60)]
    num_harmless: usize,
    /// Publish categories that the gate stopped too; the card says so
    #[arg(long)]
    force: bool,
    /// Make the generation live, if the store has a live one already (a first one always goes live)
    #[arg(long)]
    publish: bool,
    /// Also write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    figures: Option<PathBuf>,
    #[command(flatten)]
    answers: AnswerFlags,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    bounds: BoundFlags,
    #[command(flatten)]
    judges: JudgeFlags,
    // Last: its heading holds for all flags after it.
    #[command(flatten)]
    variant: VariantFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg calibrate --data catqa.jsonl --harmless xstest.jsonl --out my-vectors
  skeg calibrate --data catqa.jsonl vectors/data/catqa_twins.jsonl --recipe prompts --matched --prune 0.5 \\
      --harmless alpaca.jsonl --out my-vectors
  skeg calibrate --data new-category.jsonl --out my-vectors --embedder all-MiniLM-L6-v2 --heads heads.json

Layers and tokens are chosen on all categories together; one that clearly does better with another finalist's has its own.
A category is published where its vector beats no steering and a random direction of equal norm at 95 %, within the
bounds; one that does not is only logged. Ctrl-C stops; the same command goes on from what was kept.";

/// Bounds on quality.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Bounds")]
struct BoundFlags {
    /// Most degenerate answers, a share
    #[arg(long, value_name = "SHARE", default_value_t = Bounds::default().max_degenerate)]
    max_degenerate: f64,
    /// Most refusals of harmless prompts that are steered all the same, a share; 1 is no bound
    #[arg(long, value_name = "SHARE", default_value_t = Bounds::default().max_over_refusal)]
    max_over_refusal: f64,
    /// Most that an answer's negative log-likelihood under the unsteered model may rise, nats a token
    #[arg(long, value_name = "NATS", default_value_t = Bounds::default().max_nll_rise)]
    max_nll_rise: f64,
    /// Least share of harmless prompts' answers that are on topic, relative to unsteered ones
    #[arg(long, value_name = "SHARE", default_value_t = Bounds::default().min_on_topic)]
    min_on_topic: f64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let config = args.model.config(None)?;
    let data = read(&args.data, &args.data_flags)?;
    let plan = plan(args, &data)?;
    let harmless = read(&args.harmless, &args.data_flags)?;
    let (harmless, test_harmless) = harmless_parts(args, &data, &harmless, &plan)?;
    let mut judges = args.judges.judges(args.answers.work_dir(&config).as_deref())?;
    let extractions = extractions(args, &config, &plan)?;
    let candidates = extractions
        .iter()
        .map(|one| Candidate::new(one.variant.to_string(), one))
        .collect::<Result<Vec<_>, _>>()?;
    let mut answering = answering(&config, &args.model, &args.answers)?;
    let mut laboratory = answering.laboratory(&mut judges);
    let spec = CalibrateSpec {
        candidates: &candidates,
        calibration: &plan.calibration,
        harmless: &harmless,
        test: &plan.test,
        test_harmless: &test_harmless,
        bounds: bounds(&args.bounds),
        grid: grid(args),
        max_new_tokens: args.answers.max_tokens,
        seed: args.answers.seed,
    };
    let calibration = calibrate(&mut laboratory, &spec, &mut Bar::new()?)?;
    finish(args, &config, &calibration, &extractions)
}

fn read(paths: &[PathBuf], flags: &DataFlags) -> anyhow::Result<Vec<DataSet>> {
    Ok(paths.iter().map(|path| flags.read(path)).collect::<Result<Vec<_>, _>>()?)
}

fn plan(args: &Args, data: &[DataSet]) -> anyhow::Result<Plan> {
    let contrast = contrast(args.contrast.as_deref())?;
    let pairing = args.variant.variant().pairing;
    let recipe = args.recipe.recipe();
    Ok(recipe.plan(data, (Shares::default(), args.per_category), pairing, &contrast)?)
}

/// Harmless prompts to choose on and to test on: every second one, of prompts that stand nowhere in the data.
fn harmless_parts(
    args: &Args,
    data: &[DataSet],
    harmless: &[DataSet],
    plan: &Plan,
) -> anyhow::Result<(Vec<Prompt>, Vec<Prompt>)> {
    for (set, path) in harmless.iter().zip(&args.harmless) {
        for (other, other_path) in data.iter().zip(&args.data) {
            if !overlap(other, set).is_empty() {
                refuse_overlap(other, set).with_context(|| {
                    format!("--harmless {} and --data {}", path.display(), other_path.display())
                })?;
            }
        }
    }
    let categories: Vec<_> = plan.inputs.iter().map(|one| one.category.clone()).collect();
    let part = |first: usize| {
        // As many of each file.
        let limit = args.num_harmless / harmless.len().max(1);
        let of = |set: &DataSet| -> Vec<Item> {
            let items: Vec<&Item> =
                set.items.iter().filter(|item| item.harmful != Some(true)).collect();
            let every_second: Vec<&Item> = items.into_iter().skip(first).step_by(2).collect();
            spread(&every_second, limit).into_iter().cloned().collect()
        };
        let items: Vec<Item> = harmless.iter().flat_map(of).collect();
        harmless_prompts(&items, &categories)
    };
    Ok((part(0), part(1)))
}

/// The vectors at each site, from weights in f32, as `skeg extract` makes them.
fn extractions(args: &Args, config: &Config, plan: &Plan) -> anyhow::Result<Vec<Extraction>> {
    let path = model_path(&config.model, args.model.fetch)?;
    let options = LoadOptions { weights: WeightForm::F32, ..config.model.load_options() };
    let model = LoadedModel::load(&path, &options)?;
    let count = model.identity.num_hidden_layers;
    let layers = match &args.layers {
        Some(layers) => parse_layers(layers)?,
        // Late layers write the next token more than they decide (arXiv 2406.11717 skips the last fifth).
        None => (count / 5..count - count / 5).collect(),
    };
    let (tokens, max_response_tokens) = args.recipe.tokens();
    let work_dir = args.answers.work_dir(config);
    let mut bar = Bar::new()?;
    let mut extractions = Vec::new();
    for site in &args.sites {
        let spec = ExtractSpec {
            site: *site,
            layers: layers.clone(),
            tokens,
            max_response_tokens,
            prompt_form: PromptForm::ChatTemplate,
            variant: args.variant.variant(),
            categories: plan.inputs.clone(),
            data_sha256: plan.data_sha256.clone(),
        };
        let variants = [spec.variant];
        let made = kept_extractions(&model, &spec, &variants, work_dir.as_deref(), &mut bar)?;
        extractions.extend(made);
    }
    Ok(extractions)
}

fn bounds(flags: &BoundFlags) -> Bounds {
    let BoundFlags { max_degenerate, max_over_refusal, max_nll_rise, min_on_topic } = *flags;
    Bounds { max_degenerate, max_over_refusal, max_nll_rise, min_on_topic }
}

fn grid(args: &Args) -> Grid {
    let mut grid = Grid::default();
    if args.norm_restored {
        grid.operators.push(Operator::AddNormRestored);
    }
    grid
}

/// Prints and writes what was found, and publishes what passed.
fn finish(
    args: &Args,
    config: &Config,
    calibration: &Calibration,
    extractions: &[Extraction],
) -> anyhow::Result<()> {
    if let Some(path) = &args.figures {
        let json = serde_json::to_string_pretty(calibration)?;
        std::fs::write(path, json + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    args.print.print(calibration, || calibration.to_plain(), || calibration.to_markdown())?;
    let Some(extraction) = extractions.get(calibration.setting.candidate_idx) else {
        bail!("the calibration chose vectors that were not made");
    };
    let publication = Publication {
        model: model_name(config),
        data: format!("{}, test part", stems(&args.data)),
        split: format!(
            "{} Split by category, in the data's order: 60 % of the prompts to extract from, 20 % to choose on, 20 % to test \
             on; harmless prompts ({}) half to choose on, half to test on.",
            args.recipe.inputs(),
            stems(&args.harmless)
        ),
        force: if args.force { Force::Yes } else { Force::No },
    };
    let generation = generation_of(calibration, extraction, &publication)?;
    let written = Written::new(&args.out, &generation, args.publish)?;
    output::note(&written.sentence());
    Ok(())
}

/// The files' names, without folders and extensions.
fn stems(paths: &[PathBuf]) -> String {
    let stems = paths.iter().map(|path| path.file_stem().unwrap_or_default().to_string_lossy());
    let stems: Vec<_> = stems.collect();
    if stems.is_empty() { "none".to_owned() } else { stems.join(", ") }
}
