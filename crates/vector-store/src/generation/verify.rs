//! A report on a generation's bytes: every file hashed again, whatever the first fault is.

use std::path::Path;

use super::load::{load_generation, root_hash};
use crate::error::Result;
use crate::files::{GenerationDir, Source as _};
use crate::{GenerationId, Manifest, ModelBinding, Signatures, files, hash};

/// What was found of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The generation.
    pub id: GenerationId,
    /// Its files, sorted by name: those that are there and those that should be.
    pub files: Vec<FileReport>,
    /// The root hash over what is there, lower-case hex; absent when the manifest cannot be read.
    pub root_hash: Option<String>,
    /// Who signed it; nobody when it cannot be loaded.
    pub signatures: Signatures,
    /// Why it cannot be loaded, if it cannot.
    pub fault: Option<String>,
}

/// What was found of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// The name.
    pub name: String,
    /// Size; absent when it cannot be read.
    pub num_bytes: Option<u64>,
    /// SHA-256 of what is there, lower-case hex; absent when it cannot be read.
    pub found: Option<String>,
    /// SHA-256 on record. The manifest has none of its own, since the id covers it, nor have the signatures, which cover the id.
    pub expected: Option<String>,
}

impl Verification {
    /// Whether it can be loaded and every byte is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.fault.is_none()
    }
}

impl FileReport {
    /// Whether it is there, belongs there, and has the digest on record.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        match &self.expected {
            Some(expected) => self.found.as_ref() == Some(expected),
            None => {
                let is_beside = self.name == files::MANIFEST || self.name == files::SIGNATURES;
                is_beside && self.found.is_some()
            }
        }
    }
}

/// Hashes every file of a generation again, loads it as [`load_generation`] does, and reports.
///
/// # Errors
/// Only when the folder cannot be found or listed; whatever else is wrong is in the report.
pub fn verify(
    root: &Path,
    id: &GenerationId,
    model: Option<&ModelBinding>,
) -> Result<Verification> {
    let dir = GenerationDir::open(root, id)?;
    let manifest_bytes = dir.read(files::MANIFEST).ok();
    let manifest = manifest_bytes
        .as_deref()
        .and_then(|bytes| Manifest::parse(bytes, &dir.file(files::MANIFEST)).ok());
    let mut names = dir.names()?;
    names.extend(manifest.iter().flat_map(|manifest| manifest.files.keys().cloned()));
    names.push(files::MANIFEST.to_owned());
    names.sort();
    names.dedup();
    let report = |name: String| {
        let bytes = dir.read(&name).ok();
        FileReport {
            num_bytes: bytes.as_ref().map(|bytes| bytes.len() as u64),
            found: bytes.map(|bytes| hash::sha256(&bytes)),
            expected: manifest.as_ref().and_then(|manifest| manifest.files.get(&name).cloned()),
            name,
        }
    };
    let (signatures, fault) = match load_generation(root, id, model) {
        Ok(generation) => (generation.signatures, None),
        Err(error) => (Signatures::default(), Some(error.to_string())),
    };
    Ok(Verification {
        id: id.clone(),
        files: names.into_iter().map(report).collect(),
        root_hash: manifest
            .as_ref()
            .zip(manifest_bytes.as_deref())
            .map(|(manifest, bytes)| root_hash(manifest, bytes)),
        signatures,
        fault,
    })
}
