//! The audit log's file: for its owner alone, appended to by one process, flushed line by line.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Write as _};
use std::path::Path;

use super::AuditSink;
use super::verify::{AuditReport, verify_audit_log};

/// An open file whose last line is whole.
pub(super) struct FileSink {
    file: File,
    /// Bytes up to the end of the last whole line.
    len: u64,
    /// Something of a line that could not be written is left behind: nothing can follow it.
    is_torn: bool,
}

impl FileSink {
    /// Opens or makes the file; the report is of what is in it.
    pub(super) fn open(path: &Path) -> io::Result<(Self, AuditReport)> {
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process writes to it")
            }
            TryLockError::Error(error) => error,
        })?;
        let report = verify_audit_log(BufReader::new(&file), None)?;
        if report.torn_bytes > 0 {
            // The torn line stays as it is: a link of the chain, which the next line names.
            file.write_all(b"\n")?;
        }
        file.sync_all()?;
        if is_new {
            sync_folder_of(path)?;
        }
        let len = file.metadata()?.len();
        Ok((Self { file, len, is_torn: false }, report))
    }
}

impl AuditSink for FileSink {
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            return Err(io::Error::other("a line before is torn; start the server again"));
        }
        if let Err(error) = self.file.write_all(line).and_then(|()| self.file.sync_data()) {
            // A part of a line must not be in front of the next one.
            self.is_torn = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        self.len += line.len() as u64;
        Ok(())
    }
}

/// Makes a new file's name survive a crash.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let real = fs::canonicalize(path)?;
    match real.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
