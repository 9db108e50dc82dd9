//! `skeg evaluate`: how far the judges of answers can be believed, and what vectors do beside the paper's.

use super::{judges, study};

/// Measure judges of answers, or run the paper's experiment.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum Command {
    Judges(Box<judges::Args>),
    Study(Box<study::Args>),
}

const AFTER_HELP: &str = "\
Examples:
  skeg evaluate judges --test labelled.jsonl
  skeg evaluate study --data catqa.jsonl vectors/data/catqa_twins.jsonl --generic alpaca.jsonl --out report

Figures only: no prompt and no answer is printed. `skeg calibrate` says what the vectors do that it publishes.";

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Judges(args) => judges::run(args),
        Command::Study(args) => study::run(args),
    }
}
