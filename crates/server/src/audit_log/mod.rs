//! The audit log: one JSON line for each change, hash-chained, so that a change to the file can be found.
//!
//! Every line has a `sequence` that grows by one and, in `previous`, the SHA-256 of the line before it (its bytes without the line
//! feed; 64 zeros before the first). A line is on the disk when [`AuditLog::record`] returns. A change has a line `begun` before
//! it and `done`, `refused` or `failed` after it: where the first cannot be written there is no change, and a `begun`
//! without an end is a process that died.
//!
//! The chain shows an edit, a removal or an insertion before its last line. It cannot show that lines at the end are gone: for that, keep
//! a hash elsewhere; the admin interface's state has the last one, and `skeg audit verify --hash` looks for it.

mod file;
mod verify;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use verify::{AuditFault, AuditReport, verify_audit_log};

use crate::errors::ApiError;
use crate::state::unix_time;

/// What stands in for the hash of a line before the first one.
const NO_LINE: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Longest reason in a line, in characters; errors of the store name a file, a field and what to do.
const MAX_REASON_CHARS: usize = 1000;

/// Where lines are written to.
pub trait AuditSink: Send {
    /// Puts one line, its line feed included, behind the others, so that it survives a crash, or leaves nothing of it.
    ///
    /// # Errors
    /// When that cannot be done.
    fn append(&mut self, line: &[u8]) -> io::Result<()>;
}

/// An open audit log; clones share one chain.
#[derive(Clone)]
pub struct AuditLog {
    chain: Arc<Mutex<Chain>>,
}

struct Chain {
    sink: Box<dyn AuditSink>,
    last: LastLine,
    /// What was wrong with the file when it was opened, for the first line written to it.
    found: Option<String>,
    torn_bytes: usize,
    num_failures: u64,
}

/// The end of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LastLine {
    /// 0 before the first line.
    pub(crate) sequence: u64,
    pub(crate) sha256: String,
}

/// What happened, as one line says it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Entry {
    /// `start`, `publish`, `rollback`, `reload`, `override` or `swap`.
    pub(crate) event: &'static str,
    /// A key's name, `signal`, or `store` for what the store did by itself.
    pub(crate) who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    /// The generation or override before.
    pub(crate) from: Option<String>,
    /// The generation or override after, or that was asked for.
    pub(crate) to: Option<String>,
    /// Root hash of the generation `to`.
    pub(crate) hash: Option<String>,
    pub(crate) result: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// When an override ends if nobody ends it before, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_unix_ms: Option<u64>,
}

/// How far a change has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is about to be made.
    #[default]
    Begun,
    Done,
    /// The request cannot be served as it is; nothing changed.
    Refused,
    /// The server could not do it; nothing changed.
    Failed,
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    unix_ms: u64,
    #[serde(flatten)]
    entry: &'a Entry,
    /// Length of the torn line before this one; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    torn_bytes: Option<usize>,
    previous: &'a str,
}

/// What a reader needs of a line.
#[derive(Deserialize)]
struct Link {
    sequence: u64,
    previous: String,
    #[serde(default)]
    torn_bytes: Option<usize>,
}

impl AuditLog {
    /// Opens the file at `path`, which is made for its owner alone if it is not there, and continues its chain.
    ///
    /// Breaks in the chain and a torn last line do not keep the server from starting: they are logged as errors, and the next
    /// line names them.
    ///
    /// # Errors
    /// When the file cannot be read or written, or another process has it open as its audit log.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (sink, report) = file::FileSink::open(path)?;
        let found = report.first_fault();
        if let Some(found) = &found {
            tracing::error!(path = %path.display(), found, "the audit log is not whole");
        }
        let torn_bytes = report.torn_bytes;
        let last = LastLine {
            sequence: report.last_sequence,
            sha256: report.last_sha256.unwrap_or_else(|| NO_LINE.to_owned()),
        };
        Ok(Self::continuing(Box::new(sink), last, found, torn_bytes))
    }

    /// A new chain that goes to `sink`.
    #[must_use]
    pub fn to_sink(sink: impl AuditSink + 'static) -> Self {
        let last = LastLine { sequence: 0, sha256: NO_LINE.to_owned() };
        Self::continuing(Box::new(sink), last, None, 0)
    }

    fn continuing(
        sink: Box<dyn AuditSink>,
        last: LastLine,
        found: Option<String>,
        torn_bytes: usize,
    ) -> Self {
        let chain = Chain { sink, last, found, torn_bytes, num_failures: 0 };
        Self { chain: Arc::new(Mutex::new(chain)) }
    }

    /// Writes one line; it is on the disk when this returns.
    pub(crate) fn record(&self, entry: &Entry) -> io::Result<()> {
        self.lock().record(entry)
    }

    /// The end of the chain, and how many lines could not be written.
    pub(crate) fn state(&self) -> (LastLine, u64) {
        let chain = self.lock();
        (chain.last.clone(), chain.num_failures)
    }

    fn lock(&self) -> MutexGuard<'_, Chain> {
        // The chain is changed only after a line was written.
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chain {
    fn record(&mut self, entry: &Entry) -> io::Result<()> {
        let mut entry = entry.clone();
        let reason = self.found.clone().into_iter().chain(entry.reason.take());
        let reason = reason.collect::<Vec<_>>().join("; ");
        entry.reason = Some(reason.chars().take(MAX_REASON_CHARS).collect())
            .filter(|reason: &String| !reason.is_empty());
        let sequence = self.last.sequence + 1;
        let line = Line {
            sequence,
            unix_ms: u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX),
            entry: &entry,
            torn_bytes: Some(self.torn_bytes).filter(|bytes| *bytes > 0),
            previous: &self.last.sha256,
        };
        let mut bytes = serde_json::to_vec(&line).map_err(io::Error::other)?;
        let sha256 = sha256(&bytes);
        bytes.push(b'\n');
        if let Err(error) = self.sink.append(&bytes) {
            self.num_failures += 1;
            tracing::error!(%error, event = entry.event, "a line of the audit log could not be written");
            return Err(error);
        }
        self.last = LastLine { sequence, sha256 };
        self.found = None;
        self.torn_bytes = 0;
        Ok(())
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").field("last", &self.state().0).finish_non_exhaustive()
    }
}

/// What becomes known of a change while it is made.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    pub(crate) to: Option<String>,
    pub(crate) hash: Option<String>,
    pub(crate) expires_unix_ms: Option<u64>,
}

/// Makes a change between its two lines. `order` says who wants what, and from where.
///
/// # Errors
/// 503 `audit_unavailable` where the first line cannot be written, and then nothing was changed; else what `change` gives.
pub(crate) fn audited<T>(
    audit: &AuditLog,
    order: Entry,
    change: impl FnOnce(&mut Noted) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    audit.record(&order).map_err(|error| ApiError::audit_unavailable(error.to_string()))?;
    let mut noted = Noted { to: order.to.clone(), ..Noted::default() };
    let outcome = change(&mut noted);
    let (result, reason) = match &outcome {
        Ok(_) => (Outcome::Done, None),
        Err(error) if error.is_of_the_server() => (Outcome::Failed, Some(error.for_the_log())),
        Err(error) => (Outcome::Refused, Some(error.for_the_log())),
    };
    let Noted { to, hash, expires_unix_ms } = noted;
    let end = Entry { to, hash, result, reason, expires_unix_ms, ..order };
    // What was done is done: the missing end is logged, counted, and seen in the file by its `begun`.
    audit.record(&end).ok();
    outcome
}

fn sha256(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests;
