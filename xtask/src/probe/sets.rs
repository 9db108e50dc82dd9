//! The sets that the shipped probe is trained and measured on, as `NAME=FILE,...`.
//!
//! Trained on permissive sets and this repository's own texts alone. `CatQA`'s last subcategory of each category, with its twins, is
//! kept for measuring.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Longest prompt that is measured, in bytes: the longest of some sets are whole articles.
const MAX_BYTES: usize = 6000;

/// What is trained on and what is measured on.
pub(super) struct Sets {
    pub(super) train: Vec<String>,
    pub(super) test: Vec<String>,
}

/// A set to measure on: `(name, file, rows of this label alone, at most so many)`.
type Measured = (&'static str, &'static str, Option<bool>, usize);

const MEASURED: [Measured; 10] = [
    ("advbench", "advbench", None, 400),
    ("do_not_answer", "do_not_answer", None, 400),
    ("beavertails_eval", "beavertails_eval", None, 400),
    ("harmbench", "harmbench_response", None, 200),
    ("openai_flagged", "openai_moderation", Some(true), 300),
    ("alpaca", "alpaca", None, 3000),
    ("toxicchat_harmless", "toxicchat", Some(false), 600),
    ("xstest", "xstest", None, 450),
    ("openai_clean", "openai_moderation", Some(false), 300),
    ("aegis", "aegis", None, 400),
];

/// Permissive sets, source by source.
const TRAINED: [(&str, &[&str]); 3] =
    [("coconot", &["coconot"]), ("ifeval", &["ifeval"]), ("bench", &["mt_bench", "vicuna_bench"])];

impl Sets {
    /// Writes what is made of files of `data` (the research data) and `own` (the repository's texts) into `out`.
    pub(super) fn write(data: &Path, own: &Path, out: &Path) -> Result<Self> {
        let file = |name: &str| data.join(format!("{name}.jsonl"));
        let mut sets = catqa(&file("catqa"), &own.join("catqa_twins.jsonl"), out)?;
        for (name, files) in TRAINED {
            let files: Vec<PathBuf> = files.iter().map(|name| file(name)).collect();
            sets.train.push(named(name, &files));
        }
        for path in own_files(own)? {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            sets.train.push(named(&format!("own_{stem}"), &[path]));
        }
        for (name, from, label, most) in MEASURED {
            let rows = spread(unique(rows(&file(from))?, label), most);
            sets.test.push(named(name, &[write(out, name, &rows)?]));
        }
        Ok(sets)
    }
}

/// Pairs form by form, and the files of harmless texts beside the twins.
fn own_files(own: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in [own.to_owned(), own.join("pairs")] {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("reading the folder {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_other = ["catqa_twins.jsonl", "academic_cheating.jsonl"].contains(&&*name);
            if name.ends_with(".jsonl") && !is_other {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// `CatQA` and its twins, without and with the last subcategory of each category.
fn catqa(catqa: &Path, twins: &Path, out: &Path) -> Result<Sets> {
    let prompts = rows(catqa)?;
    let last: BTreeMap<String, String> =
        prompts.iter().map(|row| (text(row, "category"), text(row, "subcategory"))).collect();
    let (test, fit): (Vec<Value>, Vec<Value>) = prompts
        .into_iter()
        .partition(|row| last.get(&text(row, "category")) == Some(&text(row, "subcategory")));
    let fit_ids: BTreeSet<String> = fit.iter().map(|row| text(row, "id")).collect();
    let (twins_fit, twins_test): (Vec<Value>, Vec<Value>) =
        rows(twins)?.into_iter().partition(|row| fit_ids.contains(&text(row, "twin_of")));
    let mut files = Vec::new();
    for (name, rows) in [
        ("catqa_fit", fit),
        ("twins_fit", twins_fit),
        ("catqa_test", test),
        ("twins_test", twins_test),
    ] {
        files.push(write(out, name, &rows)?);
    }
    let (fit, test) = files.split_at(2);
    Ok(Sets { train: vec![named("catqa", fit)], test: vec![named("catqa_held_out", test)] })
}

fn named(name: &str, files: &[PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    format!("{name}={}", files.join(","))
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

fn rows(path: &Path) -> Result<Vec<Value>> {
    json_lines(path)
}

/// The rows of a file of JSON Lines.
pub(super) fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let lines =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    lines
        .lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("a row of {}", path.display()))
        })
        .collect()
}

/// The rows of this label, each text once, as prompts alone.
fn unique(rows: Vec<Value>, label: Option<bool>) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let of_label = rows.into_iter().filter(|row| {
        let text = text(row, "text");
        (label.is_none() || row["harmful"].as_bool() == label)
            && text.len() <= MAX_BYTES
            && seen.insert(text)
    });
    let prompts = of_label.map(|mut row| {
        if let Some(row) = row.as_object_mut() {
            row.retain(|field, _| !field.starts_with("response"));
        }
        row
    });
    prompts.collect()
}

/// At most `most` rows, spread evenly.
fn spread(rows: Vec<Value>, most: usize) -> Vec<Value> {
    let num_rows = rows.len();
    let is_taken = |idx: usize| (idx * most) / num_rows != ((idx + 1) * most) / num_rows;
    let taken = rows.into_iter().enumerate().filter(|(idx, _)| num_rows <= most || is_taken(*idx));
    taken.map(|(_, row)| row).collect()
}

fn write(out: &Path, name: &str, rows: &[Value]) -> Result<PathBuf> {
    let path = out.join(format!("{name}.jsonl"));
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&path, lines).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_subcategory_and_its_twins_are_not_trained_on() {
        let folder = tempfile::tempdir().unwrap();
        let prompt = |id: &str, category: &str, subcategory: &str| json!({"id": id, "category": category, "subcategory": subcategory});
        let prompts = [
            prompt("1", "a", "x"),
            prompt("2", "a", "y"),
            prompt("3", "b", "x"),
            prompt("4", "a", "y"),
        ];
        let twins = ["1", "2", "3"].map(|id| json!({"id": format!("t{id}"), "twin_of": id}));
        let path = write(folder.path(), "prompts", &prompts).unwrap();
        let twins = write(folder.path(), "twins", &twins).unwrap();
        let sets = catqa(&path, &twins, folder.path()).unwrap();
        let ids = |name: &str| -> Vec<String> {
            let rows = rows(&folder.path().join(format!("{name}.jsonl"))).unwrap();
            rows.iter().map(|row| text(row, "id")).collect()
        };
        assert_eq!(
            (ids("catqa_fit"), ids("twins_fit")),
            (vec!["1".to_owned()], vec!["t1".to_owned()])
        );
        assert_eq!(ids("catqa_test"), ["2", "3", "4"]);
        assert_eq!(ids("twins_test"), ["t2", "t3"]);
        assert!(sets.train[0].starts_with("catqa=") && sets.train[0].ends_with("twins_fit.jsonl"));
    }

    #[test]
    fn a_measured_set_has_each_text_of_its_label_once_and_is_spread_evenly() {
        let row =
            |text: &str, harmful: bool| json!({"text": text, "harmful": harmful, "response": "r"});
        let rows = vec![row("a", true), row("b", false), row("a", true), row("c", true)];
        let kept = unique(rows, Some(true));
        assert_eq!(
            kept,
            [json!({"text": "a", "harmful": true}), json!({"text": "c", "harmful": true})]
        );
        let many: Vec<Value> = (0..10).map(|idx| json!(idx)).collect();
        assert_eq!(spread(many.clone(), 20), many);
        let taken = spread(many, 4);
        assert_eq!(taken, [json!(2), json!(4), json!(7), json!(9)]);
    }
}
