//! Files from a Hugging Face repository.
//!
//! A download goes to a `.part` file that is named after the commit and the file, and is continued by a byte
//! range after an interruption. Layout in the cache: `hub/<owner>--<name>/<commit>/<file>`, and
//! `hub/<owner>--<name>/refs/<revision>` with the commit, so that `--offline` finds what a branch last meant.

mod repository;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use super::copy::{Expected, Hashed};
use super::{CatalogueEntry, FetchError, FetchOptions};
use crate::output;
use repository::{RemoteFile, Repository};

/// What a safetensors model consists of, beside its shards.
const SIDE_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// Large enough that hashing dominates, small enough for a smooth bar.
const BUFFER_BYTES: usize = 1 << 20;

/// Fetches a repository's model and returns the path that `--model` takes: the file that was asked for,
/// or the folder of the safetensors set.
pub(super) fn fetch(
    owner: &str,
    name: &str,
    cache_dir: &Path,
    options: &FetchOptions,
) -> Result<PathBuf, FetchError> {
    let folder = cache_dir.join("hub").join(format!("{owner}--{name}"));
    let revision = options.revision.as_deref().unwrap_or("main");
    let result = |commit: &str| {
        let snapshot = folder.join(commit);
        options.file.as_ref().map_or_else(|| snapshot.clone(), |file| snapshot.join(file))
    };
    let reference = folder.join("refs").join(revision.replace('/', "--"));
    let name = format!("{owner}/{name}");
    if options.offline {
        let commit = std::fs::read_to_string(&reference).unwrap_or_else(|_| revision.to_owned());
        let place = result(commit.trim());
        let what = format!("{name} at {revision}");
        return if place.exists() { Ok(place) } else { Err(FetchError::Offline { what, place }) };
    }
    let repository = Repository::open(&name);
    // Settled first, so that all files are of one commit.
    let commit = repository.commit(revision)?;
    for file in wanted(&repository, &commit, options.file.as_deref())? {
        download(&repository, &commit, &file, &folder.join(&commit).join(&file.path))?;
    }
    write_reference(&reference, &commit)?;
    Ok(result(&commit))
}

/// Fetches a catalogue model's file to `target`.
pub(super) fn fetch_entry(entry: &CatalogueEntry, target: &Path) -> Result<(), FetchError> {
    let file = RemoteFile {
        path: entry.file_name.to_owned(),
        size_bytes: entry.size_bytes,
        sha256: Some(entry.sha256.to_owned()),
    };
    download(&Repository::open(entry.hub.repository), entry.hub.revision, &file, target)
}

fn write_reference(path: &Path, commit: &str) -> Result<(), FetchError> {
    let io = |source| FetchError::Io { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    file.write_all(commit.as_bytes()).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// The files to fetch: the one that was asked for, or everything a safetensors model needs.
fn wanted(
    repository: &Repository,
    commit: &str,
    asked_for: Option<&str>,
) -> Result<Vec<RemoteFile>, FetchError> {
    let in_folder = asked_for.is_some_and(|path| path.contains('/'));
    let mut files = repository.files(commit, in_folder)?;
    // They become paths below the cache.
    files.retain(|file| {
        Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_)))
    });
    let is_gguf = |file: &&RemoteFile| file.path.ends_with(".gguf");
    let gguf: Vec<&str> = files.iter().filter(is_gguf).map(|file| file.path.as_str()).collect();
    if let Some(path) = asked_for {
        return match files.iter().find(|file| file.path == path) {
            Some(file) => Ok(vec![file.clone()]),
            None => {
                Err(repository
                    .failed(format!("has no file {path}; GGUF files: {}", gguf.join(", "))))
            }
        };
    }
    let is_weight = |path: &str| path.starts_with("model") && path.ends_with(".safetensors");
    if !files.iter().any(|file| is_weight(&file.path)) {
        let names = gguf.join(", ");
        return Err(repository.failed(format!(
            "has no model*.safetensors; name one of its GGUF files with --file: {names}"
        )));
    }
    files.retain(|file| is_weight(&file.path) || SIDE_FILES.contains(&file.path.as_str()));
    Ok(files)
}

