//! `skeg probe train|evaluate|tune-embedder`: the gate's classifier, and how far it can be believed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use skeg_lab::probe::measure::{ProbeReport, SetRow, SetTable, write_pictures};
use skeg_lab::probe::{
    AnswerReport, AnswerTable, Corpus, NGrams, Penalties, Probe, ProbeSpec, PromptRow, Reads,
    SourceSet, Verdict, evade, style_check, train, verdicts,
};
use skeg_lab::{DataSet, catqa_categories};
use skeg_model::steering::Site;
use skeg_vector_store::Category;

use super::data_flags::DataFlags;
use super::layers::parse_layers;
use super::probe_answers::{AnswerFlags, ThresholdFlags};
use super::probe_disguise::{AugmentFlags, evasions};
use super::probe_read::{Loaded, ReadFlags};
use super::probe_seen::SeenFlags;
use super::probe_tune::{self, TuneArgs, refuse_seen};
use super::progress::Bar;
use crate::output;

/// Train the classifier of `auto`, and measure it on sets that it never saw.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum Command {
    Train(TrainArgs),
    Evaluate(EvaluateArgs),
    TuneEmbedder(TuneArgs),
}

const AFTER_HELP: &str = "\
Examples:
  skeg probe train --train catqa=catqa.jsonl,catqa_twins.jsonl --train pairs=pairs.jsonl --out probe.safetensors
  skeg probe train --train a=a.jsonl --train b=b.jsonl --augment all --cache ~/.cache/skeg/probe --out probe.safetensors
  skeg probe tune-embedder --embedder all-MiniLM-L6-v2 --train pairs=pairs.jsonl --measure xstest=xstest.jsonl --out tuned
  skeg probe evaluate --probe probe.safetensors --test alpaca=alpaca.jsonl --test xstest=xstest.jsonl --evade all
  skeg vectors publish --probe probe.safetensors --policy policy.toml

With --answers 40 the probe also learns to look at answers while they are generated (`recheck_every` in the policy).

Each --train NAME=FILE,FILE is one source: a set with the twins of its prompts. Sources are left out in turn, because a probe that
knows a set's style looks perfect on a split of its rows and is not. Figures only: no text is printed or kept.";

/// What a probe is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MemberKind {
    /// The model's own activations on the prompt's last row
    Activations,
    /// The mean of the model's own activations over the prompt's rows
    Mean,
    /// Hashed n-grams of the text
    Ngrams,
    /// Sentence embeddings of the text; needs --embedder
    Embedding,
}

/// Train a probe on labelled prompts, and say what each source is found to be by members that did not see it.
#[derive(Debug, clap::Args)]
pub(super) struct TrainArgs {
    /// A source of prompts with `harmful` and `category`: a name and its files
    #[arg(long, value_name = "NAME=FILE,...", required = true)]
    train: Vec<String>,
    /// Where the probe is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The categories it is to know, as slugs [default: CatQA's eleven]
    #[arg(long, value_name = "SLUG", value_delimiter = ',')]
    categories: Vec<Category>,
    /// What it is made of
    #[arg(long, value_enum, value_delimiter = ',', default_value = "activations,ngrams")]
    members: Vec<MemberKind>,
    /// Layers whose activations are read, `14,18` or `8-19` [default: around half, three fifths and three quarters of the model]
    #[arg(long)]
    layers: Option<String>,
    /// Layers of the mean [default: those of --layers]
    #[arg(long, value_name = "LAYERS")]
    mean_layers: Option<String>,
    /// L2 penalty of activations and embeddings, on standardised features
    #[arg(long, value_name = "NUM", default_value_t = Penalties::default().dense)]
    l2: f64,
    /// L2 penalty of n-grams
    #[arg(long, value_name = "NUM", default_value_t = Penalties::default().sparse)]
    l2_ngrams: f64,
    /// Harm in activations and embeddings may be found along so many directions alone: the main ones of what tells prompts from their
    /// twins (`twin_of`) [default: any]
    #[arg(long, value_name = "NUM")]
    rank: Option<usize>,
    /// The source whose prompts say what the categories are: for these it counts as much as all others together
    #[arg(long, value_name = "NAME")]
    categories_by: Option<String>,
    #[command(flatten)]
    augment: AugmentFlags,
    /// Train on sources that a tuned embedder has seen; its weight is then too large
    #[arg(long)]
    allow_overlap: bool,
    #[command(flatten)]
    answer_flags: AnswerFlags,
    #[command(flatten)]
    read: ReadFlags,
}

