//! `cargo xtask probe`: the shipped probe, trained again from data, measured on sets that it never saw, and shipped.

mod sets;
mod threshold;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use skeg_vector_store::WhenMissing;

use crate::{cargo, model, output, vectors};
use sets::Sets;
use threshold::Threshold;

/// Arguments of `cargo xtask probe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Make a generation of the shipped one with this probe, what was measured of it and a policy that uses it, and make it live
    #[arg(long)]
    ship: bool,
    /// Where what the model makes of the prompts is kept for another run [default: probe/rows in the target folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// More flags for `skeg probe train`, after `--`
    #[arg(last = true)]
    more: Vec<String>,
}

/// What the shipped probe is made of and how.
const TRAINING: [&str; 10] = [
    "--members",
    "activations,mean",
    "--layers",
    "14,18,22",
    "--mean-layers",
    "10,14,18",
    "--categories-by",
    "catqa",
    "--augment",
    "all",
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let data = cargo::env("SKEG_DATA_DIR").context(
        "set SKEG_DATA_DIR to the folder that holds catqa.jsonl and the other sets (docs/guide.md, Data)",
    )?;
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    let out = cargo::target_dir()?.join("probe");
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let sets = Sets::write(Path::new(&data), &cargo::root().join("vectors/data"), &out)?;
    let cache = args.cache.clone().unwrap_or_else(|| out.join("rows"));
    let task = Task { skeg, model, out, cache };
    task.train(&sets, &args.more)?;
    task.measure(&sets)?;
    let chosen = threshold::choose(&sets::json_lines(&task.scores())?)?;
    output::line(&format!(
        "threshold {}: alarms on {} of {} ordinary prompts that did not choose it",
        chosen.threshold, chosen.num_alarms, chosen.num_others
    ));
    if args.ship { task.ship(&chosen) } else { Ok(()) }
}

/// What the steps share.
struct Task {
    skeg: PathBuf,
    model: PathBuf,
    /// Where sets, probe and report are written.
    out: PathBuf,
    /// Where rows are kept.
    cache: PathBuf,
}

impl Task {
    fn probe(&self) -> PathBuf {
        self.out.join("probe.safetensors")
    }

    fn scores(&self) -> PathBuf {
        self.out.join("scores.jsonl")
    }

    /// A command that reads prompts with the model.
    fn reads(&self, words: &[&str]) -> Command {
        let mut command = self.command(words);
        command.args(["--on-conflict", "drop", "--model"]).arg(&self.model);
        command.arg("--cache").arg(&self.cache);
        command
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.skeg);
        command.args(words);
        command
    }

    fn train(&self, sets: &Sets, more: &[String]) -> Result<()> {
        let mut command = self.reads(&["probe", "train"]);
        command.args(TRAINING).args(more);
        for source in &sets.train {
            command.args(["--train", source]);
        }
        cargo::run(command.arg("--out").arg(self.probe()))
    }

    fn measure(&self, sets: &Sets) -> Result<()> {
        let mut command = self.reads(&["probe", "evaluate"]);
        command.arg("--probe").arg(self.probe());
        for set in &sets.test {
            command.args(["--test", set]);
        }
        command.arg("--scores").arg(self.scores());
        cargo::run(command.arg("--out").arg(self.out.join("report")))
    }

    /// A generation of the live one with the probe and a policy that uses it, live in the store of the repository.
    fn ship(&self, chosen: &Threshold) -> Result<()> {
        let store = cargo::root().join("vectors").join(model::DEFAULT_MODEL);
        let mut policy = vectors::current(&store)?.policy;
        policy.when_missing = WhenMissing::Auto;
        policy.auto.threshold = chosen.threshold;
        let policy_file = self.out.join("policy.toml");
        std::fs::write(&policy_file, policy.to_toml()?)
            .with_context(|| format!("writing {}", policy_file.display()))?;
        let mut command = self.command(&["vectors", "publish", "--actor", "skeg"]);
        command.args(["--reason", "probe trained by cargo xtask probe"]);
        command.arg("--vectors").arg(store).arg("--policy").arg(policy_file);
        command.arg("--probe").arg(self.probe());
        command.arg("--probe-report").arg(self.out.join("report/report.md"));
        cargo::run(&mut command)
    }
}
