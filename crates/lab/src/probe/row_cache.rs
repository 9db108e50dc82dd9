//! Rows of numbers on disk: activations and embeddings, by the hash of everything that decides them.
//!
//! [`crate::DiskCache`] holds every value in memory and writes JSON, which is too much for rows of thousands of numbers. Here a row
//! is a file of its own, `rows/<2 digits>/<62 digits>` below the cache's folder: `skegrow1`, the SHA-256 of key and numbers, and
//! the numbers, f32 little-endian. It is written beside its place and renamed, so it is whole or not there; one that is damaged
//! counts as not there. Activations say something about the texts they are of, so files are for their owner alone.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::disk_cache::key_of;
use crate::error::{Error, Result};
use crate::exchange::floats;
use crate::judge::Embed;
use crate::progress::Progress;

const MAGIC: &[u8; 8] = b"skegrow1";
const HEAD_BYTES: usize = MAGIC.len() + 32;
/// Numbers of a row that is kept; a longer one is computed each time.
const MAX_ROW: usize = 1 << 22;
/// Rows that are computed between two writes: what an interrupted run loses at most.
const CHUNK: usize = 64;

/// Rows in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowCache {
    folder: PathBuf,
    computed_by: String,
}

impl RowCache {
    /// Rows in `<folder>/rows`, which is made if need be. `computed_by` is whatever decides a row beside what callers put into its
    /// key: how the weights are kept, the device.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be made.
    pub fn open(folder: &Path, computed_by: impl Into<String>) -> Result<Self> {
        let folder = folder.join("rows");
        std::fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
        let computed_by = format!("skeg {} {}", env!("CARGO_PKG_VERSION"), computed_by.into());
        Ok(Self { folder, computed_by })
    }

    /// The key of a row that these parts decide.
    pub(super) fn key<'a>(&'a self, parts: impl IntoIterator<Item = &'a [u8]>) -> String {
        key_of([self.computed_by.as_bytes()].into_iter().chain(parts))
    }

    fn place(&self, key: &str) -> (PathBuf, String) {
        let (folder, name) = key.split_at_checked(2).unwrap_or(("", key));
        (self.folder.join(folder), name.to_owned())
    }

    /// The row of a key: `None` where it is not there, or damaged.
    pub(super) fn get(&self, key: &str) -> Option<Vec<f32>> {
        let (folder, name) = self.place(key);
        let file = File::open(folder.join(name)).ok()?;
        let max_bytes = HEAD_BYTES + 4 * MAX_ROW;
        let mut bytes = Vec::new();
        file.take(max_bytes as u64 + 1).read_to_end(&mut bytes).ok()?;
        let (head, values) = bytes.split_at_checked(HEAD_BYTES)?;
        let is_whole = bytes.len() <= max_bytes
            && values.len().is_multiple_of(4)
            && head.starts_with(MAGIC)
            && head[MAGIC.len()..] == checksum(key, values);
        is_whole.then(|| floats(values))
    }

    /// Keeps a row; one of more than 4 Mi numbers is not kept.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub(super) fn put(&self, key: &str, row: &[f32]) -> Result<()> {
        if row.len() > MAX_ROW {
            return Ok(());
        }
        let (folder, name) = self.place(key);
        let values: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        let bytes = [MAGIC.as_slice(), &checksum(key, &values), &values].concat();
        std::fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
        let beside = folder.join(format!(".{name}.{}.tmp", std::process::id()));
        let path = folder.join(name);
        write_new(&beside, &bytes)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|source| Error::io(&path, source))
    }
}

fn checksum(key: &str, values: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(key).chain_update(values).finalize().into()
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // What a process with this id left when it died.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(bytes)
}

/// Rows to be had: how many, of how many numbers each, and what one is called in the plural.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) what: &'static str,
    pub(super) num: usize,
    pub(super) width: usize,
    /// Steps of progress that one takes.
    pub(super) num_steps: usize,
}

