//! `skeg probe tune-embedder`: a sentence encoder whose last layers know the categories.

use std::path::PathBuf;

use anyhow::bail;
use skeg_lab::catqa_categories;
use skeg_lab::judge::SentenceEmbedder;
use skeg_lab::probe::{
    Corpus, EmbedderTraining, SourceSet, TuneReport, TuneSpec, refuse_existing, tune, unseen,
};
use skeg_vector_store::Category;

use super::data_flags::DataFlags;
use super::print_flags::PrintFlags;
use super::probe::read_source;
use super::progress::Bar;
use crate::output;

/// Tune the last layers of a sentence encoder on labelled prompts, and compare it with the frozen one on sets that it did not see.
///
/// The new folder is an embedder like any other: `skeg probe train --members embedding --embedder DIR` reads it. A probe's own training sets
/// must be others than the encoder's, since it knows those.
#[derive(Debug, clap::Args)]
pub(super) struct TuneArgs {
    /// Folder of a BERT sentence embedder, such as all-MiniLM-L6-v2
    #[arg(long, value_name = "DIR")]
    embedder: PathBuf,
    /// A source of prompts with `harmful` and `category`: a name and its files
    #[arg(long, value_name = "NAME=FILE,...", required = true)]
    train: Vec<String>,
    /// A source of --train that is not trained on, but measured
    #[arg(long, value_name = "NAME")]
    leave_out: Vec<String>,
    /// A further set to measure both encoders on: a name and its files
    #[arg(long, value_name = "NAME=FILE,...")]
    measure: Vec<String>,
    /// Where the tuned encoder is written, a folder that holds none
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The categories that its head learns, as slugs [default: CatQA's eleven]
    #[arg(long, value_name = "SLUG", value_delimiter = ',')]
    categories: Vec<Category>,
    /// Layers that change, counted from the last
    #[arg(long, value_name = "NUM", default_value_t = TuneSpec::default().num_layers)]
    tune_layers: usize,
    /// Times that every prompt is seen
    #[arg(long, value_name = "NUM", default_value_t = TuneSpec::default().num_epochs)]
    epochs: usize,
    /// Prompts of a step
    #[arg(long, value_name = "NUM", default_value_t = TuneSpec::default().batch_size)]
    batch_size: usize,
    /// Tokens of a text that are read in training: of a longer one its first and its last, half each
    #[arg(long, value_name = "NUM", default_value_t = TuneSpec::default().max_tokens)]
    max_tokens: usize,
    /// Highest learning rate of the encoder
    #[arg(long, value_name = "NUM", default_value_t = TuneSpec::default().learning_rate)]
    learning_rate: f64,
    /// Highest learning rate of the head
    #[arg(long, value_name = "NUM", default_value_t = TuneSpec::default().head_learning_rate)]
    head_learning_rate: f64,
    /// Of the order of prompts
    #[arg(long, value_name = "NUM", default_value_t = TuneSpec::default().seed)]
    seed: u64,
    #[command(flatten)]
    data_flags: DataFlags,
    #[command(flatten)]
    print: PrintFlags,
}

impl TuneArgs {
    fn spec(&self) -> TuneSpec {
        TuneSpec {
            num_layers: self.tune_layers,
            num_epochs: self.epochs,
            batch_size: self.batch_size,
            max_tokens: self.max_tokens,
            learning_rate: self.learning_rate,
            head_learning_rate: self.head_learning_rate,
            seed: self.seed,
            ..TuneSpec::default()
        }
    }

    /// Sources to train on, and sets to measure on.
    fn sources(&self) -> anyhow::Result<[Vec<SourceSet>; 2]> {
        let read = |given: &String| read_source(given, &self.data_flags);
        let sources = self.train.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(name) =
            self.leave_out.iter().find(|name| sources.iter().all(|source| source.name != **name))
        {
            bail!("--leave-out {name}: no source of --train has that name");
        }
        let (mut measured, trained): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|source| self.leave_out.contains(&source.name));
        measured.extend(self.measure.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?);
        Ok([trained, measured])
    }
}

pub(super) fn run(args: &TuneArgs) -> anyhow::Result<()> {
    refuse_existing(&args.out)?;
    let categories =
        if args.categories.is_empty() { catqa_categories() } else { args.categories.clone() };
    let [trained, measured] = args.sources()?;
    let corpus = Corpus::new(&trained, &categories)?;
    let measured = if measured.is_empty() {
        None
    } else {
        let (measured, num_dropped) = unseen(Corpus::new(&measured, &categories)?, &corpus);
        if num_dropped > 0 {
            output::note(&format!("{num_dropped} prompts to measure on are trained on: left out"));
        }
        Some(measured)
    };
    let mut bar = Bar::new()?;
    let tuned = tune(&args.embedder, &corpus, &args.spec(), &mut bar)?;
    tuned.write(&args.out)?;
    let after = SentenceEmbedder::load(&args.out)?;
    let Some(measured) = measured else {
        return Ok(output::line(&format!("{} is an embedder", args.out.display()))?);
    };
    let before = SentenceEmbedder::load(&args.embedder)?;
    let report = TuneReport::new(&tuned, [&before, &after], &measured, &mut bar)?;
    args.print.print(&report, || report.to_plain(), || report.to_markdown())
}

/// Refuses sources that a tuned encoder has seen: left out in turn, they would still look known.
pub(super) fn refuse_seen(embedder: Option<&PathBuf>, corpus: &Corpus) -> anyhow::Result<()> {
    let Some(folder) = embedder else { return Ok(()) };
    let Some(training) = EmbedderTraining::read(folder)? else { return Ok(()) };
    let seen = training.seen(corpus);
    if !seen.is_empty() {
        bail!(
            "the embedder in {} was tuned on {}, so what its member makes of them is too good and its weight too large; train the probe on \
             other sources, tune with --leave-out, or say --allow-overlap",
            folder.display(),
            seen.join(", ")
        );
    }
    Ok(())
}