/// Measure a probe on sets that it was not trained on.
#[derive(Debug, clap::Args)]
pub(super) struct EvaluateArgs {
    /// The probe, a file from `skeg probe train`
    #[arg(long, value_name = "FILE")]
    probe: PathBuf,
    /// A set to measure on: a name and its files
    #[arg(long, value_name = "NAME=FILE,...", required = true)]
    test: Vec<String>,
    /// Measure known evasions of the sets' prompts as well, harmful and harmless ones alike: base64, leetspeak, spaced and others, or all
    #[arg(long, value_name = "EVASION", value_delimiter = ',')]
    evade: Vec<String>,
    /// Write each prompt's verdict there as JSON Lines: set, id, label and probabilities, no text
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// Write `report.md`, `report.json` and pictures into this folder, which is made if need be
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    seen: SeenFlags,
    #[command(flatten)]
    answer_flags: AnswerFlags,
    #[command(flatten)]
    thresholds: ThresholdFlags,
    #[command(flatten)]
    read: ReadFlags,
}

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => run_train(args),
        Command::Evaluate(args) => run_evaluate(args),
        Command::TuneEmbedder(args) => probe_tune::run(args),
    }
}

fn run_train(args: &TrainArgs) -> anyhow::Result<()> {
    let categories =
        if args.categories.is_empty() { catqa_categories() } else { args.categories.clone() };
    let corpus = Corpus::new(&read_sources(&args.train, &args.read)?, &categories)?;
    let has = |kind| args.members.contains(&kind);
    let needs_model = has(MemberKind::Activations) || has(MemberKind::Mean);
    if has(MemberKind::Embedding) && !args.allow_overlap {
        refuse_seen(args.read.embedder.as_ref(), &corpus)?;
    }
    args.answer_flags.check(needs_model)?;
    let loaded = Loaded::new(&args.read, needs_model, has(MemberKind::Embedding))?;
    let layers = match (&args.layers, &loaded.model) {
        (Some(text), _) => parse_layers(text)?,
        (None, Some(model)) => default_layers(model.llama.config().num_hidden_layers),
        (None, None) => Vec::new(),
    };
    let mean_layers = match &args.mean_layers {
        Some(text) => parse_layers(text).context("--mean-layers")?,
        None => layers.clone(),
    };
    let site = Site::ResidPost;
    let members = args.members.iter().map(|kind| match kind {
        MemberKind::Activations => {
            Reads::Activations { site, layers: layers.clone(), row: PromptRow::Last }
        }
        MemberKind::Mean => {
            Reads::Activations { site, layers: mean_layers.clone(), row: PromptRow::Mean }
        }
        MemberKind::Ngrams => Reads::NGrams(NGrams::default()),
        MemberKind::Embedding => Reads::Embedding,
    });
    let penalties = Penalties {
        dense: args.l2,
        sparse: args.l2_ngrams,
        harm_rank: args.rank,
        ..Penalties::default()
    };
    let spec = ProbeSpec {
        members: members.collect(),
        penalties,
        categories_by: args.categories_by.clone(),
    };
    let style = style_check(&corpus)?;
    output::note(&style.words());
    let corpus = args.augment.augmented(corpus)?;
    let trained = train(&corpus, &spec, loaded.sources(), &mut Bar::new()?)?;
    let mut probe = trained.probe;
    let answers = args.answer_flags.train(&probe, &corpus, loaded.model, penalties)?;
    let (part, answers) = answers.unzip();
    probe.answer = part;
    std::fs::write(&args.out, probe.to_bytes()?)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let held_out: Vec<_> = trained.held_out.into_iter().map(|one| one.verdict).collect();
    let training = Training { sets: SetTable::new(&corpus, &held_out)?, answers };
    args.read.print.print(&training, || training.plain(), || training.markdown())
}

/// What training prints: sources by what did not see them.
#[derive(Debug, Serialize)]
struct Training {
    #[serde(flatten)]
    sets: SetTable,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<AnswerTable>,
}

impl Training {
    fn plain(&self) -> String {
        let answers = self.answers.as_ref().map(|table| format!("\n{}", table.to_plain()));
        self.sets.to_plain() + &answers.unwrap_or_default()
    }

    fn markdown(&self) -> String {
        let answers = self.answers.as_ref().map(|table| format!("\n{}", table.to_markdown()));
        self.sets.to_markdown() + &answers.unwrap_or_default()
    }
}

