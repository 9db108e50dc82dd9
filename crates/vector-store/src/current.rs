//! `CURRENT`: which generation serves, replaced whole and by one writer at a time.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::generation::load_generation;
use crate::{GenerationId, files};

/// The content of `CURRENT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Current {
    /// Grows by one with each change; what compare-and-set compares.
    pub sequence: u64,
    /// The generation that serves.
    pub generation: GenerationId,
}

/// Reads which generation serves.
///
/// # Errors
/// [`Error::Layout`] when there is no `CURRENT`, [`Error::Syntax`] when it is not one, [`Error::Io`].
pub fn read_current(root: &Path) -> Result<Current> {
    find_current(root)?.ok_or_else(|| {
        let reason = "there is no CURRENT; publish a generation, or name the folder that holds it";
        Error::layout(root.join(files::CURRENT), reason)
    })
}

/// [`read_current`]; `None` in a store where nothing was published.
pub(crate) fn find_current(root: &Path) -> Result<Option<Current>> {
    let Some(bytes) = files::read_current_bytes(root)? else { return Ok(None) };
    let current = serde_json::from_slice(&bytes).map_err(|error| Error::Syntax {
        path: root.join(files::CURRENT),
        reason: format!(
            "found something else ({error}), expected {{\"sequence\": 1, \"generation\": \"<16 hex digits>\"}}"
        ),
    })?;
    Ok(Some(current))
}

/// Makes a generation the one that serves, after checking it whole.
///
/// Writers take turns by a lock on `CURRENT.lock`. With `expected_sequence` the change happens only if `CURRENT` still
/// has it; 0 stands for a store without `CURRENT`. Readers see the old content or the whole new one.
///
/// # Errors
/// [`Error::Conflict`] when the sequence differs, every error of [`load_generation`], [`Error::Io`].
pub fn set_current(
    root: &Path,
    generation: &GenerationId,
    expected_sequence: Option<u64>,
) -> Result<Current> {
    load_generation(root, generation, None)?;
    let lock_path = root.join(files::CURRENT_LOCK);
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(Error::io("open", &lock_path))?;
    lock.lock().map_err(Error::io("lock", &lock_path))?;
    let path = root.join(files::CURRENT);
    let sequence = find_current(root)?.map_or(0, |current| current.sequence);
    if let Some(expected) = expected_sequence.filter(|expected| *expected != sequence) {
        return Err(Error::Conflict { path, found: sequence, expected });
    }
    let next = sequence.checked_add(1).ok_or_else(|| {
        Error::layout(&path, format!("the sequence {sequence} cannot grow; start the store anew"))
    })?;
    let current = Current { sequence: next, generation: generation.clone() };
    replace(root, &current)?;
    // The lock ends with its file.
    Ok(current)
}

/// Writes beside and renames over; the caller holds the lock, so the name beside is free.
fn replace(root: &Path, current: &Current) -> Result<()> {
    let path = root.join(files::CURRENT);
    let beside = root.join(".CURRENT.tmp");
    let line = format!(
        "{{\"sequence\": {}, \"generation\": \"{}\"}}\n",
        current.sequence, current.generation
    );
    let mut file = fs::File::create(&beside).map_err(Error::io("create", &beside))?;
    file.write_all(line.as_bytes()).map_err(Error::io("write", &beside))?;
    file.sync_all().map_err(Error::io("write", &beside))?;
    fs::rename(&beside, &path).map_err(Error::io("replace", &path))?;
    sync_dir(root)
}

/// Makes a rename in a folder survive a crash.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let file = fs::File::open(dir).map_err(Error::io("open", dir))?;
    file.sync_all().map_err(Error::io("write", dir))
}
