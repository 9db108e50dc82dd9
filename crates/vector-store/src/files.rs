//! Names, places and sizes of the store's files, and the one way to read them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::{GenerationId, hash};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const POLICY: &str = "policy.toml";
pub(crate) const VECTORS: &str = "vectors.safetensors";
pub(crate) const CARD: &str = "CARD.md";
pub(crate) const PROBE: &str = "probe.safetensors";
pub(crate) const FIGURES: &str = "figures.json";
/// Beside the others and outside the root hash.
pub(crate) const SIGNATURES: &str = "SIGNATURES.json";

pub(crate) const CURRENT: &str = "CURRENT";
pub(crate) const CURRENT_LOCK: &str = "CURRENT.lock";
pub(crate) const GENERATIONS: &str = "generations";
pub(crate) const HISTORY: &str = "history";

/// Beside the generations: one being written, one being removed, a file by which the file system's clock is read.
pub(crate) const STAGING: &str = ".staging-";
pub(crate) const REMOVED: &str = ".removed-";
pub(crate) const CLOCK: &str = ".clock-";

/// Files that every generation has beside its manifest.
pub(crate) const REQUIRED: [&str; 3] = [CARD, POLICY, VECTORS];

/// Files that a generation may have.
pub(crate) const OPTIONAL: [&str; 2] = [FIGURES, PROBE];

const MIB: u64 = 1024 * 1024;
/// `CURRENT` is one short line.
const MAX_CURRENT_BYTES: u64 = 4096;
/// Twice what [`MAX_SIGNATURES`](crate::signature::MAX_SIGNATURES) take.
const MAX_SIGNATURES_BYTES: u64 = 8192;
/// Reading TOML takes up to a kilobyte of memory a byte, for nothing but dots.
const MAX_POLICY_BYTES: u64 = 256 * 1024;

/// Whether the manifest may list a file of this name.
pub(crate) fn is_listed_name(name: &str) -> bool {
    REQUIRED.contains(&name) || OPTIONAL.contains(&name)
}

/// The most bytes a file may have: far above any real one, and little enough to be read whole.
pub(crate) fn max_bytes(name: &str) -> u64 {
    match name {
        VECTORS => 1024 * MIB,
        PROBE => 256 * MIB,
        MANIFEST | FIGURES => 16 * MIB,
        POLICY => MAX_POLICY_BYTES,
        CURRENT => MAX_CURRENT_BYTES,
        SIGNATURES => MAX_SIGNATURES_BYTES,
        _ => MIB,
    }
}

/// The files of a generation by name, the manifest among them.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What a generation is read from.
pub(crate) trait Source {
    /// Where it lies, for messages.
    fn path(&self) -> &Path;

    /// Where one of its files lies, for messages.
    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The bytes of one of its files.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>>;

    /// The names of all its files, sorted.
    fn names(&self) -> Result<Vec<String>>;
}

/// Files that were read already.
#[derive(Debug)]
pub(crate) struct InMemory<'a> {
    /// Where they were read, for messages.
    pub(crate) path: &'a Path,
    pub(crate) files: &'a Files,
}

impl Source for InMemory<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let bytes = self.files.get(name).ok_or_else(|| missing(self.file(name)))?;
        if bytes.len() as u64 > max_bytes(name) {
            return Err(too_large(self.file(name), max_bytes(name)));
        }
        Ok(Cow::Borrowed(bytes))
    }

    fn names(&self) -> Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }
}

/// A generation's folder, known to lie in the store.
#[derive(Debug)]
pub(crate) struct GenerationDir {
    /// As the caller named it, for messages.
    path: PathBuf,
    /// The root with all links resolved; nothing is read outside it.
    real_root: PathBuf,
}

