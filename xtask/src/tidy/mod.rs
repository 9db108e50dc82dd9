//! What no other tool checks, each rule with its reason.

mod deployment;
mod sources;
mod workspace;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{cargo, output};

/// One broken rule: where, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    place: String,
    advice: String,
}

impl Finding {
    fn new(place: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { place: place.into(), advice: advice.into() }
    }
}

pub(crate) fn run() -> Result<()> {
    let files = tracked_files()?;
    let mut findings = Vec::new();
    findings.extend(sources::check(&files)?);
    findings.extend(workspace::check(cargo::root())?);
    findings.extend(deployment::check(cargo::root())?);
    findings.extend(sources::research_texts(&files, cargo::env("SKEG_DATA_DIR").as_deref())?);
    for Finding { place, advice } in &findings {
        output::error(&format!("{place}: {advice}"));
    }
    if !findings.is_empty() {
        bail!("tidy found {} places to mend", findings.len());
    }
    output::step(&format!("tidy: {} files in order", files.len()));
    Ok(())
}

/// Files that git tracks or would track.
fn tracked_files() -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(cargo::root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let names = cargo::read(&mut git)?;
    Ok(names.lines().map(PathBuf::from).filter(|name| cargo::root().join(name).exists()).collect())
}

/// A file's text, `None` where it is not UTF-8.
fn text_of(file: &Path) -> Result<Option<String>> {
    let bytes = std::fs::read(cargo::root().join(file))
        .with_context(|| format!("reading {}", file.display()))?;
    Ok(String::from_utf8(bytes).ok())
}
