//! The default model, fetched by the product itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo;

/// The catalogue name of the model that tests and demo use.
pub(crate) const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// Fetches the default model, or finds it in the cache, and returns its path.
pub(crate) fn fetch(skeg: &Path) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Fetched {
        path: PathBuf,
    }
    crate::output::step(&format!("fetching {DEFAULT_MODEL} (98 MB, kept in the cache folder)"));
    let json = cargo::read(Command::new(skeg).args(["model", "fetch", DEFAULT_MODEL, "--json"]))
        .context("the default model could not be fetched")?;
    let fetched: Fetched =
        serde_json::from_str(&json).context("`skeg model fetch --json` printed no path")?;
    Ok(fetched.path)
}
