//! A prefix of an object store as a place, with the layout of a folder.
//!
//! There are no locks. `CURRENT` changes by a conditional write, so of several writers that saw the same one wins. A
//! generation's manifest is written last and removed first, so one with a manifest is whole. Signatures are added by conditional writes
//! too, so that of several signers none is lost. A publisher looks after its
//! write of `CURRENT` whether the generation is still there, and garbage collection looks after its removal whether
//! `CURRENT` names it: whichever comes second sees the other, and puts the files back that it has in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use super::bucket::{Bucket, Got, Only, Tag};
use super::{Listed, Look, Place};
use crate::error::{Error, Result};
use crate::files::{CURRENT, GENERATIONS, HISTORY, MANIFEST, SIGNATURES, max_bytes};
use crate::generation::{check_names, load_files};
use crate::history::{self, Change, HistoryEntry};
use crate::{Current, Files, Generation, GenerationId, Manifest, Signatures};

/// The most objects that are listed: ten thousand generations of ten files.
const MAX_OBJECTS: usize = 100_000;
/// How often a writer that expects nothing tries again when others are before it.
const MAX_TRIES: usize = 100;
/// An object that is written to learn the store's time.
const CLOCK: &str = "clock";

/// A store below a prefix of an object store.
#[derive(Debug)]
pub struct ObjectPlace {
    bucket: Box<dyn Bucket>,
}

impl ObjectPlace {
    /// The store in a bucket, where there need not be anything yet.
    #[must_use]
    pub fn new(bucket: impl Bucket + 'static) -> Self {
        Self { bucket: Box::new(bucket) }
    }

    /// Writes a generation's files, the manifest last and the signatures before it.
    fn put_files(&self, generation: &Generation, files: &Files) -> Result<()> {
        let id = &generation.id;
        for (name, bytes) in
            files.iter().filter(|(name, _)| *name != MANIFEST && *name != SIGNATURES)
        {
            self.bucket.put(&key(id, name), bytes, &Only::Always)?;
        }
        self.add_signatures(generation)?;
        self.bucket.put(&key(id, MANIFEST), &files[MANIFEST], &Only::Always)?;
        Ok(())
    }

    /// Gives a generation the signatures that it lacks, beside those that others add meanwhile. A file of signatures that is
    /// damaged is written over.
    fn add_signatures(&self, generation: &Generation) -> Result<()> {
        if generation.signatures.is_empty() {
            return Ok(());
        }
        let key = key(&generation.id, SIGNATURES);
        let path = self.path_of(&key);
        for _ in 0..MAX_TRIES {
            let (there, only) = match self.bucket.get(&key, max_bytes(SIGNATURES), None)? {
                Got::Absent | Got::Unchanged => (Signatures::default(), Only::IfAbsent),
                Got::Object(bytes, tag) => {
                    let there = Signatures::parse(&bytes, &generation.root_hash, &path);
                    (there.unwrap_or_default(), Only::IfStill(tag))
                }
            };
            let all = there.and(&generation.signatures, &path)?;
            if all == there || self.bucket.put(&key, &all.to_json()?, &only)? {
                return Ok(());
            }
        }
        Err(others_were_first(&path))
    }

    /// Puts files back that garbage collection removed while the generation was published.
    fn keep_whole(&self, id: &GenerationId, files: &Files) -> Result<()> {
        let prefix = key(id, "");
        let objects = self.bucket.list(prefix.trim_end_matches('/'), MAX_OBJECTS)?;
        let names: BTreeSet<&str> =
            objects.iter().filter_map(|object| object.key.strip_prefix(&prefix)).collect();
        if files.keys().all(|name| names.contains(name.as_str())) {
            return Ok(());
        }
        let generation = load_files(&self.path_of(&prefix), Some(id), files)?;
        self.put_files(&generation, files)
    }

    /// `CURRENT` and the condition on which a write replaces just that one.
    fn current_to_replace(&self) -> Result<(Option<Current>, Only)> {
        match self.look(None)? {
            Look::Found { current, tag: Some(tag) } => Ok((Some(current), Only::IfStill(tag))),
            Look::Absent => Ok((None, Only::IfAbsent)),
            Look::Found { tag: None, .. } | Look::Unchanged => {
                let reason = "the store gives objects no tag; choose one with conditional writes";
                Err(Error::place("replace", self.path_of(CURRENT).display().to_string(), reason))
            }
        }
    }

    /// Writes `CURRENT`; says what was there and what is there now.
    fn replace_current(
        &self,
        id: &GenerationId,
        expected_sequence: Option<u64>,
    ) -> Result<(Option<Current>, Current)> {
        let path = self.path_of(CURRENT);
        for _ in 0..MAX_TRIES {
            let (found, only) = self.current_to_replace()?;
            let next = Current::after(found.as_ref(), id, expected_sequence, &path)?;
            if self.bucket.put(CURRENT, next.to_line().as_bytes(), &only)? {
                return Ok((found, next));
            }
        }
        Err(others_were_first(&path))
    }

    fn record(&self, entry: &HistoryEntry) -> Result<()> {
        let key = format!("{HISTORY}/{}", history::file_name(entry.sequence));
        self.bucket.put(&key, &entry.to_json()?, &Only::Always).map(|_| ())
    }

    /// The bytes of an object that must be there.
    fn get(&self, id: &GenerationId, name: &str, missing: &str) -> Result<Vec<u8>> {
        let key = key(id, name);
        match self.bucket.get(&key, max_bytes(name), None)? {
            Got::Object(bytes, _) => Ok(bytes),
            Got::Absent | Got::Unchanged => Err(Error::layout(self.path_of(&key), missing)),
        }
    }
}

