//! Finished work on disk: figures and answers by the hash of everything that decides them.
//!
//! One file of JSON Lines, only ever appended to, each line written whole as its work ends: what a run had finished when
//! it broke off is there for the next. Several processes may append to one file, for a line is one write at its end; each knows
//! what was there when it began. A last line that a crash cut short is dropped. The file may hold model answers, so it is for
//! its owner alone and lies in a cache folder, never beside results.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Values of one kind by key, in memory and, unless [`Self::in_memory`] made it, in their file.
#[derive(Debug)]
pub struct DiskCache<T> {
    file: Option<(PathBuf, File)>,
    values: HashMap<String, T>,
}

#[derive(Serialize, serde::Deserialize)]
struct Line<T> {
    key: String,
    value: T,
}

impl<T: Serialize + DeserializeOwned> DiskCache<T> {
    /// Opens `<folder>/<name>.jsonl`, making folder and file where they are missing.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be made or read. A damaged line is no error: its work is done again.
    pub fn open(folder: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))?;
        let path = folder.join(format!("{name}.jsonl"));
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(|source| Error::io(&path, source))?;
        let values = read_lines(&file).map_err(|source| Error::io(&path, source))?;
        end_last_line(&mut file).map_err(|source| Error::io(&path, source))?;
        Ok(Self { file: Some((path, file)), values })
    }

    /// Values that end with the process, where there is no folder for them.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { file: None, values: HashMap::new() }
    }

    /// Whether values outlive the process.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        self.file.is_some()
    }

    /// The value of a key, if it is there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&T> {
        self.values.get(key)
    }

    /// Keeps a value; where there is a file, it is written before this returns.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn insert(&mut self, key: String, value: T) -> Result<()> {
        let line = Line { key, value };
        if let Some((path, file)) = &mut self.file {
            let io = |source| Error::io(path, source);
            let mut bytes = serde_json::to_vec(&line).map_err(|error| io(error.into()))?;
            bytes.push(b'\n');
            file.write_all(&bytes).map_err(io)?;
        }
        self.values.insert(line.key, line.value);
        Ok(())
    }
}

fn read_lines<T: DeserializeOwned>(file: &File) -> std::io::Result<HashMap<String, T>> {
    let mut values = HashMap::new();
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(Line { key, value }) = serde_json::from_slice(&line?) {
            values.insert(key, value);
        }
    }
    Ok(values)
}

/// What is appended next starts on a line of its own, also after one that was cut short.
fn end_last_line(file: &mut File) -> std::io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// Lower-case hex SHA-256 over parts, each with its length, so that no two lists of parts look alike.
#[must_use]
pub(crate) fn key_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    encode_string(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_there_after_a_restart_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = DiskCache::<u32>::open(folder.path(), "numbers").unwrap();
        cache.insert("a".to_owned(), 1).unwrap();
        cache.insert("b".to_owned(), 2).unwrap();
        drop(cache);
        let path = folder.path().join("numbers.jsonl");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();

        let mut cache = DiskCache::<u32>::open(folder.path(), "numbers").unwrap();
        assert_eq!((cache.get("a"), cache.get("b")), (Some(&1), None));
        cache.insert("c".to_owned(), 3).unwrap();
        drop(cache);
        let cache = DiskCache::<u32>::open(folder.path(), "numbers").unwrap();
        assert_eq!((cache.get("a"), cache.get("b"), cache.get("c")), (Some(&1), None, Some(&3)));
    }

    #[test]
    fn several_may_append_to_one_file_and_kinds_lie_beside_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DiskCache::<u32>::open(folder.path(), "numbers").unwrap();
        let mut words = DiskCache::<String>::open(folder.path(), "words").unwrap();
        let (mut one, mut other) = (open(), open());
        one.insert("a".to_owned(), 1).unwrap();
        other.insert("b".to_owned(), 2).unwrap();
        words.insert("a".to_owned(), "one".to_owned()).unwrap();
        one.insert("c".to_owned(), 3).unwrap();
        let all = open();
        assert_eq!(["a", "b", "c"].map(|key| all.get(key)), [Some(&1), Some(&2), Some(&3)]);
        let words = DiskCache::<String>::open(folder.path(), "words").unwrap();
        assert_eq!((words.get("a"), words.get("b")), (Some(&"one".to_owned()), None));
    }

    #[test]
    fn without_a_folder_values_are_in_memory() {
        let mut cache = DiskCache::in_memory();
        cache.insert("a".to_owned(), 1).unwrap();
        assert_eq!((cache.get("a"), cache.get("b"), cache.is_on_disk()), (Some(&1), None, false));
        let folder = tempfile::tempdir().unwrap();
        assert!(DiskCache::<u32>::open(folder.path(), "numbers").unwrap().is_on_disk());
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let _cache = DiskCache::<u32>::open(&folder.path().join("new"), "numbers").unwrap();
        let metadata = std::fs::metadata(folder.path().join("new/numbers.jsonl")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_depend_on_where_parts_end() {
        let key = |parts: &[&str]| key_of(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }
}