fn run_evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    let bytes = Probe::read_file(&args.probe)?;
    let probe = Probe::from_bytes(&bytes)
        .with_context(|| format!("{} is not a probe", args.probe.display()))?;
    let sets = read_sources(&args.test, &args.read)?;
    args.seen.check(&probe.trained_on, (&args.test, &sets), &args.read.data_flags)?;
    let corpus = Corpus::new(&sets, &probe.categories)?;
    let needs_model = probe.activation_input().is_some();
    args.answer_flags.check(needs_model)?;
    let loaded = Loaded::new(&args.read, needs_model, probe.embedder().is_some())?;
    let found = verdicts(&probe, &corpus, loaded.sources(), &mut Bar::new()?)?;
    if let Some(path) = &args.scores {
        write_scores(path, &corpus, &found)?;
    }
    let report = ProbeReport::new(&corpus, &found)?;
    let mut table = SetTable::new(&corpus, &found)?;
    for evasion in evasions(&args.evade)? {
        let evaded = evade(&corpus, evasion, EVASION_SEED);
        let found = verdicts(&probe, &evaded, loaded.sources(), &mut Bar::new()?)?;
        table.rows.extend(
            SetTable::new(&evaded, &found)?
                .rows
                .pop()
                .map(|row| SetRow { set: format!("all+{evasion}"), ..row }),
        );
    }
    let measured = (&corpus, found.as_slice());
    let answers = args.answer_flags.measure(&probe, measured, loaded.model, &args.thresholds)?;
    let evaluation = Evaluation { sets: table, report, answers };
    if let Some(folder) = &args.out {
        evaluation.write(folder)?;
    }
    args.read.print.print(&evaluation, || evaluation.plain(), || evaluation.markdown())
}

/// What an evaluation prints.
#[derive(Debug, Serialize)]
struct Evaluation {
    sets: SetTable,
    report: ProbeReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<AnswerReport>,
}

impl Evaluation {
    /// Writes the report and its pictures.
    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let mut text = format!("# Probe\n\n{}", self.markdown());
        for (file, shows) in write_pictures(&self.report, folder)? {
            text.push_str(&format!("\n![{shows}]({file})\n"));
        }
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (name, content) in [("report.md", text), ("report.json", json)] {
            let path = folder.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn plain(&self) -> String {
        let answers = self.answers.as_ref().map(|report| format!("\n{}", report.to_plain()));
        let answers = answers.unwrap_or_default();
        format!("{}\n{}{answers}", self.sets.to_plain(), self.report.to_plain())
    }

    fn markdown(&self) -> String {
        let answers = self.answers.as_ref();
        let answers = answers.map(|report| format!("\n## Answers\n\n{}", report.to_markdown()));
        let answers = answers.unwrap_or_default();
        format!("## Sets\n\n{}\n{}{answers}", self.sets.to_markdown(), self.report.to_markdown())
    }
}

/// Odd, so that no wrapper is one that training on an even seed has seen.
const EVASION_SEED: u64 = 1;

/// One line a prompt.
fn write_scores(path: &Path, corpus: &Corpus, found: &[Verdict]) -> anyhow::Result<()> {
    let mut lines = String::new();
    for (prompt, verdict) in corpus.prompts.iter().zip(found) {
        let category = prompt.category_idx.map(|idx| &corpus.categories[idx]);
        let line = json!({
            "set": corpus.sets[prompt.set_idx].0,
            "id": prompt.id,
            "harmful": prompt.harmful,
            "category": category,
            "harm": verdict.harm,
            "categories": verdict.categories,
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    std::fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))
}

/// Around half, three fifths and three quarters of the model: early layers fail where these succeed.
fn default_layers(num_hidden_layers: usize) -> Vec<usize> {
    let at = |tenths: usize| (num_hidden_layers * tenths / 20).min(num_hidden_layers - 1);
    let mut layers = vec![at(10), at(12), at(15)];
    layers.dedup();
    layers
}

fn read_sources(given: &[String], flags: &ReadFlags) -> anyhow::Result<Vec<SourceSet>> {
    given.iter().map(|given| read_source(given, &flags.data_flags)).collect()
}

/// One source: a name and its files.
pub(super) fn read_source(given: &str, data_flags: &DataFlags) -> anyhow::Result<SourceSet> {
    let (name, files) = given
        .split_once('=')
        .filter(|(name, files)| !name.is_empty() && !files.is_empty())
        .with_context(|| format!("`{given}`: expected NAME=FILE or NAME=FILE,FILE"))?;
    let files = files.split(',').map(|file| data_flags.read(file.as_ref()));
    let files = files.collect::<skeg_lab::Result<Vec<DataSet>>>()?;
    Ok(SourceSet { name: name.to_owned(), files })
}
