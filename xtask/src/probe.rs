//! `cargo xtask probe`: the shipped probe, trained again from data, measured on sets that it never saw, and shipped.

mod sets;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, model};
use sets::Sets;

/// Arguments of `cargo xtask probe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Make a generation of the shipped one with this probe and what was measured of it, and make it live
    #[arg(long)]
    ship: bool,
    /// More flags for `skeg probe train`, after `--`
    #[arg(last = true)]
    more: Vec<String>,
}

/// What the shipped probe is made of.
const MEMBERS: [&str; 6] =
    ["--members", "activations,mean", "--layers", "14,18,22", "--mean-layers", "10,14,18"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let data = cargo::env("SKEG_DATA_DIR").context(
        "set SKEG_DATA_DIR to the folder that holds catqa.jsonl and the other sets (docs/guide.md, Data)",
    )?;
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    let out = cargo::target_dir()?.join("probe");
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let sets = Sets::write(Path::new(&data), &cargo::root().join("vectors/data"), &out)?;
    let task = Task { skeg, model, out };
    task.train(&sets, &args.more)?;
    task.measure(&sets)?;
    if args.ship { task.ship() } else { Ok(()) }
}

/// What the steps share.
struct Task {
    skeg: PathBuf,
    model: PathBuf,
    /// Where sets, probe and report are written.
    out: PathBuf,
}

impl Task {
    fn probe(&self) -> PathBuf {
        self.out.join("probe.safetensors")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.skeg);
        command.args(words);
        command
    }

    fn train(&self, sets: &Sets, more: &[String]) -> Result<()> {
        let mut command = self.command(&["probe", "train", "--on-conflict", "drop"]);
        command.args(MEMBERS).args(more).arg("--model").arg(&self.model);
        for source in &sets.train {
            command.args(["--train", source]);
        }
        cargo::run(command.arg("--out").arg(self.probe()))
    }

    fn measure(&self, sets: &Sets) -> Result<()> {
        let mut command = self.command(&["probe", "evaluate", "--on-conflict", "drop"]);
        command.arg("--model").arg(&self.model).arg("--probe").arg(self.probe());
        for set in &sets.test {
            command.args(["--test", set]);
        }
        command.arg("--scores").arg(self.out.join("scores.jsonl"));
        cargo::run(command.arg("--out").arg(self.out.join("report")))
    }

    fn ship(&self) -> Result<()> {
        let store = cargo::root().join("vectors").join(model::DEFAULT_MODEL);
        let mut command = self.command(&["vectors", "publish", "--actor", "skeg"]);
        command
            .args(["--reason", "probe trained by cargo xtask probe"])
            .arg("--vectors")
            .arg(store);
        command.arg("--probe").arg(self.probe());
        command.arg("--probe-report").arg(self.out.join("report/report.md"));
        cargo::run(&mut command)
    }
}
