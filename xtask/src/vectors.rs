//! `cargo xtask vectors`: the shipped vectors, made again from data and compared with what is shipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use skeg_vector_store::{Category, CategoryVectors, Generation, load_generation, read_current};

use crate::{cargo, model, output};

type Vectors = BTreeMap<Category, CategoryVectors>;

/// Least cosine between a shipped vector and the one made again on another machine.
const MIN_COSINE: f64 = 0.9999;
/// Largest relative distance of their norms.
const MAX_NORM_DISTANCE: f64 = 0.001;

/// Arguments of `cargo xtask vectors`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep what was made in this store instead of a temporary one.
    #[arg(long, conflicts_with = "ship")]
    out: Option<PathBuf>,
    /// Calibrate anew and ship what comes of it: half an hour.
    #[arg(long)]
    ship: bool,
}

/// Harmful prompts by category, and harmless ones that are steered all the same.
const PROMPTS: &str = "catqa.jsonl";
const HARMLESS: [&str; 2] = ["xstest.jsonl", "alpaca.jsonl"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let data = cargo::env("SKEG_DATA_DIR")
        .context("set SKEG_DATA_DIR to the folder that holds catqa.jsonl (docs/guide.md, Data)")?;
    let embedder = args.ship.then(embedder).transpose()?;
    let skeg = cargo::build_skeg(&[])?;
    let model = model::fetch(&skeg)?;
    let shipped = cargo::root().join("vectors").join(model::DEFAULT_MODEL);
    let task = Task { skeg, model, data: PathBuf::from(data), shipped };
    if let Some(embedder) = embedder {
        return task.calibrate(&embedder);
    }
    let out = match &args.out {
        Some(out) => out.clone(),
        None => cargo::target_dir()?.join("vectors-again"),
    };
    if args.out.is_none() && out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("clearing {}", out.display()))?;
    }
    let shipped = current(&task.shipped)?;
    task.extract(&shipped, &out)?;
    compare(&shipped, &current(&out)?)
}

fn embedder() -> Result<PathBuf> {
    let folder = cargo::env("SKEG_TEST_EMBEDDER").context(
        "set SKEG_TEST_EMBEDDER to a folder of all-MiniLM-L6-v2 (config.json, tokenizer.json, model.safetensors): \
         --ship measures by its embeddings whether answers stay on topic",
    )?;
    Ok(PathBuf::from(folder))
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
    fn skeg(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.skeg);
        command.args(words);
        command
    }

    fn files<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = PathBuf> + 'a {
        names.iter().map(|name| self.data.join(name))
    }

    /// The vectors of `shipped` from the data, where it acts, live in `store`.
    fn extract(&self, shipped: &Generation, store: &Path) -> Result<()> {
        let site = shipped.manifest.site.as_str();
        let layers: Vec<String> = shipped.manifest.layers.iter().map(usize::to_string).collect();
        let mut command = self.skeg(&["extract", "--recipe", "contrast", "--publish"]);
        command.args(["--site", site, "--layers", &layers.join(",")]);
        command.arg("--model").arg(&self.model);
        command.arg("--data").args(self.files(&[PROMPTS])).arg("--out").arg(store);
        cargo::run(&mut command)
    }

    /// A calibrated generation, live in the store of the repository; earlier ones stay beside it. Without a judge of harm: an
    /// answer that neither declines nor is broken counts as unsafe.
    fn calibrate(&self, embedder: &Path) -> Result<()> {
        let mut command = self.skeg(&["calibrate", "--publish"]);
        command.arg("--model").arg(&self.model).arg("--data").args(self.files(&[PROMPTS]));
        command.arg("--harmless").args(self.files(&HARMLESS)).arg("--out").arg(&self.shipped);
        command.arg("--embedder").arg(embedder);
        cargo::run(&mut command)
    }
}

pub(crate) fn current(store: &Path) -> Result<Generation> {
    let current = read_current(store)?;
    Ok(load_generation(store, &current.generation, None)?)
}

/// How far apart two generations' rows are.
#[derive(Debug, PartialEq)]
struct Distance {
    least_cosine: f64,
    /// Relative to the shipped row's norm.
    largest_of_norms: f64,
}

/// Every row must point the same way with the same length.
fn compare(shipped: &Generation, again: &Generation) -> Result<()> {
    let is_turned = shipped.manifest.orientation != again.manifest.orientation;
    let Distance { least_cosine, largest_of_norms } =
        distance(&shipped.vectors, &again.vectors, if is_turned { -1.0 } else { 1.0 })?;
    output::line(&format!(
        "shipped {} and made again: least cosine {least_cosine:.6}, largest difference of norms {:.4} %",
        shipped.id,
        largest_of_norms * 100.0
    ));
    if least_cosine < MIN_COSINE || largest_of_norms > MAX_NORM_DISTANCE {
        bail!("the shipped vectors are not what their recipe makes");
    }
    Ok(())
}

/// Over all rows of `shipped` but those of zeros, which leave a layer alone; `sign` turns the others' rows round.
fn distance(shipped: &Vectors, again: &Vectors, sign: f64) -> Result<Distance> {
    let mut found = Distance { least_cosine: 1.0, largest_of_norms: 0.0 };
    for (category, vectors) in shipped {
        let others = again
            .get(category)
            .with_context(|| format!("category {category} was not made again"))?;
        if vectors.layers != others.layers {
            bail!(
                "{category}: layers {:?} are shipped, and {:?} were made again",
                vectors.layers,
                others.layers
            );
        }
        for ((_, a), (_, b)) in vectors.rows().zip(others.rows()) {
            let length = norm(a);
            if length > 0.0 {
                found.least_cosine = found.least_cosine.min(sign * dot(a, b) / (length * norm(b)));
                found.largest_of_norms =
                    found.largest_of_norms.max((length - norm(b)).abs() / length);
            }
        }
    }
    Ok(found)
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

    fn vectors(layers: [usize; 2], values: [f32; 4]) -> Vectors {
        let vectors = CategoryVectors { layers: layers.to_vec(), values: values.to_vec() };
        BTreeMap::from([("adult_content".parse().unwrap(), vectors)])
    }

    #[test]
    fn rows_of_zeros_are_not_compared_and_turned_ones_are_turned_back() {
        let shipped = vectors([1, 2], [0.0, 0.0, 3.0, 4.0]);
        let turned = vectors([1, 2], [7.0, 1.0, -3.0, -4.0]);
        let found = distance(&shipped, &turned, -1.0).unwrap();
        assert!((found.least_cosine - 1.0).abs() < 1e-12 && found.largest_of_norms < 1e-12);
        let found = distance(&shipped, &turned, 1.0).unwrap();
        assert!((found.least_cosine + 1.0).abs() < 1e-12);
        let longer = vectors([1, 2], [0.0, 0.0, 6.0, 8.0]);
        let found = distance(&shipped, &longer, 1.0).unwrap();
        assert!((found.largest_of_norms - 1.0).abs() < 1e-12);
    }

    #[test]
    fn other_layers_and_missing_categories_are_errors() {
        let shipped = vectors([1, 2], [1.0, 0.0, 3.0, 4.0]);
        let error = |again: &Vectors| distance(&shipped, again, 1.0).unwrap_err().to_string();
        assert!(error(&vectors([1, 3], [1.0, 0.0, 3.0, 4.0])).contains("[1, 3] were made again"));
        assert!(error(&BTreeMap::new()).contains("adult_content was not made again"));
    }
}
