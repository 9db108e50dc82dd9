//! A generation with another policy, probe or card and nothing else changed.

use std::path::Path;

use super::load::load_files;
use crate::error::Result;
use crate::files::{self, Files};
use crate::{Manifest, hash};

/// The files of a generation with `policy` as its `policy.toml`, byte for byte: the same vectors, card, figures and probe under
/// another id, checked whole. What lies beside the files that the manifest lists is left out, as it was said of the other id.
///
/// # Errors
/// As [`load_files`]: the policy is none, or does not fit the generation.
pub fn with_policy(files: &Files, policy: &str) -> Result<Files> {
    with_file(files, files::POLICY, policy.as_bytes())
}

/// The files of a generation with these bytes as its `probe.safetensors`, the rest as [`with_policy`] has it.
///
/// # Errors
/// As [`load_files`]: the probe is none, or has other classes than the generation.
pub fn with_probe(files: &Files, probe: &[u8]) -> Result<Files> {
    with_file(files, files::PROBE, probe)
}

/// The files of a generation with this text as its `CARD.md`, the rest as [`with_policy`] has it.
///
/// # Errors
/// As [`load_files`]: the text is larger than a card may be.
pub fn with_card(files: &Files, card: &str) -> Result<Files> {
    with_file(files, files::CARD, card.as_bytes())
}

fn with_file(files: &Files, name: &str, bytes: &[u8]) -> Result<Files> {
    let path = Path::new("");
    load_files(path, None, files)?;
    let manifest_bytes = files.get(files::MANIFEST).map_or(&[][..], Vec::as_slice);
    let mut manifest = Manifest::parse(manifest_bytes, &path.join(files::MANIFEST))?;
    let listed = files.iter().filter(|(name, _)| manifest.files.contains_key(*name));
    let mut changed: Files = listed.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
    changed.insert(name.to_owned(), bytes.to_vec());
    manifest.files.insert(name.to_owned(), hash::sha256(bytes));
    changed.insert(files::MANIFEST.to_owned(), manifest.to_json()?);
    load_files(path, None, &changed)?;
    Ok(changed)
}
