//! `cargo xtask fleet`: three servers that follow one object store, behind a proxy, while it changes and goes away.

use std::process::Command;

use anyhow::Result;

use crate::{cargo, model, python};

pub(crate) fn run() -> Result<()> {
    let folder = cargo::root().join("tests/fleet");
    let python = python::with_requirements(&folder)?;
    // With signatures, which the store checks.
    let skeg = cargo::build_skeg(&["--features=skeg-server/object-store"])?;
    let model = model::fetch(&skeg)?;
    let vectors = cargo::root().join("vectors").join(model::DEFAULT_MODEL);
    let scenario = folder.join("fleet.py");
    cargo::run(Command::new(&python).arg(scenario).arg(&skeg).arg(&model).arg(&vectors))
}