/// Downloads one file, going on where an interrupted download stopped.
fn download(
    repository: &Repository,
    commit: &str,
    file: &RemoteFile,
    target: &Path,
) -> Result<(), FetchError> {
    if std::fs::metadata(target).is_ok_and(|found| found.len() == file.size_bytes) {
        return Ok(());
    }
    let mut part = Part::open(part_path(target, commit), file.size_bytes)?;
    let bar = output::byte_bar(&file.path, file.size_bytes);
    let copied = part.fill(repository, commit, file, &|done| bar.set_position(done));
    bar.finish_and_clear();
    copied?;
    part.finish(file, &format!("{}/{}", repository.name(), file.path), target)
}

fn part_path(target: &Path, commit: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{commit}.part"));
    target.with_file_name(name)
}

/// A file that is not complete yet.
struct Part {
    path: PathBuf,
    file: File,
    hashed: Hashed,
}

impl Part {
    /// Opens what an interrupted download left, or a new file, and hashes what is there.
    fn open(path: PathBuf, size_bytes: u64) -> Result<Self, FetchError> {
        let io = |source| FetchError::Io { path: path.clone(), source };
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(io)?;
        let options = OpenOptions::new().create(true).read(true).append(true).clone();
        let mut part =
            Self { file: options.open(&path).map_err(io)?, path, hashed: Hashed::default() };
        if part.io(|part| Ok(part.file.metadata()?.len()))? > size_bytes {
            part.io(Self::clear)?;
        }
        part.io(|part| part.hashed.read_from(&mut part.file, |_| {}))?;
        Ok(part)
    }

    fn io<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> std::io::Result<T>,
    ) -> Result<T, FetchError> {
        work(self).map_err(|source| FetchError::Io { path: self.path.clone(), source })
    }

    fn clear(&mut self) -> std::io::Result<()> {
        self.hashed = Hashed::default();
        self.file.set_len(0)
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hashed.update(bytes);
        self.file.write_all(bytes)
    }

    /// Reads what is missing. After an error the bytes that came are kept for the next attempt.
    fn fill(
        &mut self,
        repository: &Repository,
        commit: &str,
        remote: &RemoteFile,
        progress: &dyn Fn(u64),
    ) -> Result<(), FetchError> {
        let done = self.hashed.size_bytes();
        if done == remote.size_bytes {
            return Ok(());
        }
        let (start, body) = repository.read(commit, &remote.path, done)?;
        if start != done {
            self.io(Self::clear)?;
        }
        // One byte more than expected tells a longer file from an exact one without reading all of it.
        let mut body = body.take(remote.size_bytes - start + 1);
        let mut buffer = vec![0; BUFFER_BYTES];
        let why = loop {
            match body.read(&mut buffer) {
                Ok(0) => break "the connection was closed".to_owned(),
                Ok(length) => self.io(|part| part.append(&buffer[..length]))?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break error.to_string(),
            }
            progress(self.hashed.size_bytes());
        };
        let (found, expected) = (self.hashed.size_bytes(), remote.size_bytes);
        if found < expected {
            return Err(repository.failed(format!(
                "{}: {why} after {found} of {expected} bytes; run the command again to go on from there",
                remote.path
            )));
        }
        Ok(())
    }

    /// Gives the file its name if it is what the hub says: always the size, the hash of large files.
    fn finish(mut self, remote: &RemoteFile, name: &str, target: &Path) -> Result<(), FetchError> {
        let hashed = std::mem::take(&mut self.hashed);
        let checked = match &remote.sha256 {
            Some(sha256) => hashed.check(Expected { size_bytes: remote.size_bytes, sha256 }, name),
            None => hashed.check_size(remote.size_bytes, name),
        };
        if checked.is_err() {
            // Kept bytes that are wrong would spoil the next attempt as well.
            self.io(|part| std::fs::remove_file(&part.path))?;
            return checked;
        }
        self.io(|part| part.file.sync_all())?;
        self.io(|part| std::fs::rename(&part.path, target))
    }
}
