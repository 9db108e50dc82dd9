//! `cargo xtask vectors`: the shipped vectors, made again from data and compared with what is shipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use skeg_vector_store::{Generation, load_generation, read_current};

use crate::{cargo, model, output};

/// Least cosine between a shipped vector and the one made again on another machine.
const MIN_COSINE: f64 = 0.9999;
/// Largest relative distance of their norms.
const MAX_NORM_DISTANCE: f64 = 0.001;

/// Arguments of `cargo xtask vectors`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep what was made in this store instead of a temporary one.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure the vectors anew, and ship what they are and what was measured: policy and card follow from it.
    #[arg(long)]
    ship: bool,
}

/// The strengths that are tried, and the one that is shipped as the default.
const TRIED_STRENGTHS: &str = "0.7,1,1.2,1.5,2";
const DEFAULT_STRENGTH: &str = "1.2";

pub(crate) fn run(args: &Args) -> Result<()> {
    let data = cargo::env("SKEG_DATA_DIR")
        .context("set SKEG_DATA_DIR to the folder that holds catqa.jsonl (docs/guide.md, Data)")?;
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    let shipped = cargo::root().join("vectors").join(model::DEFAULT_MODEL);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => cargo::target_dir()?.join("vectors-again"),
    };
    if args.out.is_none() && out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("clearing {}", out.display()))?;
    }
    let task = Task { skeg, model, data: PathBuf::from(data), shipped };
    task.extract(&out)?;
    if args.ship {
        task.measure(&out)?;
        return task.extract(&task.shipped);
    }
    compare(&current(&task.shipped)?, &current(&out)?)
}

/// What the steps share.
struct Task {
    skeg: PathBuf,
    model: PathBuf,
    /// Folder of the research data.
    data: PathBuf,
    /// The store in the repository.
    shipped: PathBuf,
}

impl Task {
    /// Vectors from the data, policy and card from the figures that are shipped, live in `store`.
    fn extract(&self, store: &Path) -> Result<()> {
        let mut command = Command::new(&self.skeg);
        command.args(["extract", "--recipe", "shipped", "--weights", "f32", "--publish"]);
        command.arg("--model").arg(&self.model).arg("--data").arg(self.data.join("catqa.jsonl"));
        command.arg("--measured").arg(self.figures()).arg("--out").arg(store);
        cargo::run(&mut command)
    }

    /// New figures of the vectors that are live in `store`.
    fn measure(&self, store: &Path) -> Result<()> {
        let mut command = Command::new(&self.skeg);
        command.args(["evaluate", "--quick", "--seed", "1", "--strength", DEFAULT_STRENGTH]);
        command.args(["--tune", TRIED_STRENGTHS]).arg("--measured").arg(self.figures());
        command.arg("--model").arg(&self.model).arg("--vectors").arg(store);
        command.arg("--data").arg(self.data.join("catqa.jsonl"));
        for set in ["xstest_response_refusal.jsonl", "xstest_completions.jsonl"] {
            command.arg("--judge-data").arg(self.data.join(set));
        }
        cargo::run(&mut command)
    }

    fn figures(&self) -> PathBuf {
        self.shipped.join("measured.json")
    }
}

fn current(store: &Path) -> Result<Generation> {
    let current = read_current(store)?;
    Ok(load_generation(store, &current.generation, None)?)
}

/// Same id: byte for byte. Otherwise every row must point the same way with the same length.
fn compare(shipped: &Generation, again: &Generation) -> Result<()> {
    if shipped.id == again.id {
        output::line(&format!("generation {} was made again byte for byte", again.id));
        return Ok(());
    }
    let mut least_cosine = 1.0_f64;
    let mut largest_distance = 0.0_f64;
    for (category, vectors) in &shipped.vectors {
        let others = again
            .vectors
            .get(category)
            .with_context(|| format!("category {category} was not made again"))?;
        for idx in 0..vectors.layers.len() {
            let (a, b) = (vectors.row(idx), others.row(idx));
            least_cosine = least_cosine.min(dot(a, b) / (norm(a) * norm(b)));
            largest_distance = largest_distance.max((norm(a) - norm(b)).abs() / norm(a));
        }
    }
    output::line(&format!(
        "shipped {} and made {}: least cosine {least_cosine:.6}, largest difference of norms {:.4} %",
        shipped.id,
        again.id,
        largest_distance * 100.0
    ));
    if least_cosine < MIN_COSINE || largest_distance > MAX_NORM_DISTANCE {
        bail!("the shipped vectors are not what their recipe makes");
    }
    Ok(())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_and_norm_are_what_they_are_called() {
        assert!((norm(&[3.0, 4.0]) - 5.0).abs() < 1e-12);
        assert!(dot(&[1.0, 0.0], &[0.0, 2.0]).abs() < 1e-12);
    }
}
