//! Files from a Hugging Face repository.
//!
//! hf-hub's own `download_file` starts afresh each time, so resuming is done here: a `.part` file that is
//! named after the commit and the file is continued by a byte range. Layout in the cache:
//! `hub/<owner>--<name>/<commit>/<file>`, and `hub/<owner>--<name>/refs/<revision>` with the commit, so that
//! `--offline` finds what a branch last meant.
//!
//! The token is hf-hub's business: `HF_TOKEN`, or the file that `hf auth login` writes.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::HFClient;
use hf_hub::repository::{HFRepository, RepoTreeEntry, RepoTypeModel};
use tokio_stream::StreamExt;

use super::copy::{Expected, Hashed};
use super::{CatalogueEntry, FetchError, FetchOptions};
use crate::output;

/// What a safetensors model consists of, beside its shards.
const SIDE_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// One repository at one time.
struct Remote {
    repository: HFRepository<RepoTypeModel>,
    /// `owner/name`, for messages.
    name: String,
    revision: String,
}

/// What the hub says of a file.
struct RemoteFile {
    path: String,
    size_bytes: u64,
    /// Known for large files: the hub's ETag of a file in LFS is its SHA-256.
    sha256: Option<String>,
    commit: String,
}

/// Fetches a repository's model and returns the path that `--model` takes: the file that was asked for,
/// or the folder of the safetensors set.
pub(super) fn fetch(
    owner: &str,
    name: &str,
    cache_dir: &Path,
    options: &FetchOptions,
) -> Result<PathBuf, FetchError> {
    let folder = cache_dir.join("hub").join(format!("{owner}--{name}"));
    let revision = options.revision.clone().unwrap_or_else(|| "main".to_owned());
    let result = |commit: &str| {
        let snapshot = folder.join(commit);
        options.file.as_ref().map_or_else(|| snapshot.clone(), |file| snapshot.join(file))
    };
    let reference = folder.join("refs").join(revision.replace('/', "--"));
    if options.offline {
        let what = format!("{owner}/{name}");
        let commit = std::fs::read_to_string(&reference).unwrap_or_else(|_| revision.clone());
        let path = result(commit.trim());
        return if path.exists() {
            Ok(path)
        } else {
            Err(FetchError::Offline { what, place: path })
        };
    }
    let commit = runtime()?.block_on(async {
        let remote = Remote::open(owner, name, revision)?;
        let wanted = remote.wanted(options.file.as_deref()).await?;
        let mut commit = None;
        for path in wanted {
            // The first file settles the commit, so that all files are of one.
            let file = remote.describe(&path, commit.as_deref()).await?;
            remote.download(&file, &folder.join(&file.commit).join(&file.path)).await?;
            commit = Some(file.commit);
        }
        commit.ok_or_else(|| remote.failed("there is nothing to fetch".to_owned()))
    })?;
    write_reference(&reference, &commit)?;
    Ok(result(&commit))
}

/// Fetches a catalogue model's file to `target`.
pub(super) fn fetch_entry(entry: &CatalogueEntry, target: &Path) -> Result<(), FetchError> {
    let (owner, name) = hf_hub::split_id(entry.hub.repository);
    let remote = Remote::open(owner, name, entry.hub.revision.to_owned())?;
    let file = RemoteFile {
        path: entry.file_name.to_owned(),
        size_bytes: entry.size_bytes,
        sha256: Some(entry.sha256.to_owned()),
        commit: entry.hub.revision.to_owned(),
    };
    runtime()?.block_on(remote.download(&file, target))
}

/// hf-hub is async; nothing else here is, so the runtime lives as long as one fetch.
fn runtime() -> Result<tokio::runtime::Runtime, FetchError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| FetchError::Io { path: "the hub client's runtime".into(), source })
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

impl Remote {
    fn open(owner: &str, name: &str, revision: String) -> Result<Self, FetchError> {
        let full_name = format!("{owner}/{name}");
        let client = HFClient::builder().cache_enabled(false).build().map_err(|error| {
            FetchError::Hub { repository: full_name.clone(), reason: error.to_string() }
        })?;
        Ok(Self { repository: client.model(owner, name), name: full_name, revision })
    }

    fn failed(&self, reason: String) -> FetchError {
        FetchError::Hub { repository: self.name.clone(), reason }
    }

