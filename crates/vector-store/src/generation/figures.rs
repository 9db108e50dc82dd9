//! `figures.json`: what was measured, for programs. Whoever measures decides what stands there; here only the frame counts.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// The `format_version` that `figures.json` must have. It rises by the rules of [`FORMAT_VERSION`](crate::FORMAT_VERSION).
pub const FIGURES_FORMAT_VERSION: u32 = 1;

/// The part that is read. The rest is looked at for its syntax and not kept, so that a reload stays quick.
#[derive(Deserialize)]
struct Frame {
    format_version: Value,
}

/// Checks that the text is an object in JSON with the version this program knows; `path` is for errors.
pub(super) fn check(text: &str, path: &Path) -> Result<()> {
    let syntax = |reason: String| Error::Syntax { path: path.to_owned(), reason };
    // A list of one number would do for a frame as well.
    if !text.trim_start().starts_with('{') {
        return Err(syntax("found something else, expected an object in JSON".to_owned()));
    }
    let frame: Frame = serde_json::from_str(text).map_err(|error| syntax(error.to_string()))?;
    if frame.format_version.as_u64() == Some(FIGURES_FORMAT_VERSION.into()) {
        return Ok(());
    }
    Err(Error::UnsupportedFormat {
        path: path.to_owned(),
        found: frame.format_version.to_string(),
        expected: FIGURES_FORMAT_VERSION,
    })
}
