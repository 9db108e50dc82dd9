//! `skeg evaluate`: how far the judges of answers can be believed, what vectors do beside the paper's, and what a server that finds
//! the category does from prompt to answer.

use super::{evaluate_auto, judges, study};

/// Measure judges of answers, run the paper's experiment, or measure a server that finds the category itself.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum Command {
    Judges(Box<judges::Args>),
    Study(Box<study::Args>),
    Auto(Box<evaluate_auto::Args>),
}

const AFTER_HELP: &str = "\
Examples:
  skeg evaluate judges --test labelled.jsonl
  skeg evaluate study --data catqa.jsonl vectors/data/catqa_twins.jsonl --generic alpaca.jsonl --out report
  skeg evaluate auto --url http://127.0.0.1:8080 --set attacks=advbench.jsonl --set alpaca=alpaca.jsonl --limit 200

Figures only: no prompt and no answer is printed. `skeg calibrate` says what the vectors do that it publishes.";

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Judges(args) => judges::run(args),
        Command::Study(args) => study::run(args),
        Command::Auto(args) => evaluate_auto::run(args),
    }
}