    /// The files to fetch: the one that was asked for, or everything a safetensors model needs.
    async fn wanted(&self, file: Option<&str>) -> Result<Vec<String>, FetchError> {
        let listing = self.repository.list_tree().revision(&self.revision).send();
        let mut entries = std::pin::pin!(listing.map_err(|error| self.failed(error.to_string()))?);
        let mut paths = Vec::new();
        while let Some(entry) = entries.next().await {
            if let RepoTreeEntry::File { path, .. } =
                entry.map_err(|error| self.failed(error.to_string()))?
            {
                paths.push(path);
            }
        }
        let gguf: Vec<&str> =
            paths.iter().map(String::as_str).filter(|path| path.ends_with(".gguf")).collect();
        if let Some(file) = file {
            return if paths.iter().any(|path| path == file) {
                Ok(vec![file.to_owned()])
            } else {
                Err(self.failed(format!("has no file {file}; GGUF files: {}", gguf.join(", "))))
            };
        }
        let is_weight = |path: &str| path.starts_with("model") && path.ends_with(".safetensors");
        if !paths.iter().any(|path| is_weight(path)) {
            let reason = format!(
                "has no model*.safetensors; name one of its GGUF files with --file: {}",
                gguf.join(", ")
            );
            return Err(self.failed(reason));
        }
        paths.retain(|path| is_weight(path) || SIDE_FILES.contains(&path.as_str()));
        Ok(paths)
    }

    async fn describe(&self, path: &str, commit: Option<&str>) -> Result<RemoteFile, FetchError> {
        let revision = commit.unwrap_or(&self.revision);
        let metadata = self.repository.get_file_metadata().filepath(path).revision(revision);
        let found =
            metadata.send().await.map_err(|error| self.failed(format!("{path}: {error}")))?;
        let is_sha256 =
            found.etag.len() == 64 && found.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        Ok(RemoteFile {
            path: path.to_owned(),
            size_bytes: found.file_size,
            sha256: is_sha256.then_some(found.etag),
            commit: found.commit_hash,
        })
    }

    /// Downloads one file, going on where an interrupted download stopped.
    async fn download(&self, file: &RemoteFile, target: &Path) -> Result<(), FetchError> {
        if std::fs::metadata(target).is_ok_and(|found| found.len() == file.size_bytes) {
            return Ok(());
        }
        let part = part_path(target, &file.commit);
        let io = |source| FetchError::Io { path: part.clone(), source };
        std::fs::create_dir_all(part.parent().unwrap_or(Path::new("."))).map_err(io)?;
        let mut hashed = Hashed::default();
        let mut done = hash_existing(&part, &mut hashed).map_err(io)?;
        if done > file.size_bytes {
            std::fs::remove_file(&part).map_err(io)?;
            (done, hashed) = (0, Hashed::default());
        }
        let mut output_file =
            OpenOptions::new().create(true).append(true).open(&part).map_err(io)?;
        let bar = output::byte_bar(&file.path, file.size_bytes);
        if done < file.size_bytes {
            let request = self.repository.download_file_stream().filename(&file.path);
            let request = request.revision(&file.commit).range(done..file.size_bytes);
            let failed = |error| self.failed(format!("{}: {error}", file.path));
            let (_, mut stream) = request.send().await.map_err(failed)?;
            while let Some(bytes) = stream.next().await {
                let bytes = bytes.map_err(failed)?;
                output_file.write_all(&bytes).map_err(io)?;
                hashed.update(&bytes);
                done += bytes.len() as u64;
                bar.set_position(done);
            }
        }
        bar.finish_and_clear();
        if let Err(error) = hashed.check_remote(file, &self.name) {
            // Kept bytes that are wrong would spoil the next attempt as well.
            std::fs::remove_file(&part).map_err(io)?;
            return Err(error);
        }
        output_file.sync_all().map_err(io)?;
        std::fs::rename(&part, target).map_err(io)
    }
}

impl Hashed {
    /// Checks what is known: always the size, the hash of large files.
    fn check_remote(self, file: &RemoteFile, name: &str) -> Result<(), FetchError> {
        let source_name = format!("{name}/{}", file.path);
        match &file.sha256 {
            Some(sha256) => {
                self.check(Expected { size_bytes: file.size_bytes, sha256 }, &source_name)
            }
            None => self.check_size(file.size_bytes, &source_name),
        }
    }
}

fn part_path(target: &Path, commit: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{commit}.part"));
    target.with_file_name(name)
}

/// Feeds what an interrupted download left into `hashed`, and says how many bytes that was.
fn hash_existing(part: &Path, hashed: &mut Hashed) -> std::io::Result<u64> {
    let mut file = match std::fs::File::open(part) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (mut done, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(done),
            length => {
                hashed.update(&buffer[..length]);
                done += length as u64;
            }
        }
    }
}
