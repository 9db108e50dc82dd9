//! Reading an audit log: does each line continue the one before it?

use std::io::{self, BufRead};

use super::{Link, NO_LINE, sha256};

/// Faults that are told; more of them say nothing more.
const MAX_FAULTS: usize = 100;

/// What is in an audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// Lines, a torn last one included.
    pub num_lines: u64,
    /// `sequence` of the last line that has one; 0 if there is none.
    pub last_sequence: u64,
    /// SHA-256 of the last line, lower-case hex.
    pub last_sha256: Option<String>,
    /// Where the chain is broken, in order; at most the first 100.
    pub faults: Vec<AuditFault>,
    /// Bytes of a last line that has no end; 0 where there is none.
    pub torn_bytes: usize,
    /// Whether a line has the hash that was looked for.
    pub has_wanted: bool,
}

/// One break in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFault {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl AuditReport {
    /// Whether every line continues the one before it, to the end of the last.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty() && self.torn_bytes == 0
    }

    /// In words, the first thing that is wrong.
    pub(super) fn first_fault(&self) -> Option<String> {
        if let Some(fault) = self.faults.first() {
            return Some(format!("line {} of the log: {}", fault.line, fault.reason));
        }
        let is_torn = self.torn_bytes > 0;
        is_torn.then(|| format!("line {} of the log is torn: it has no end", self.num_lines))
    }
}

/// Reads a whole audit log and checks its chain; `wanted` is a hash, lower-case hex, that one of its lines should have.
///
/// # Errors
/// When it cannot be read. What is wrong with it is in the report.
pub fn verify_audit_log(mut log: impl BufRead, wanted: Option<&str>) -> io::Result<AuditReport> {
    let mut reader = Reader { previous: NO_LINE.to_owned(), ..Reader::default() };
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? > 0 {
        if line.last() == Some(&b'\n') {
            line.pop();
        } else {
            reader.report.torn_bytes = line.len();
        }
        reader.take(&line);
        reader.report.has_wanted |= wanted == Some(reader.previous.as_str());
        line.clear();
    }
    reader.report.last_sha256 =
        Some(reader.previous.clone()).filter(|_| reader.report.num_lines > 0);
    if let (Some(len), 0) = (reader.unreadable, reader.report.torn_bytes) {
        reader.unreadable_fault(reader.report.num_lines, len);
    }
    Ok(reader.report)
}

#[derive(Default)]
struct Reader {
    report: AuditReport,
    /// Hash of the line before.
    previous: String,
    /// Length of the line before, where it could not be read: it was torn if the next one says so.
    unreadable: Option<usize>,
}

impl Reader {
    fn take(&mut self, line: &[u8]) {
        self.report.num_lines += 1;
        let number = self.report.num_lines;
        let unreadable = self.unreadable.take();
        match serde_json::from_slice::<Link>(line) {
            Ok(link) => {
                let is_told = unreadable.is_some() && link.torn_bytes == unreadable;
                if let Some(len) = unreadable.filter(|_| !is_told) {
                    self.unreadable_fault(number - 1, len);
                }
                self.check(number, &link);
                self.report.last_sequence = link.sequence;
            }
            Err(_) => {
                if let Some(len) = unreadable {
                    self.unreadable_fault(number - 1, len);
                }
                self.unreadable = Some(line.len());
            }
        }
        self.previous = sha256(line);
    }

    fn check(&mut self, number: u64, link: &Link) {
        if link.previous != self.previous {
            let reason = "it does not continue the line before: that one was changed, or lines between were removed or put in";
            self.fault(number, reason.to_owned());
        } else if link.sequence != self.report.last_sequence + 1 {
            let reason = format!(
                "found sequence {}, expected {}: a line before was changed",
                link.sequence,
                self.report.last_sequence + 1
            );
            self.fault(number, reason);
        }
    }

    fn unreadable_fault(&mut self, line: u64, len: usize) {
        self.fault(line, format!("its {len} bytes are no line of an audit log"));
    }

    fn fault(&mut self, line: u64, reason: String) {
        if self.report.faults.len() < MAX_FAULTS {
            self.report.faults.push(AuditFault { line, reason });
        }
    }
}
