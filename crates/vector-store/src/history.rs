//! The history of `CURRENT`: who changed it, when, from what to what, and why. It informs people and garbage collection;
//! what serves is said by `CURRENT` alone.
//!
//! Each change leaves `history/<sequence>.json`, written after `CURRENT` by the writer that won. So every entry is of a
//! change that happened, and a crash between the two leaves a change without an entry; the next entry's `previous` still
//! names its generation.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::current::{Current, find_current};
use crate::error::{Error, Result};
use crate::{GenerationId, files};

/// The most entries that are read at once.
pub const MAX_HISTORY: usize = 10_000;
/// An entry is a short object: two texts of bounded length and a few numbers.
pub(crate) const MAX_ENTRY_BYTES: u64 = 64 * 1024;
/// The most characters of a change's texts that are kept.
const MAX_TEXT_CHARS: usize = 2000;

/// Why `CURRENT` is changed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Publishing or rolling back.
    pub kind: ChangeKind,
    /// Who changes it: a person, a principal, a job. Not verified here; empty = not said.
    pub actor: String,
    /// Why; empty = not said.
    pub reason: String,
}

/// What kind of change it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A generation was chosen.
    #[default]
    Publish,
    /// An earlier generation was gone back to.
    Rollback,
}

/// One change of `CURRENT`. Fields that this version does not know are passed over: an entry is a record, not an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The sequence that `CURRENT` got.
    pub sequence: u64,
    /// The generation that it named from then on.
    pub generation: GenerationId,
    /// The generation before; `None` for the first.
    pub previous: Option<GenerationId>,
    /// Seconds since 1970 by the writer's clock. For people: nothing is decided by it.
    pub unix_time: u64,
    /// Who; empty if that was not said.
    pub actor: String,
    /// Why; empty if that was not said.
    pub reason: String,
    /// What kind of change it was.
    pub kind: ChangeKind,
}

impl HistoryEntry {
    pub(crate) fn new(current: &Current, found: Option<&Current>, change: &Change) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let bounded = |text: &str| text.chars().take(MAX_TEXT_CHARS).collect();
        Self {
            sequence: current.sequence,
            generation: current.generation.clone(),
            previous: found.map(|found| found.generation.clone()),
            unix_time: since_1970.map_or(0, |time| time.as_secs()),
            actor: bounded(&change.actor),
            reason: bounded(&change.reason),
            kind: change.kind,
        }
    }

    /// Reads an entry; `path` is for errors.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let reason = |error| format!("not an entry of the history: {error}");
        serde_json::from_slice(bytes)
            .map_err(|error| Error::Syntax { path: path.to_owned(), reason: reason(error) })
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| Error::Syntax {
            path: file_name(self.sequence).into(),
            reason: error.to_string(),
        })?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The name of a change's entry, in the folder `history`.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("{sequence}.json")
}

/// Writes a change's entry; the caller holds the store's lock.
pub(crate) fn write(root: &Path, entry: &HistoryEntry) -> Result<()> {
    let dir = root.join(files::HISTORY);
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    files::replace(&dir, &file_name(entry.sequence), &entry.to_json()?)
}

/// The entries of the last changes of a store, newest first; at most `last`, and [`MAX_HISTORY`]. A change without an
/// entry is left out.
///
/// # Errors
/// [`Error::Syntax`] for an entry or a `CURRENT` that is none, [`Error::Layout`] for one that is far too large,
/// [`Error::Io`].
pub fn read_history(root: &Path, last: usize) -> Result<Vec<HistoryEntry>> {
    let current = find_current(root)?;
    let dir = root.join(files::HISTORY);
    walk(current.as_ref(), last, |sequence| {
        let path = dir.join(file_name(sequence));
        let bytes = files::read_small(&path, MAX_ENTRY_BYTES)?;
        bytes.map(|bytes| HistoryEntry::parse(&bytes, &path)).transpose()
    })
}

/// Looks at the last sequences, newest first. Names follow from `CURRENT`, so no folder is listed, however long it is.
pub(crate) fn walk(
    current: Option<&Current>,
    last: usize,
    read: impl Fn(u64) -> Result<Option<HistoryEntry>>,
) -> Result<Vec<HistoryEntry>> {
    let newest = current.map_or(0, |current| current.sequence);
    let mut entries = Vec::new();
    for sequence in (1..=newest).rev().take(last.min(MAX_HISTORY)) {
        entries.extend(read(sequence)?);
    }
    Ok(entries)
}

/// The generation that a rollback goes to: the one that served before the current one was published. Rolling back again
/// goes one further, not forth and back. `None` where the history, newest first, does not say it.
#[must_use]
pub fn rollback_target(current: &Current, history: &[HistoryEntry]) -> Option<GenerationId> {
    let published = history.iter().find(|entry| {
        entry.kind == ChangeKind::Publish
            && entry.generation == current.generation
            && entry.previous.as_ref() != Some(&current.generation)
    });
    published.and_then(|entry| entry.previous.clone())
}
