//! Rules on single files: headers, length, unsafe code, and no research texts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Finding, text_of};

/// A longer file has more than one reason to change.
const MAX_LINES: usize = 400;
/// The only places where `unsafe` may stand, each with a SAFETY comment and a portable twin or a build without it.
const UNSAFE_PLACES: [&str; 4] = [
    "crates/model/src/loader",
    "crates/model/src/kernels/",
    "crates/model/src/device/cuda.rs",
    "crates/model/src/gpu/cuda/",
];
/// Shorter texts of a data set are everyday phrases that may occur anywhere.
const MIN_RESEARCH_TEXT_CHARS: usize = 25;

pub(super) fn check(files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "rs")) {
        if let Some(text) = text_of(file)? {
            findings.extend(check_rust(file, &text));
        }
    }
    Ok(findings)
}

fn check_rust(file: &Path, text: &str) -> Vec<Finding> {
    let place = file.display().to_string();
    let mut findings = Vec::new();
    if !text.starts_with("//! ") {
        findings.push(Finding::new(&place, "open with `//!` and one sentence of purpose"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        findings.push(Finding::new(&place, format!("{lines} lines; split it below {MAX_LINES}")));
    }
    let allowed = UNSAFE_PLACES.iter().any(|start| place.starts_with(start));
    if !allowed && text.lines().any(|line| line.trim_start().starts_with("unsafe ")) {
        findings.push(Finding::new(
            &place,
            "unsafe code belongs in the loader, the kernels or the CUDA device",
        ));
    }
    findings
}

/// No prompt or answer of a data set may stand in the repository. Checked where the data is at hand.
pub(super) fn research_texts(files: &[PathBuf], data_dir: Option<&str>) -> Result<Vec<Finding>> {
    let Some(data_dir) = data_dir else { return Ok(Vec::new()) };
    let harmful = harmful_texts(Path::new(data_dir))?;
    let mut findings = Vec::new();
    for file in files {
        let Some(text) = text_of(file)? else { continue };
        if quotes(&text, &harmful) {
            let advice = "holds a text of a data set; only figures may be kept";
            findings.push(Finding::new(file.display().to_string(), advice));
        }
    }
    Ok(findings)
}

fn quotes(text: &str, harmful: &HashSet<String>) -> bool {
    let parts = text.split(['"', '\n', '`', '\'']).map(str::trim);
    parts.filter(|part| !part.is_empty()).any(|part| harmful.contains(part))
}

/// Every harmful prompt of the data sets in a folder.
fn harmful_texts(data_dir: &Path) -> Result<HashSet<String>> {
    #[derive(serde::Deserialize)]
    struct Item {
        text: String,
        harmful: Option<bool>,
    }
    let mut texts = HashSet::new();
    let entries = std::fs::read_dir(data_dir)
        .with_context(|| format!("reading SKEG_DATA_DIR={}", data_dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|ext| ext != "jsonl") {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let items = text.lines().filter_map(|line| serde_json::from_str::<Item>(line).ok());
        texts.extend(
            items
                .filter(|item| item.harmful == Some(true))
                .map(|item| item.text.trim().to_owned())
                .filter(|text| text.chars().count() >= MIN_RESEARCH_TEXT_CHARS),
        );
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_header_and_one_that_is_too_long_are_found() {
        let file = Path::new("crates/server/src/x.rs");
        assert_eq!(check_rust(file, "fn main() {}\n").len(), 1);
        let long = format!("//! Purpose.\n{}", "\n".repeat(MAX_LINES));
        assert_eq!(check_rust(file, &long).len(), 1);
        assert_eq!(check_rust(file, "//! Purpose.\n"), []);
    }

    #[test]
    fn a_harmful_text_of_a_data_set_is_found_and_a_harmless_or_short_one_is_not() {
        let data = tempfile::tempdir().unwrap();
        let line =
            |text: &str, harmful: bool| format!("{{\"text\":\"{text}\",\"harmful\":{harmful}}}\n");
        let prompts = line("A prompt that was written for this test", true)
            + &line("Another prompt that was written for it", false)
            + &line("A short one", true);
        std::fs::write(data.path().join("set.jsonl"), prompts).unwrap();
        std::fs::write(data.path().join("notes.txt"), "not a data set").unwrap();
        let harmful = harmful_texts(data.path()).unwrap();
        assert!(quotes("x(\"A prompt that was written for this test\")\n", &harmful));
        assert!(!quotes("x(\"Another prompt that was written for it\")\n", &harmful));
        assert!(!quotes("A short one\n\n", &harmful));
    }

    #[test]
    fn unsafe_code_is_found_outside_the_kernels_only() {
        let text = "//! Purpose.\nunsafe fn f() {}\n";
        assert_eq!(check_rust(Path::new("crates/server/src/x.rs"), text).len(), 1);
        assert_eq!(check_rust(Path::new("crates/model/src/kernels/x.rs"), text), []);
    }
}