impl Place for ObjectPlace {
    fn name(&self) -> String {
        self.bucket.name()
    }

    fn look(&self, known: Option<&Tag>) -> Result<Look> {
        Ok(match self.bucket.get(CURRENT, max_bytes(CURRENT), known)? {
            Got::Absent => Look::Absent,
            Got::Unchanged => Look::Unchanged,
            Got::Object(bytes, tag) => {
                let current = Current::parse(&bytes, &self.path_of(CURRENT))?;
                Look::Found { current, tag: Some(tag) }
            }
        })
    }

    fn generations(&self) -> Result<Vec<Listed>> {
        let mut found: BTreeMap<GenerationId, Listed> = BTreeMap::new();
        for object in self.bucket.list(GENERATIONS, MAX_OBJECTS)? {
            let below = object.key.strip_prefix(GENERATIONS).map(|key| key.trim_start_matches('/'));
            let Some((folder, name)) = below.and_then(|key| key.split_once('/')) else { continue };
            let Ok(id) = GenerationId::parse(folder) else { continue };
            let listed = found.entry(id.clone()).or_insert(Listed {
                id,
                modified: object.modified,
                is_whole: false,
            });
            listed.modified = listed.modified.max(object.modified);
            listed.is_whole |= name == MANIFEST;
        }
        Ok(found.into_values().collect())
    }

    fn read_files(&self, id: &GenerationId) -> Result<Files> {
        let absent =
            format!("there is no generation {id}; publish it here, or name one that is there");
        let manifest_bytes = self.get(id, MANIFEST, &absent)?;
        let manifest = Manifest::parse(&manifest_bytes, &self.path_of(&key(id, MANIFEST)))?;
        let mut files = Files::new();
        for name in manifest.files.keys() {
            let missing = "the object is missing; copy the generation again from where it was made";
            files.insert(name.clone(), self.get(id, name, missing)?);
        }
        files.insert(MANIFEST.to_owned(), manifest_bytes);
        if let Got::Object(bytes, _) =
            self.bucket.get(&key(id, SIGNATURES), max_bytes(SIGNATURES), None)?
        {
            files.insert(SIGNATURES.to_owned(), bytes);
        }
        load_files(&self.path_of(&format!("{GENERATIONS}/{id}")), Some(id), &files)?;
        Ok(files)
    }

    /// What is there already is written again where it is damaged; else its manifest alone, so that it counts as young.
    fn add_files(&self, files: &Files) -> Result<GenerationId> {
        check_names(files)?;
        let generation = load_files(Path::new("a new generation"), None, files)?;
        if self.read_files(&generation.id).is_ok() {
            self.add_signatures(&generation)?;
            let manifest = key(&generation.id, MANIFEST);
            self.bucket.put(&manifest, &files[MANIFEST], &Only::Always)?;
        } else {
            self.put_files(&generation, files)?;
        }
        Ok(generation.id)
    }

    fn remove(&self, id: &GenerationId) -> Result<()> {
        if self.find_current()?.is_some_and(|current| current.generation == *id) {
            return Err(serves(&self.path_of(&format!("{GENERATIONS}/{id}"))));
        }
        self.bucket.delete(&key(id, MANIFEST))?;
        for object in self.bucket.list(&format!("{GENERATIONS}/{id}"), MAX_OBJECTS)? {
            self.bucket.delete(&object.key)?;
        }
        Ok(())
    }

    fn set_current(
        &self,
        id: &GenerationId,
        expected_sequence: Option<u64>,
        change: &Change,
    ) -> Result<Current> {
        let files = self.read_files(id)?;
        let (found, current) = self.replace_current(id, expected_sequence)?;
        // It has changed, whatever comes now: a failure from here on is no failure of the change.
        if let Err(error) = self.keep_whole(id, &files) {
            tracing::warn!(generation = %id, %error, "cannot look whether all files are there still");
        }
        let entry = HistoryEntry::new(&current, found.as_ref(), change);
        if let Err(error) = self.record(&entry) {
            tracing::warn!(sequence = current.sequence, %error, "a change is missing in the history");
        }
        Ok(current)
    }

    fn history(&self, last: usize) -> Result<Vec<HistoryEntry>> {
        let current = self.find_current()?;
        history::walk(current.as_ref(), last, |sequence| {
            let key = format!("{HISTORY}/{}", history::file_name(sequence));
            match self.bucket.get(&key, history::MAX_ENTRY_BYTES, None)? {
                Got::Object(bytes, _) => HistoryEntry::parse(&bytes, &self.path_of(&key)).map(Some),
                Got::Absent | Got::Unchanged => Ok(None),
            }
        })
    }

    fn now(&self) -> Result<SystemTime> {
        self.bucket.put(&format!("{CLOCK}/now"), b"now", &Only::Always)?;
        let listed = self.bucket.list(CLOCK, MAX_OBJECTS)?;
        listed.first().map(|object| object.modified).ok_or_else(|| {
            let reason = "an object that was just written is not listed";
            Error::place("read the time of", self.name(), reason)
        })
    }
}

fn key(id: &GenerationId, name: &str) -> String {
    format!("{GENERATIONS}/{id}/{name}")
}

fn others_were_first(path: &Path) -> Error {
    let reason = format!("others were first {MAX_TRIES} times; try again when it is quiet");
    Error::place("replace", path.display().to_string(), reason)
}

/// The error of removing what serves.
pub(super) fn serves(path: &Path) -> Error {
    Error::layout(path, "CURRENT names this generation; publish another one before removing it")
}
