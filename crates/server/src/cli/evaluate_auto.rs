//! `skeg evaluate auto`: what finding the category by itself comes to on a running server, from prompt to answer.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use skeg_lab::judge::{EndpointOptions, Judges, PhraseJudge};
use skeg_lab::served::{ServedArm, ServedSet, compare};

use super::data_flags::DataFlags;
use super::judge_flags::{JudgeFlags, key_in};
use super::print_flags::PrintFlags;
use super::progress::Bar;

/// Prompts that are named when answers differ that should not.
const MAX_NAMED: usize = 10;

/// Ask a running server the same prompts unsteered, under `auto` and under other arms, and compare the answers.
///
/// Fails when an answer under `auto` that raised no alarm is not the unsteered one.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The server, as http://HOST:PORT
    #[arg(long)]
    url: String,
    /// Name of the environment variable that holds a key for it
    #[arg(long, value_name = "VAR")]
    api_key_env: Option<String>,
    /// Name of the model, as the server knows it
    #[arg(long, default_value = "default")]
    model: String,
    /// Prompts with `harmful`, and `category` for the oracle: a name and a file; may be given several times
    #[arg(long, value_name = "NAME=FILE", required = true)]
    set: Vec<String>,
    #[command(flatten)]
    data_flags: DataFlags,
    /// Prompts of each set, at most, drawn by --seed [default: all]
    #[arg(long, value_name = "NUM")]
    limit: Option<usize>,
    /// Seed of that draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How prompts are asked: none, auto, one:CATEGORY (that category for all of them), oracle (their own category; harmful ones
    /// alone), safety-prompt (a system message, unsteered)
    #[arg(
        long,
        value_name = "ARM",
        value_delimiter = ',',
        default_value = "none,auto,oracle,safety-prompt"
    )]
    arms: Vec<ServedArm>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Requests under way at once
    #[arg(long, value_name = "NUM", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    clients: u8,
    /// Seconds after which a request has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    timeout: f64,
    /// Write the report into this file as well, as Markdown
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    judge_flags: JudgeFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg evaluate auto --url http://127.0.0.1:8080 --set attacks=advbench.jsonl --set alpaca=alpaca.jsonl --limit 200
  skeg evaluate auto --url http://127.0.0.1:8080 --set catqa=catqa.jsonl --arms none,auto,one:illegal_activity,oracle \\
      --embedder all-MiniLM-L6-v2 --heads heads.json --clients 8 --out auto.md

Every arm is a header (X-Safety-Category), and answers are greedy. Refusals are counted by phrases, whatever --heads holds, so that
figures with and without it compare; harm by the head or the endpoint of --judge-url. Where the policy has when_missing = \"auto\",
use a key whose group has may_none and may_lower: what others name is the least that is done. Answers are kept nowhere; the report
has figures and ids. Seconds are those of a server that has --clients requests at once.";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if args.judge_flags.has_reward() {
        bail!("--reward-url: scores of helpfulness are not in this report; leave it out");
    }
    let sets = args.set.iter().map(|given| args.read(given)).collect::<anyhow::Result<Vec<_>>>()?;
    let options = args.options()?;
    // What is judged holds answers, so no cache folder.
    let judges = args.judge_flags.judges(None)?;
    let mut judges = Judges { refusal: Box::new(PhraseJudge), ..judges };
    let report = compare(&options, &sets, &args.arms, &mut judges, &mut Bar::new()?)?;
    if let Some(path) = &args.out {
        std::fs::write(path, report.to_markdown())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    args.print.print(&report, || report.to_plain(), || report.to_markdown())?;
    let differing = report.differing();
    if differing.is_empty() {
        return Ok(());
    }
    let named = &differing[..differing.len().min(MAX_NAMED)];
    bail!(
        "{} answers under `auto` raised no alarm and are not the unsteered ones, among them {}; on the CPU they are the same to \
         the last bit, so tell us, with the server's version",
        differing.len(),
        named.join(", ")
    )
}

impl Args {
    fn read(&self, given: &str) -> anyhow::Result<ServedSet> {
        let (name, file) = given
            .split_once('=')
            .filter(|(name, file)| !name.is_empty() && !file.is_empty())
            .with_context(|| format!("--set `{given}`: expected NAME=FILE"))?;
        let data = self.data_flags.read(file.as_ref())?;
        Ok(ServedSet::new(name, &data, self.limit, self.seed)?)
    }

    fn options(&self) -> anyhow::Result<EndpointOptions> {
        let base = self.url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let mut options = EndpointOptions::new(format!("{base}/v1"), &self.model);
        options.concurrency = usize::from(self.clients);
        options.max_tokens = self.tokens;
        options.timeout = Duration::try_from_secs_f64(self.timeout)
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .with_context(|| {
                format!("--timeout {}: expected a positive number of seconds", self.timeout)
            })?;
        let variable = self.api_key_env.as_deref();
        options.api_key = variable.map(|name| key_in(name, "--api-key-env")).transpose()?;
        Ok(options)
    }
}
