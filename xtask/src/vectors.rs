//! `cargo xtask vectors`: the shipped vectors, made again from data.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, model, output};

/// Arguments of `cargo xtask vectors`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Store the vectors here instead of comparing them with the shipped ones.
    #[arg(long)]
    out: Option<std::path::PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let skeg = cargo::build_skeg()?;
    let model = model::fetch(&skeg)?;
    let data = cargo::env("SKEG_DATA_DIR")
        .context("set SKEG_DATA_DIR to the folder with catqa.jsonl (docs/guide.md, data)")?;
    output::step(&format!("extracting with {} from {data} into {:?}", model.display(), args.out));
    cargo::run(&mut Command::new(skeg))
}
