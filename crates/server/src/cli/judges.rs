//! `skeg evaluate judges`: how far the judges of answers agree with people.

use std::path::{Path, PathBuf};

use anyhow::bail;
use skeg_lab::judge::{JudgesSpec, L2, NamedSet, SharedRows, measure_judges, save_heads};

use super::data_flags::DataFlags;
use super::judge_flags::JudgeFlags;
use super::print_flags::PrintFlags;
use super::progress::Bar;
use crate::config::cache_dir;

/// Compare the judges of answers with labels given by people, each figure with its 95 % interval.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Labelled answers to compare on (.jsonl, .json, .csv, .tsv or .parquet)
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    test: Vec<PathBuf>,
    #[command(flatten)]
    data_flags: DataFlags,
    #[command(flatten)]
    judge_flags: JudgeFlags,
    /// Folder below which an endpoint's verdicts are kept [default: the platform's cache folder]
    #[arg(long, env = "SKEG_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Answers labelled `refusal` or `compliance` to train refusal heads on
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "embedder", conflicts_with = "heads")]
    train_refusal: Vec<PathBuf>,
    /// Answers labelled `unsafe` or `safe` to train a harm head on
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "embedder", conflicts_with = "heads")]
    train_harm: Vec<PathBuf>,
    /// Judge test prompts that are in the training data by heads trained without them, with so many folds [default: leave
    /// such prompts out of the test]
    #[arg(long, value_name = "NUM", value_parser = clap::value_parser!(u8).range(2..=50), conflicts_with = "heads")]
    folds: Option<u8>,
    /// Leave answers that are in training and test out of the test, instead of refusing the test set; also those that --heads
    /// were trained on
    #[arg(long, conflicts_with = "folds")]
    drop_shared: bool,
    /// L2 penalty of the heads, on standardised features, for each training answer
    #[arg(long, value_name = "NUM", default_value_t = L2)]
    l2: f64,
    /// Keep the heads, trained on all their data, in this file, with the agreement measured here and hashes of the training
    /// rows
    #[arg(long, value_name = "FILE", requires = "embedder")]
    save: Option<PathBuf>,
    #[command(flatten)]
    print: PrintFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg evaluate judges --test labelled.jsonl
  skeg evaluate judges --embedder all-MiniLM-L6-v2 --train-refusal one.jsonl --test another.jsonl
  skeg evaluate judges --embedder all-MiniLM-L6-v2 --train-harm one.jsonl --test one.jsonl another.jsonl --folds 5
  skeg evaluate judges --judge-url http://127.0.0.1:8000/v1 --judge-model Llama-Guard-3-8B --test labelled.jsonl

The label stands in `response_label`: refusal or compliance; unsafe or safe; degenerate or intact; on_topic or off_topic.
A judge is compared on the sets that have its labels. Figures only: no prompt and no answer is printed or kept, but the
endpoint of --judge-url gets them.";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if args.save.is_some() && args.train_refusal.is_empty() && args.train_harm.is_empty() {
        bail!("--save has nothing to keep: give --train-refusal or --train-harm");
    }
    if args.judge_flags.has_reward() {
        bail!(
            "--reward-url: there are no labels to compare scores of helpfulness with; leave it out"
        );
    }
    let read = |paths| read(paths, &args.data_flags);
    let (train_refusal, train_harm) = (read(&args.train_refusal)?, read(&args.train_harm)?);
    let tests = read(&args.test)?;
    let given = args.judge_flags.heads()?;
    let spec = JudgesSpec {
        train_refusal: &train_refusal,
        train_harm: &train_harm,
        heads: &given.heads,
        tests: &tests,
        num_folds: args.folds.map(usize::from),
        shared: if args.drop_shared { SharedRows::Drop } else { SharedRows::Refuse },
        l2: args.l2,
    };
    let cache_dir = match &args.judge_flags {
        flags if flags.has_endpoint() => Some(cache_dir(args.cache_dir.as_deref())?.join("judges")),
        _ => None,
    };
    let endpoint = args.judge_flags.endpoint(cache_dir.as_deref())?;
    let embedder = args.judge_flags.embedder()?;
    let others = endpoint.into_iter().collect();
    let (report, measured) = measure_judges(&spec, embedder, others, &mut Bar::new()?)?;
    if let Some(file) = &args.save {
        save_heads(file, &measured)?;
    }
    args.print.print(&report, || report.to_plain(), || report.to_markdown())
}

fn read(paths: &[PathBuf], flags: &DataFlags) -> anyhow::Result<Vec<NamedSet>> {
    let read = |path: &PathBuf| Ok(NamedSet { name: name_of(path), data: flags.read(path)? });
    paths.iter().map(read).collect()
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
