//! `skeg bench accuracy`: what quantised weights, 8-bit activations and a 16-bit cache cost, on a text of the user's.

mod score;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use skeg_model::{KvCacheDtype, LoadOptions, LoadedModel, Tokenizer, WeightForm};

use super::machine::Machine;
use super::stats::median;
use super::{InProcess, InProcessFlags, Subject};
use crate::cli::running::model_path;
use crate::output::{self, Table};
use score::Scorer;

/// Perplexity of a text, and the distance to the same weights in f32
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct Args {
    /// Text to score, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window; the second half of each is scored
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    window: usize,
    /// Windows to score [default: all of the text]
    #[arg(long, value_name = "NUM")]
    windows: Option<usize>,
    /// Windows to compare with f32, spread over those scored
    #[arg(long, value_name = "NUM", default_value_t = 8)]
    compared: usize,
    /// Greedy answers to compare with f32
    #[arg(long, value_name = "NUM", default_value_t = 50)]
    answers: usize,
    /// Tokens of each prompt, taken from the text at equal distances
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    prompt_tokens: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    answer_tokens: usize,
    #[command(flatten)]
    common: InProcessFlags,
}

const AFTER_HELP: &str = "\
Examples:
  skeg bench accuracy --text book.txt
  skeg bench accuracy --text book.txt --compared 0 --answers 0        perplexity alone
  skeg bench accuracy --text book.txt --kv-cache-dtype f32

Perplexity is made as llama.cpp's llama-perplexity makes it: windows that do not overlap, the second half of each
scored. The reference has the same weights dequantised to f32 and a cache of f32; it is slow.";

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Report {
    subject: Subject,
    machine: Machine,
    text_tokens: usize,
    window_tokens: usize,
    scored_windows: usize,
    perplexity: Option<f64>,
    compared: Option<Compared>,
    answers: Option<Answers>,
}

/// Some windows against the reference.
#[derive(Debug, Serialize)]
struct Compared {
    windows: usize,
    perplexity: f64,
    reference_perplexity: f64,
    /// Mean over the scored tokens, in nats.
    mean_divergence: f64,
    /// Share of scored tokens with the same most likely token.
    top_1_agreement: f64,
}

/// Greedy answers against the reference's.
#[derive(Debug, Serialize)]
struct Answers {
    answers: usize,
    answer_tokens: usize,
    /// Answers that are the same to the last token.
    identical: usize,
    /// The first token that differs, counted from 0, median of the answers that differ.
    median_first_difference: Option<f64>,
    /// Mean over all tokens of the reference's answers of how far the two log-probabilities are apart, in nats.
    mean_logprob_difference: f64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.window >= 4, "--window is {}; expected at least 4", args.window);
    ensure!(args.prompt_tokens > 0 && args.answer_tokens > 0, "prompts and answers need a token");
    let InProcess { model, subject, .. } = InProcess::load(&args.common)?;
    let text = std::fs::read_to_string(&args.text)
        .with_context(|| format!("reading {}", args.text.display()))?;
    let text = encode(&model.tokenizer, &text)?;
    let windows = windows(&model.tokenizer, &text, args)?;
    ensure!(
        !windows.is_empty(),
        "{} has {} tokens; expected at least a window of {}",
        args.text.display(),
        text.len(),
        args.window
    );
    let needs_reference = args.compared > 0 || args.answers > 0;
    let reference = needs_reference.then(|| load_reference(args)).transpose()?;
    let mut report = Report {
        subject,
        machine: Machine::here(),
        text_tokens: text.len(),
        window_tokens: args.window,
        scored_windows: windows.len(),
        perplexity: None,
        compared: None,
        answers: None,
    };
    let longest = args.window.max(args.prompt_tokens + args.answer_tokens);
    let mut scorer = Scorer::new(&model.llama, longest, args.common.kv_cache_dtype)?;
    report.perplexity = Some(perplexity(&mut scorer, &windows)?);
    if let Some(reference) = &reference {
        let mut exact = Scorer::new(&reference.llama, longest, KvCacheDtype::F32)?;
        report.compared = compare(&mut scorer, &mut exact, &spread(&windows, args.compared))?;
        let prompts: Vec<&[u32]> = text.chunks_exact(args.prompt_tokens).collect();
        let prompts = spread(&prompts, args.answers);
        report.answers = answers(&mut scorer, &mut exact, &prompts, args.answer_tokens)?;
    }
    if args.common.json { Ok(output::json(&report)?) } else { report.print() }
}

/// The same weights in f32.
fn load_reference(args: &Args) -> anyhow::Result<LoadedModel> {
    let config = args.common.model.serving_config(None)?;
    let path = model_path(&config.model, args.common.model.fetch)?;
    let options = LoadOptions { weights: WeightForm::F32, ..config.model.load_options() };
    Ok(LoadedModel::load(Path::new(&path), &options)?)
}

fn encode(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
    Ok(tokenizer.encode(text, false)?)
}

/// Windows side by side; each begins with the model's first token, where it has one.
fn windows(tokenizer: &Tokenizer, text: &[u32], args: &Args) -> anyhow::Result<Vec<Vec<u32>>> {
    let special = tokenizer.encode("", true)?;
    let mut windows: Vec<Vec<u32>> = text.chunks_exact(args.window).map(<[u32]>::to_vec).collect();
    windows.truncate(args.windows.unwrap_or(usize::MAX));
    if let Some(first) = special.first() {
        windows.iter_mut().for_each(|window| window[0] = *first);
    }
    Ok(windows)
}

