//! `CURRENT`: which generation serves, replaced whole and by one writer at a time.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::GenerationDir;
use crate::generation::load_generation;
use crate::history::{self, Change, HistoryEntry};
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

impl Current {
    /// Reads the bytes of `CURRENT`; `path` is for errors.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| Error::Syntax {
            path: path.to_owned(),
            reason: format!(
                "found something else ({error}), expected {{\"sequence\": 1, \"generation\": \"<16 hex digits>\"}}"
            ),
        })
    }

    /// The bytes of `CURRENT`: one line.
    pub(crate) fn to_line(&self) -> String {
        format!("{{\"sequence\": {}, \"generation\": \"{}\"}}\n", self.sequence, self.generation)
    }

    /// What follows `found`, if `found` has the expected sequence; `path` is for errors.
    pub(crate) fn after(
        found: Option<&Self>,
        generation: &GenerationId,
        expected_sequence: Option<u64>,
        path: &Path,
    ) -> Result<Self> {
        let sequence = found.map_or(0, |current| current.sequence);
        if let Some(expected) = expected_sequence.filter(|expected| *expected != sequence) {
            return Err(Error::Conflict { path: path.to_owned(), found: sequence, expected });
        }
        let next = sequence.checked_add(1).ok_or_else(|| {
            let reason = format!("the sequence {sequence} cannot grow; start the store anew");
            Error::layout(path, reason)
        })?;
        Ok(Self { sequence: next, generation: generation.clone() })
    }
}

/// Reads which generation serves.
///
/// # Errors
/// [`Error::Layout`] when there is no `CURRENT`, [`Error::Syntax`] when it is not one, [`Error::Io`].
pub fn read_current(root: &Path) -> Result<Current> {
    find_current(root)?.ok_or_else(|| nothing_published(&root.join(files::CURRENT)))
}

/// The error of a store in which nothing serves.
pub(crate) fn nothing_published(path: &Path) -> Error {
    let reason = "there is no CURRENT; publish a generation, or name the folder that holds it";
    Error::layout(path, reason)
}

/// [`read_current`]; `None` in a store where nothing was published.
pub(crate) fn find_current(root: &Path) -> Result<Option<Current>> {
    let path = root.join(files::CURRENT);
    let bytes = files::read_small(&path, files::max_bytes(files::CURRENT))?;
    bytes.map(|bytes| Current::parse(&bytes, &path)).transpose()
}

/// Makes a generation the one that serves, after checking it whole; [`change_current`] for the history's nobody.
///
/// # Errors
/// As [`change_current`].
pub fn set_current(
    root: &Path,
    generation: &GenerationId,
    expected_sequence: Option<u64>,
) -> Result<Current> {
    change_current(root, generation, expected_sequence, &Change::default())
}

/// Makes a generation the one that serves, after checking it whole, and says in the history who did and why.
///
/// Writers take turns by a lock on `CURRENT.lock`. With `expected_sequence` the change happens only if `CURRENT` still
/// has it; 0 stands for a store without `CURRENT`. Readers see the old content or the whole new one. The entry of the
/// history is written after `CURRENT`: a crash between them leaves a change without an entry, never an entry without its
/// change, and so does a history that cannot be written, which is logged.
///
/// # Errors
/// [`Error::Conflict`] when the sequence differs, every error of [`load_generation`], [`Error::Io`].
pub fn change_current(
    root: &Path,
    generation: &GenerationId,
    expected_sequence: Option<u64>,
    change: &Change,
) -> Result<Current> {
    load_generation(root, generation, None)?;
    let _lock = Lock::take(root)?;
    // Garbage collection moves folders away under this lock, and may have done so since.
    GenerationDir::open(root, generation)?;
    let found = find_current(root)?;
    let path = root.join(files::CURRENT);
    let current = Current::after(found.as_ref(), generation, expected_sequence, &path)?;
    files::replace(root, files::CURRENT, current.to_line().as_bytes())?;
    let entry = HistoryEntry::new(&current, found.as_ref(), change);
    if let Err(error) = history::write(root, &entry) {
        tracing::warn!(sequence = current.sequence, %error, "a change is missing in the history");
    }
    Ok(current)
}

/// Makes a copy of a store say what the original says. Neither counted nor recorded: that happened there.
pub(crate) fn copy_current(root: &Path, current: &Current) -> Result<()> {
    let _lock = Lock::take(root)?;
    GenerationDir::open(root, &current.generation)?;
    files::replace(root, files::CURRENT, current.to_line().as_bytes())
}

/// Writers to a store's root take turns; the lock ends with its file.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: fs::File,
}

impl Lock {
    pub(crate) fn take(root: &Path) -> Result<Self> {
        let path = root.join(files::CURRENT_LOCK);
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io("open", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(Self { _file: file })
    }
}