/// Computes the rows of some indices, end to end.
pub(super) type Compute<'a> = dyn FnMut(&[usize], &mut dyn Progress) -> Result<Vec<f32>> + 'a;

/// The wanted rows `[num, width]`: those that the cache has under their `key`, the others computed, some at a time, and kept.
/// Without a cache all are computed at once.
///
/// # Errors
/// What `compute` returns, [`Error::Data`] when it gives another number of rows; [`Error::Io`] when a row cannot be kept.
pub(super) fn rows_of(
    cache: Option<&RowCache>,
    wanted: Wanted,
    key: &dyn Fn(&RowCache, usize) -> String,
    compute: &mut Compute<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<f32>> {
    let Wanted { what, num, width, num_steps } = wanted;
    let Some(cache) = cache else {
        let all: Vec<usize> = (0..num).collect();
        return compute(&all, progress);
    };
    let keys: Vec<String> = (0..num).map(|idx| key(cache, idx)).collect();
    let mut rows: Vec<Option<Vec<f32>>> =
        keys.iter().map(|key| cache.get(key).filter(|row| row.len() == width)).collect();
    let missing: Vec<usize> = (0..num).filter(|&idx| rows[idx].is_none()).collect();
    let mut done = num - missing.len();
    progress.start(what, num * num_steps);
    if progress.advance(done * num_steps).is_break() && done < num {
        return Err(Error::Interrupted { done, total: num });
    }
    for chunk in missing.chunks(CHUNK) {
        let values = compute(chunk, &mut Part(&mut *progress)).map_err(|error| match error {
            Error::Interrupted { .. } => Error::Interrupted { done, total: num },
            other => other,
        })?;
        if values.len() != chunk.len() * width {
            return Err(Error::Data(format!(
                "{} numbers for {} rows of {width}; expected {}",
                values.len(),
                chunk.len(),
                chunk.len() * width
            )));
        }
        for (&idx, row) in chunk.iter().zip(values.chunks(width.max(1))) {
            cache.put(&keys[idx], row)?;
            rows[idx] = Some(row.to_vec());
        }
        done += chunk.len();
    }
    progress.finish();
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// Steps of a piece of longer work, whose beginning and end are not the whole's.
struct Part<'a>(&'a mut dyn Progress);

impl Progress for Part<'_> {
    fn start(&mut self, _what: &str, _total: usize) {}

    fn advance(&mut self, num_steps: usize) -> ControlFlow<()> {
        self.0.advance(num_steps)
    }

    fn note(&mut self, message: &str) {
        self.0.note(message);
    }

    fn finish(&mut self) {}
}

/// An embedder whose embeddings are kept.
#[derive(Debug)]
pub struct KeptEmbedder<E> {
    inner: E,
    cache: RowCache,
}

impl<E: Embed> KeptEmbedder<E> {
    /// Embeddings of `inner`, kept in `cache`.
    pub const fn new(inner: E, cache: RowCache) -> Self {
        Self { inner, cache }
    }
}

impl<E: Embed> Embed for KeptEmbedder<E> {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn width(&self) -> usize {
        self.inner.width()
    }

    fn embed(&self, texts: &[&str], progress: &mut dyn Progress) -> Result<Vec<Arc<[f32]>>> {
        let width = self.width();
        let wanted = Wanted { what: "texts", num: texts.len(), width, num_steps: 1 };
        let key = |cache: &RowCache, idx: usize| {
            cache.key([b"embedding".as_slice(), self.id().as_bytes(), texts[idx].as_bytes()])
        };
        let mut compute = |idxs: &[usize], progress: &mut dyn Progress| {
            let texts: Vec<&str> = idxs.iter().map(|&idx| texts[idx]).collect();
            let embeddings = self.inner.embed(&texts, progress)?;
            Ok(embeddings.iter().flat_map(|row| row.iter().copied()).collect())
        };
        let rows = rows_of(Some(&self.cache), wanted, &key, &mut compute, progress)?;
        Ok(rows.chunks(width.max(1)).map(Arc::from).collect())
    }
}

#[cfg(test)]
mod tests;
