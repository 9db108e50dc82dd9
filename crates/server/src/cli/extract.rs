//! `skeg extract`: from data to a generation in a vector store.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;
use skeg_lab::extract::{
    CategoryInputs, EncodedInput, ExtractSpec, Extraction, Form, Pairing, PromptForm,
    PublishOptions, RunOptions, TokenMode, encode, extract_encoded, inputs_of, to_generation,
};
use skeg_lab::{DataSet, Progress, Shares, least_to_most};
use skeg_model::engine::EngineConfig;
use skeg_model::steering::Site;
use skeg_model::{LoadOptions, LoadedModel, WeightForm};
use skeg_vector_store::{
    Action, CategoryPolicy, DEFAULT_REFUSAL, NewGeneration, Operator, Orientation, Policy,
    Positions, SafeWindow, Strength,
};

use super::ModelFlags;
use super::data_flags::DataFlags;
use super::extract_guided::{GuidedFlags, harm_judge, only_guided};
use super::extract_variant::VariantFlags;
use super::judge_flags::JudgeFlags;
use super::layers::parse_layers;
use super::progress::Bar;
use super::recipe::{RecipeName, contrast};
use super::running::model_path;
use super::written::Written;
use crate::config::Config;
use crate::output::{self, Table};

/// Make steering vectors from data and write them as a generation.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, group = harm_judge(), group = only_guided())]
pub(super) struct Args {
    /// Data (.jsonl, .json, .csv, .tsv or .parquet); in the layout `skeg` with the fields id, text, category, harmful,
    /// response, `response_label`, source, `twin_of`
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    data_flags: DataFlags,
    /// Vector store to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How inputs are made from the data; `contrast` takes the prompts that `skeg calibrate` would extract from
    #[arg(long, value_enum, default_value_t = RecipeName::Responses)]
    recipe: RecipeName,
    /// Folder of contrast texts, one file a category, beside the built-in ones
    #[arg(long, value_name = "DIR")]
    contrast: Option<PathBuf>,
    /// Where activations are read: `attn_out` or `resid_post`
    #[arg(long, value_parser = parse_site, default_value = "attn_out")]
    site: Site,
    /// Layers from 0, for example `8-19` or `4,8,12` [default: the middle third]
    #[arg(long)]
    layers: Option<String>,
    /// Tokens that count: all, prompt, response or last
    #[arg(long, default_value_t = TokenMode::Response)]
    tokens: TokenMode,
    /// Count only this many tokens of each response: whether it declines is decided in its first words [default: all; 8 for
    /// `contrast`]
    #[arg(long, value_name = "NUM")]
    max_response_tokens: Option<usize>,
    /// Steer with this default strength, also the highest that is allowed; without it the policy only
    /// logs, since nothing is measured yet
    #[arg(long)]
    strength: Option<f32>,
    /// Make the generation live, if the store has a live one already (a first one always goes live)
    #[arg(long)]
    publish: bool,
    /// State file: an interrupted run goes on from it
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    judges: JudgeFlags,
    // Last: their headings hold for all flags after them.
    #[command(flatten)]
    variant: VariantFlags,
    #[command(flatten)]
    guided: GuidedFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg extract --data answers.jsonl --out my-vectors --layers 8-19
  skeg extract --data prompts.jsonl --recipe prompts --tokens last --out my-vectors --strength 0.5
  skeg extract --data catqa.jsonl --data vectors/data/catqa_twins.jsonl --recipe prompts --tokens all --matched \\
      --prune 0.5 --out my-vectors
  skeg extract --data catqa.jsonl --data alpaca.jsonl --recipe prompts --guided --embedder all-MiniLM-L6-v2 --heads heads.json \\
      --out my-vectors
  skeg extract --data catqa.jsonl --recipe contrast --layers 8-19 --out my-vectors

Weights are dequantised to f32 whatever --weights says, so that vectors do not depend on kernels. Ctrl-C stops
at a point that --checkpoint can go on from. A vector points from unsafe to safe; see docs/guide.md.";

pub(super) fn parse_site(name: &str) -> Result<Site, String> {
    match name {
        "attn_out" => Ok(Site::AttnOut),
        "resid_post" => Ok(Site::ResidPost),
        _ => Err("expected attn_out or resid_post".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    check(args)?;
    let config = args.model.config(None)?;
    let data = args.data.iter().map(|path| args.data_flags.read(path));
    let data = data.collect::<Result<Vec<_>, _>>()?;
    let extraction = extraction(args, &config, &data)?;
    let generation = unmeasured_generation(&extraction, args.strength);
    let written = Written::new(&args.out, &generation, args.publish)?;
    if args.json {
        let value = json!({
            "generation": written.id.to_string(),
            "live": written.is_live,
            "guided": extraction.guided,
            "categories": extraction.categories,
        });
        return Ok(output::json(&value)?);
    }
    if let Some(report) = &extraction.guided {
        output::line(&report.to_plain())?;
    }
    table(&extraction).print()?;
    Ok(output::line(&written.sentence())?)
}

/// What the command line cannot say of its flags.
fn check(args: &Args) -> anyhow::Result<()> {
    if args.recipe == RecipeName::Contrast && args.guided.guided {
        bail!("--recipe contrast has answers of its own; leave --guided out");
    }
    if args.recipe != RecipeName::Contrast && args.contrast.is_some() {
        bail!(
            "--contrast has texts for --recipe contrast alone; name that recipe, or leave it out"
        );
    }
    if args.judges.has_reward() {
        bail!("--reward-url: no answer is chosen by helpfulness or coherence; leave it out");
    }
    Ok(())
}

/// Guided, the model answers first: in f32 too, so that which answers count does not depend on kernels either.
fn extraction(args: &Args, config: &Config, data: &[DataSet]) -> anyhow::Result<Extraction> {
    let judges = args.guided.judges(&args.judges, &config.model.cache_dir.join("judges"))?;
    let path = model_path(&config.model, args.model.fetch)?;
    let options = LoadOptions { weights: WeightForm::F32, ..config.model.load_options() };
    let model = LoadedModel::load(&path, &options)?;
    let mut spec = spec(args, data, model.identity.num_hidden_layers)?;
    let mut bar = Bar::new()?;
    let (model, guided) = match judges {
        None => (model, None),
        Some(mut judges) => {
            let sizes = config.engine.on(&model.llama)?;
            let engine_config = sizes.over(EngineConfig::default(), &model.llama)?;
            let report =
                args.guided.select(&mut judges, model, &engine_config, &mut spec, &mut bar)?;
            // The engine took the model with it.
            (LoadedModel::load(&path, &options)?, Some(report))
        }
    };
    let run = RunOptions { checkpoint: args.checkpoint.clone(), ..RunOptions::default() };
    let inputs = encode(&model, &spec)?;
    let started = Instant::now();
    let of = (&run, &mut bar as &mut dyn Progress);
    let made = extract_encoded(&model.llama, &model.identity, &spec, &inputs, of)?;
    output::note(&rate(&inputs, started.elapsed()));
    Ok(Extraction { guided, ..made })
}

/// How fast it was; an input that stands there twice is read once.
fn rate(inputs: &[EncodedInput], elapsed: Duration) -> String {
    let read: HashSet<_> = inputs.iter().map(|input| (&input.token_ids, &input.rows)).collect();
    let num_tokens: usize = read.iter().map(|(token_ids, _)| token_ids.len()).sum();
    let seconds = elapsed.as_secs_f64();
    format!(
        "{} inputs, {num_tokens} tokens in {seconds:.1} s: {:.0} tokens/s",
        inputs.len(),
        num_tokens as f64 / seconds.max(f64::MIN_POSITIVE)
    )
}

fn spec(args: &Args, data: &[DataSet], num_hidden_layers: usize) -> anyhow::Result<ExtractSpec> {
    let layers = match &args.layers {
        Some(layers) => parse_layers(layers)?,
        None => (num_hidden_layers / 3..num_hidden_layers - num_hidden_layers / 3).collect(),
    };
    let variant = args.variant.variant();
    let (categories, data_sha256) = inputs(args, data, variant.pairing)?;
    let (_, most_tokens) = args.recipe.tokens();
    Ok(ExtractSpec {
        site: args.site,
        layers,
        tokens: args.tokens,
        max_response_tokens: args.max_response_tokens.or(most_tokens),
        prompt_form: PromptForm::ChatTemplate,
        variant,
        categories,
        data_sha256,
    })
}

/// Both sides of each category, and the hashes of what they were made from. Contrast texts stand behind the prompts that
/// a calibration extracts from, so that its vectors can be made again; the other recipes take all of the data.
fn inputs(
    args: &Args,
    data: &[DataSet],
    pairing: Pairing,
) -> anyhow::Result<(Vec<CategoryInputs>, Vec<String>)> {
    let form = match args.recipe {
        RecipeName::Contrast => {
            let contrast = contrast(args.contrast.as_deref())?;
            // Nobody is asked anything here.
            let per_category = 0;
            let shares = (Shares::default(), per_category);
            let plan = args.recipe.recipe().plan(data, shares, pairing, &contrast)?;
            return Ok((plan.inputs, plan.data_sha256));
        }
        RecipeName::Prompts => Form::Prompts,
        RecipeName::Responses => Form::Responses,
    };
    let items: Vec<_> = data.iter().flat_map(|set| &set.items).collect();
    let data_sha256 = data.iter().map(|set| set.sha256.clone()).collect();
    Ok((inputs_of(&items, form, pairing)?, data_sha256))
}

/// A generation whose effect nobody has measured: it says so, and steers only with a strength that somebody
/// chose.
fn unmeasured_generation(extraction: &Extraction, strength: Option<f32>) -> NewGeneration {
    let most = strength.unwrap_or(0.0);
    let rule = CategoryPolicy {
        auto: None,
        action: if strength.is_some() { Action::Steer } else { Action::Log },
        strength: Strength { default: most, floor: 0.0, ceiling: most },
        positions: Positions::All,
        refusal: DEFAULT_REFUSAL.to_owned(),
    };
    let names = || extraction.categories.keys().cloned();
    let options = PublishOptions {
        policy: Policy::open(names().map(|category| (category, rule.clone())).collect()),
        operator: Operator::Add,
        orientation: Orientation::SafeMinusUnsafe,
        safe_windows: names()
            .map(|category| (category, SafeWindow { min: 0.0, max: most }))
            .collect(),
        measured: Vec::new(),
        card: card(extraction, strength),
        figures: None,
    };
    to_generation(extraction, options)
}

fn card(extraction: &Extraction, strength: Option<f32>) -> String {
    let chosen = match strength {
        Some(strength) => format!("Strength {strength} was chosen, not measured."),
        None => "The policy only logs, until a strength is chosen.".to_owned(),
    };
    let mut text = format!(
        "# Category vectors\n\nMade by `skeg extract`. **The effect of these vectors was not measured.** {chosen}\n\n\
         Safe minus unsafe ({}) over {} tokens; data SHA-256 {}.\n\n\
         | category | safe | unsafe | layers |\n|---|---|---|---|\n",
        extraction.method(),
        extraction.tokens,
        extraction.data_sha256.join(", ")
    );
    for (category, one) in &extraction.categories {
        let (safe, not_safe) = (one.num_safe, one.num_unsafe);
        text.push_str(&format!("| {category} | {safe} | {not_safe} | {:?} |\n", extraction.layers));
    }
    if let Some(report) = &extraction.guided {
        text.push_str(&format!(
            "\nGuided: the model answered unsteered, and only exchanges that the judge of harm ({}) confirmed count. \
             Beside it judged: {} (refusals) and {} (broken answers).\n\n{}",
            report.harm_judge,
            report.refusal_judge,
            report.degenerate_judge,
            report.to_markdown()
        ));
    }
    text
}

fn table(extraction: &Extraction) -> Table {
    let mut table =
        Table::new(&["CATEGORY", "SAFE", "UNSAFE", "RELATIVE NORM", "SPLIT-HALF COSINE"]);
    for (category, one) in &extraction.categories {
        table.row(vec![
            category.to_string(),
            one.num_safe.to_string(),
            one.num_unsafe.to_string(),
            least_to_most(one.layers.iter().map(|layer| layer.relative_norm)),
            least_to_most(one.layers.iter().filter_map(|layer| layer.split_half_cosine)),
        ]);
    }
    table
}
