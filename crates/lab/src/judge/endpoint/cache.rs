//! What endpoints answered, by the hash of what they were asked: figures on disk, never a text.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The file in a cache folder: JSON Lines that are only ever appended, one an item.
pub const ANSWERS_FILE: &str = "endpoint-answers.jsonl";

/// Part of each key, so that another meaning of the lines gets other keys.
const FORMAT: &str = "skeg-endpoint-answer-1";

/// One line: `{"key": "<sha256>", ...}` with the fields of `V`.
#[derive(Serialize, Deserialize)]
struct Line<V> {
    key: String,
    #[serde(flatten)]
    value: V,
}

/// Answers of one kind, in memory and, where a folder is given, in its file.
///
/// Several judges and processes may append to one file: a line is one write at the file's end. A line that is no line of
/// this kind is passed over: another kind's, or one that was cut off.
#[derive(Debug)]
pub(super) struct Cache<V> {
    known: HashMap<String, V>,
    file: Option<(PathBuf, File)>,
}

/// SHA-256 over the parts, each with its length, as lower-case hex.
pub(super) fn key(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in [FORMAT].iter().chain(parts) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    encode_string(&hasher.finalize())
}

impl<V: Copy + Serialize + DeserializeOwned> Cache<V> {
    /// Reads what is there; makes folder and file (mode 0600) where they are missing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn open(folder: Option<&Path>) -> Result<Self> {
        let mut cache = Self { known: HashMap::new(), file: None };
        let Some(folder) = folder else { return Ok(cache) };
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        let path = folder.join(ANSWERS_FILE);
        let io = |error| Error::io(&path, error);
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(io)?;
        let bytes = std::fs::read(&path).map_err(io)?;
        for line in bytes.split(|&byte| byte == b'\n') {
            if let Ok(line) = serde_json::from_slice::<Line<V>>(line) {
                cache.known.insert(line.key, line.value);
            }
        }
        if bytes.last().is_some_and(|&last| last != b'\n') {
            // The next line must not be joined to one that was cut off.
            file.write_all(b"\n").map_err(io)?;
        }
        cache.file = Some((path, file));
        Ok(cache)
    }

    pub(super) fn get(&self, key: &str) -> Option<V> {
        self.known.get(key).copied()
    }

    /// Whether answers outlive the process.
    pub(super) fn is_on_disk(&self) -> bool {
        self.file.is_some()
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn insert(&mut self, key: &str, value: V) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            let line = serde_json::to_vec(&Line { key: key.to_owned(), value });
            let written = line.map_err(std::io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
            written.map_err(|error| Error::io(path, error))?;
        }
        self.known.insert(key.to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::RewardScore;
    use super::*;
    use crate::judge::Verdict;

    fn verdict(score: f64) -> Verdict {
        Verdict { score, positive: score > 0.5 }
    }

    #[test]
    fn keys_keep_the_parts_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!((key(&["a"]).len(), key(&["a"])), (64, key(&["a"])));
    }

    #[test]
    fn answers_are_found_again_beside_those_of_another_kind_and_a_line_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new").join("folder");
        let mut verdicts = Cache::open(Some(&folder)).unwrap();
        let mut rewards = Cache::open(Some(&folder)).unwrap();
        verdicts.insert("a", verdict(0.9)).unwrap();
        rewards.insert("b", RewardScore { helpfulness: 1.5, coherence: 3.0 }).unwrap();
        verdicts.insert("c", verdict(0.1)).unwrap();
        let path = folder.join(ANSWERS_FILE);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let mut read: Cache<Verdict> = Cache::open(Some(&folder)).unwrap();
        assert_eq!((read.get("a"), read.get("b"), read.get("c")), (Some(verdict(0.9)), None, None));
        read.insert("c", verdict(0.2)).unwrap();
        let read: Cache<Verdict> = Cache::open(Some(&folder)).unwrap();
        assert_eq!((read.get("a"), read.get("c")), (Some(verdict(0.9)), Some(verdict(0.2))));
        let read: Cache<RewardScore> = Cache::open(Some(&folder)).unwrap();
        assert_eq!(read.get("b").map(|score| score.coherence), Some(3.0));
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let _cache: Cache<Verdict> = Cache::open(Some(folder.path())).unwrap();
        let mode = folder.path().join(ANSWERS_FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
