//! The state file from which an interrupted extraction goes on.
//!
//! One line of JSON, then the sums as raw numbers. It is replaced by an atomic rename, so a reader
//! sees the whole of an old or the whole of a newer state, and it is only ever read for the run it was made by:
//! the key covers spec, inputs and model.

use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::statistics::Statistics;
use crate::error::{Error, Result};

const FORMAT: &str = "skeg-extract-part-1";

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    key: String,
    sums_sha256: String,
}

/// Writes the state file.
pub(crate) fn save(path: &Path, key: &str, statistics: &dyn Statistics) -> Result<()> {
    let bytes = statistics.to_bytes();
    let header = Header {
        format: FORMAT.to_owned(),
        key: key.to_owned(),
        sums_sha256: encode_string(&Sha256::digest(&bytes)),
    };
    let mut content = serde_json::to_vec(&header)
        .map_err(|error| Error::Spec(format!("the checkpoint's header: {error}")))?;
    content.push(b'\n');
    content.extend(bytes);
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    std::fs::write(&unfinished, content)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Restores the statistics from the state file; the text says why a file that is there was not used.
pub(crate) fn restore(
    path: &Path,
    key: &str,
    statistics: &mut dyn Statistics,
) -> Result<(), String> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    let (header, bytes) = content
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|end| (&content[..end], &content[end + 1..]))
        .ok_or("it has no header")?;
    let header: Header =
        serde_json::from_slice(header).map_err(|error| format!("its header: {error}"))?;
    if header.format != FORMAT {
        return Err(format!("its format is `{}`; expected `{FORMAT}`", header.format));
    }
    if header.key != key {
        return Err("it belongs to another spec, other data or another model".to_owned());
    }
    if header.sums_sha256 != encode_string(&Sha256::digest(bytes)) || !statistics.restore(bytes) {
        return Err("it is damaged".to_owned());
    }
    Ok(())
}

/// Removes the state file of a run that is complete.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
