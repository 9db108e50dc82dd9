//! The decision log: one JSON line a request, without content.
//!
//! Lines go through a bounded channel to a writer thread, so that a slow disk cannot stall a request. When
//! the channel is full a line is dropped, but not silently: it is counted, logged as an error, and the next
//! line that is written says how many are missing before it (`lost_before`).

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde::Serialize;

use crate::kill_switch::OverrideAction;

/// Lines that may wait for the disk: some seconds of the busiest server this program makes.
const MAX_QUEUED_LINES: usize = 4096;

/// Where decisions are written; clones share one writer, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct DecisionLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // `None` only while dropping: closing the channel ends the writer.
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    lost: AtomicU64,
}

/// What was decided for one request, and how it ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DecisionLine<'a> {
    pub(crate) unix_ms: u64,
    pub(crate) request_id: &'a str,
    pub(crate) principal: &'a str,
    pub(crate) group: &'a str,
    pub(crate) category: String,
    pub(crate) source: &'static str,
    pub(crate) confidence: Option<f32>,
    /// `failed` where the classifier gave no verdict, and the request was answered all the same; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) classifier: Option<&'static str>,
    pub(crate) generation: &'a str,
    pub(crate) action: &'static str,
    pub(crate) strength: Vec<f32>,
    pub(crate) steered_prompt_tokens: usize,
    pub(crate) steered_completion_tokens: usize,
    pub(crate) completion_tokens: usize,
    /// The token of an answer, counted from 0, from which on it was steered, because of what it showed; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steered_from: Option<usize>,
    /// `completed`, `refused`, `failed:<code>` or `client_closed`.
    pub(crate) outcome: String,
    /// The operator's override that was in force; absent without one.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub(crate) overridden: Option<OverrideAction>,
    /// Lines lost between the one before and this one; absent when none.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) lost_before: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl DecisionLog {
    /// Appends to the file at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened or the system gives no thread.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Self::to_writer(OpenOptions::new().create(true).append(true).open(path)?)
    }

    /// Writes to `writer`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn to_writer(writer: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (lines, receiver) = sync_channel(MAX_QUEUED_LINES);
        let writer = std::thread::Builder::new()
            .name("skeg-decisions".to_owned())
            .spawn(move || write_lines(writer, &receiver))?;
        let inner = Inner { lines: Some(lines), writer: Some(writer), lost: AtomicU64::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Queues one line without waiting.
    pub(crate) fn record(&self, mut line: DecisionLine<'_>) {
        let inner = &self.inner;
        line.lost_before = inner.lost.swap(0, Ordering::AcqRel);
        let lost_before = line.lost_before;
        let sent = serde_json::to_string(&line).is_ok_and(|line| {
            inner.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok())
        });
        if !sent {
            let lost = inner.lost.fetch_add(lost_before + 1, Ordering::AcqRel) + lost_before + 1;
            tracing::error!(
                lost,
                request_id = line.request_id,
                "a decision was not logged: the disk is too slow or the log is closed"
            );
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the decision log's writer panicked");
        }
    }
}

fn write_lines(mut writer: impl Write, lines: &Receiver<String>) {
    for mut line in lines {
        line.push('\n');
        // One write a line, so that a reader of the file never sees half of one.
        if let Err(error) = writer.write_all(line.as_bytes()).and_then(|()| writer.flush()) {
            tracing::error!(%error, "a decision could not be written to the decision log");
        }
    }
}