impl GenerationDir {
    /// Finds a generation's folder.
    pub(crate) fn open(root: &Path, id: &GenerationId) -> Result<Self> {
        let path = generations_dir(root).join(id.as_str());
        let real_root = fs::canonicalize(root).map_err(Error::io("open the store", root))?;
        let dir = Self { path, real_root };
        let real = match fs::canonicalize(&dir.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason = format!(
                    "there is no generation {id}; write it first, or name one that is there"
                );
                return Err(Error::layout(&dir.path, reason));
            }
            real => real.map_err(Error::io("open the generation", &dir.path))?,
        };
        dir.check_inside(&real, &dir.path)?;
        Ok(dir)
    }

    /// A folder being written, before it has its name.
    pub(crate) fn staged(path: &Path) -> Result<Self> {
        let real_root = fs::canonicalize(path).map_err(Error::io("open the generation", path))?;
        Ok(Self { path: path.to_owned(), real_root })
    }

    fn check_inside(&self, real: &Path, path: &Path) -> Result<()> {
        if real.starts_with(&self.real_root) {
            return Ok(());
        }
        let reason = format!(
            "found a link to {}, expected a place inside the store {}; copy the files into the store",
            real.display(),
            self.real_root.display()
        );
        Err(Error::layout(path, reason))
    }
}

impl Source for GenerationDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let path = self.file(name);
        let real = match fs::canonicalize(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing(path));
            }
            real => real.map_err(Error::io("read", &path))?,
        };
        self.check_inside(&real, &path)?;
        read_bounded(&real, &path, max_bytes(name)).map(Cow::Owned)
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = fs::read_dir(&self.path).map_err(Error::io("list", &self.path))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &self.path))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

fn missing(path: PathBuf) -> Error {
    Error::layout(path, "the file is missing; copy the generation again from where it was made")
}

pub(crate) fn too_large(path: impl Into<PathBuf>, max: u64) -> Error {
    let reason =
        format!("found more than {max} bytes, expected at most that; this is not such a file");
    Error::layout(path, reason)
}

pub(crate) fn generations_dir(root: &Path) -> PathBuf {
    root.join(GENERATIONS)
}

/// Reads a small file outside the generations; `None` if there is none.
pub(crate) fn read_small(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
        Ok(_) => read_bounded(path, path, max).map(Some),
    }
}

/// Reads a regular file whole, but not more than its kind may have.
fn read_bounded(real: &Path, path: &Path, max: u64) -> Result<Vec<u8>> {
    let file = fs::File::open(real).map_err(Error::io("read", path))?;
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    if !metadata.is_file() {
        return Err(Error::layout(path, "found something else, expected a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > max {
        return Err(too_large(path, max));
    }
    Ok(bytes)
}

/// Replaces a small file in one step: written beside, flushed, renamed over, the folder flushed. The caller holds the store's
/// lock, so the name beside is free.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    replace_from(&dir.join(format!(".{name}.tmp")), dir, name, bytes)
}

/// [`replace`] with the place to write at first, for a folder in which nothing else may lie.
pub(crate) fn replace_from(beside: &Path, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let mut file = fs::File::create(beside).map_err(Error::io("create", beside))?;
    file.write_all(bytes).map_err(Error::io("write", beside))?;
    file.sync_all().map_err(Error::io("write", beside))?;
    fs::rename(beside, &path).map_err(Error::io("replace", &path))?;
    sync_dir(dir)
}

/// Removes a file, or a folder with what is in it; one that is gone, whoever removed it, is no error.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(Error::io("remove", path)),
    }
}

/// Makes a rename in a folder survive a crash.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let file = fs::File::open(dir).map_err(Error::io("open", dir))?;
    file.sync_all().map_err(Error::io("write", dir))
}

/// Compares a file's bytes with the digest on record.
pub(crate) fn check_digest(path: PathBuf, bytes: &[u8], expected: &str) -> Result<()> {
    let found = hash::sha256(bytes);
    if found == expected {
        return Ok(());
    }
    Err(Error::Damaged { path, found, expected: expected.to_owned() })
}
