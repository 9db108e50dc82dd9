//! Copying into the cache: hashed on the way, under another name until it is proved complete.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::FetchError;

/// Large enough that hashing dominates, small enough for a smooth bar.
const BUFFER_BYTES: usize = 1 << 20;

/// What a file must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) size_bytes: u64,
    /// Lower-case hex.
    pub(super) sha256: &'a str,
}

/// Copies `reader` to `target` if it is what is expected; otherwise leaves nothing behind.
///
/// The bytes go to a `.part` file in the same folder, which takes the target's name in one step.
pub(super) fn copy_checked(
    reader: &mut impl Read,
    target: &Path,
    expected: Expected<'_>,
    source_name: &str,
    bar: &ProgressBar,
) -> Result<(), FetchError> {
    let io = |source| FetchError::Io { path: target.to_owned(), source };
    let folder = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    // Deletes itself unless it is persisted.
    let mut part = tempfile::Builder::new().suffix(".part").tempfile_in(folder).map_err(io)?;
    let mut hashed = Hashed::default();
    // One byte more than expected tells a longer source from an exact one without reading all of it.
    let mut limited = reader.take(expected.size_bytes + 1);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = limited.read(&mut buffer).map_err(io)?;
        if length == 0 {
            break;
        }
        part.write_all(&buffer[..length]).map_err(io)?;
        hashed.update(&buffer[..length]);
        bar.set_position(hashed.size_bytes);
    }
    hashed.check(expected, source_name)?;
    part.as_file().sync_all().map_err(io)?;
    part.persist(target).map_err(|error| io(error.error))?;
    Ok(())
}

/// Whether the file at `path` is what is expected; hashes it only if its size is right.
pub(super) fn is_as_expected(
    path: &Path,
    expected: Expected<'_>,
    bar: &ProgressBar,
) -> Result<bool, FetchError> {
    let io = |source| FetchError::Io { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() == expected.size_bytes => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io(error)),
    }
    let mut file = File::open(path).map_err(io)?;
    let mut hashed = Hashed::default();
    hashed.read_from(&mut file, |done| bar.set_position(done)).map_err(io)?;
    Ok(hashed.sha256() == expected.sha256)
}

/// A running hash with the number of bytes.
#[derive(Default)]
pub(super) struct Hashed {
    hasher: Sha256,
    size_bytes: u64,
}

impl Hashed {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    /// Adds everything that is read, and says after each piece how many bytes that was so far.
    pub(super) fn read_from(
        &mut self,
        reader: &mut impl Read,
        progress: impl Fn(u64),
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                length => self.update(&buffer[..length]),
            }
            progress(self.size_bytes);
        }
    }

    /// The number of bytes so far.
    #[cfg(feature = "hub")]
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sha256(self) -> String {
        base16ct::lower::encode_string(&self.hasher.finalize())
    }

    pub(super) fn check(self, expected: Expected<'_>, source_name: &str) -> Result<(), FetchError> {
        let found_bytes = self.size_bytes;
        let found_sha256 = self.sha256();
        if found_bytes == expected.size_bytes && found_sha256 == expected.sha256 {
            return Ok(());
        }
        Err(FetchError::WrongContent {
            source_name: source_name.to_owned(),
            found_bytes,
            found_sha256,
            expected_bytes: expected.size_bytes,
            expected_sha256: expected.sha256.to_owned(),
        })
    }

    /// Checks a file of which only the size is known.
    #[cfg(feature = "hub")]
    pub(super) fn check_size(
        self,
        expected_bytes: u64,
        source_name: &str,
    ) -> Result<(), FetchError> {
        if self.size_bytes == expected_bytes {
            return Ok(());
        }
        Err(FetchError::WrongContent {
            source_name: source_name.to_owned(),
            found_bytes: self.size_bytes,
            found_sha256: self.sha256(),
            expected_bytes,
            expected_sha256: "(unknown)".to_owned(),
        })
    }
}