/// At most `num` of the items, at equal distances.
fn spread<T: Clone>(items: &[T], num: usize) -> Vec<T> {
    let num = num.min(items.len());
    (0..num).map(|idx| items[idx * items.len() / num].clone()).collect()
}

/// `exp` of the mean negative log-probability of the windows' second halves.
fn perplexity(scorer: &mut Scorer<'_>, windows: &[Vec<u32>]) -> anyhow::Result<f64> {
    let bar = output::step_bar("scoring", windows.len() as u64);
    let mut sum = Mean::default();
    for window in windows {
        let targets = &window[window.len() / 2 + 1..];
        let rows = scorer.second_half(window)?;
        rows.iter().zip(targets).for_each(|(row, target)| sum.add(-row.of(*target)));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(sum.mean().exp())
}

fn compare(
    scorer: &mut Scorer<'_>,
    exact: &mut Scorer<'_>,
    windows: &[Vec<u32>],
) -> anyhow::Result<Option<Compared>> {
    if windows.is_empty() {
        return Ok(None);
    }
    let bar = output::step_bar("comparing windows", windows.len() as u64);
    let (mut own, mut reference) = (Mean::default(), Mean::default());
    let (mut divergence, mut agreement) = (Mean::default(), Mean::default());
    for window in windows {
        let targets = &window[window.len() / 2 + 1..];
        let (found, expected) = (scorer.second_half(window)?, exact.second_half(window)?);
        for ((found, expected), target) in found.iter().zip(&expected).zip(targets) {
            own.add(-found.of(*target));
            reference.add(-expected.of(*target));
            divergence.add(expected.divergence(found));
            agreement.add(f64::from(u8::from(found.most_likely() == expected.most_likely())));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Some(Compared {
        windows: windows.len(),
        perplexity: own.mean().exp(),
        reference_perplexity: reference.mean().exp(),
        mean_divergence: divergence.mean(),
        top_1_agreement: agreement.mean(),
    }))
}

fn answers(
    scorer: &mut Scorer<'_>,
    exact: &mut Scorer<'_>,
    prompts: &[&[u32]],
    answer_tokens: usize,
) -> anyhow::Result<Option<Answers>> {
    if prompts.is_empty() {
        return Ok(None);
    }
    let bar = output::step_bar("comparing answers", prompts.len() as u64);
    let (mut differences, mut first_differences, mut identical) = (Mean::default(), Vec::new(), 0);
    for prompt in prompts {
        let (expected, logprobs): (Vec<u32>, Vec<f64>) =
            exact.greedy(prompt, answer_tokens)?.into_iter().unzip();
        let own = scorer.of_continuation(prompt, &expected)?;
        own.iter().zip(&logprobs).for_each(|(own, exact)| differences.add((own - exact).abs()));
        let found = scorer.greedy(prompt, answer_tokens)?;
        match found.iter().zip(&expected).position(|((found, _), expected)| found != expected) {
            Some(place) => first_differences.push(f64::from(u32::try_from(place)?)),
            None => identical += 1,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Some(Answers {
        answers: prompts.len(),
        answer_tokens,
        identical,
        median_first_difference: median(&first_differences),
        mean_logprob_difference: differences.mean(),
    }))
}

#[derive(Debug, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }
}

impl Report {
    fn print(&self) -> anyhow::Result<()> {
        super::print_head(&self.subject, &self.machine)?;
        let mut table = Table::new(&["WHAT", "VALUE", "OF"]);
        let mut row = |what: &str, value: String, of: String| {
            table.row(vec![what.to_owned(), value, of]);
        };
        if let Some(perplexity) = self.perplexity {
            let of = format!("{} windows of {} tokens", self.scored_windows, self.window_tokens);
            row("perplexity", format!("{perplexity:.4}"), of);
        }
        if let Some(compared) = &self.compared {
            let of = format!("{} windows", compared.windows);
            row("perplexity", format!("{:.4}", compared.perplexity), of.clone());
            row("perplexity in f32", format!("{:.4}", compared.reference_perplexity), of.clone());
            row("divergence, nats", format!("{:.5}", compared.mean_divergence), of.clone());
            row("same most likely token", format!("{:.4}", compared.top_1_agreement), of);
        }
        if let Some(answers) = &self.answers {
            let of = format!("{} answers of {} tokens", answers.answers, answers.answer_tokens);
            row("identical answers", answers.identical.to_string(), of.clone());
            let first = answers.median_first_difference;
            let first = first.map_or_else(|| "-".to_owned(), |place| format!("{place}"));
            row("first difference, median", first, "answers that differ".to_owned());
            row("logprob difference, nats", format!("{:.5}", answers.mean_logprob_difference), of);
        }
        Ok(table.print()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_spread_evenly() {
        let items: Vec<usize> = (0..10).collect();
        assert_eq!(spread(&items, 3), [0, 3, 6]);
        assert_eq!(spread(&items, 20), items);
        assert_eq!(spread(&items, 0), [0; 0]);
    }
}
