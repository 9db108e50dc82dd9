//! From files to a valid generation: everything is checked, in this order: format, bytes, meaning, model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::{Generation, bounds, figures, probe};
use crate::error::{BadValue, Error, Result};
use crate::files::{Files, GenerationDir, InMemory, Source};
use crate::manifest::check::{category_difference, list};
use crate::{
    Action, GenerationId, Manifest, ModelBinding, Policy, SafeWindow, Signatures, Strength, files,
    hash, vectors,
};

/// Reads a generation and checks all of it; with `model` also that it was made for that model.
///
/// # Errors
/// The first thing that does not hold, as the [`Error`] that names the file and field; see its variants.
pub fn load_generation(
    root: &Path,
    id: &GenerationId,
    model: Option<&ModelBinding>,
) -> Result<Generation> {
    let dir = GenerationDir::open(root, id)?;
    load_from(&dir, Some(id), model)
}

/// The bytes of all files of a generation by name, the manifest and the signatures among them, once the generation was checked whole.
///
/// # Errors
/// As [`load_generation`].
pub fn read_files(root: &Path, id: &GenerationId) -> Result<Files> {
    let dir = GenerationDir::open(root, id)?;
    let manifest_bytes = dir.read(files::MANIFEST)?;
    let manifest = Manifest::parse(&manifest_bytes, &dir.file(files::MANIFEST))?;
    let listed = read_listed(&dir, &manifest)?.into_iter();
    let mut files: Files = listed.map(|(name, bytes)| (name, bytes.into_owned())).collect();
    files.insert(files::MANIFEST.to_owned(), manifest_bytes.into_owned());
    let signatures = read_signatures(&dir)?.map(Cow::into_owned);
    files.extend(signatures.map(|bytes| (files::SIGNATURES.to_owned(), bytes)));
    load_files(dir.path(), Some(id), &files)?;
    Ok(files)
}

/// Checks files that were read already as [`load_generation`] does; `path` says in errors where they were read. Without `id`
/// they may be any generation.
///
/// # Errors
/// As [`load_generation`].
pub fn load_files(path: &Path, id: Option<&GenerationId>, files: &Files) -> Result<Generation> {
    load_from(&InMemory { path, files }, id, None)
}

/// [`load_generation`] from a place whose name need not be its id yet.
pub(super) fn load_from(
    dir: &impl Source,
    id: Option<&GenerationId>,
    model: Option<&ModelBinding>,
) -> Result<Generation> {
    let manifest_bytes = dir.read(files::MANIFEST)?;
    let manifest = Manifest::parse(&manifest_bytes, &dir.file(files::MANIFEST))?;
    let mut contents = read_listed(dir, &manifest)?;
    let root_hash = root_hash(&manifest, &manifest_bytes);
    let found_id = GenerationId::of_root_hash(&root_hash);
    if let Some(id) = id.filter(|id| **id != found_id) {
        let path = dir.path().to_owned();
        return Err(Error::Damaged { path, found: root_hash, expected: format!("{id}...") });
    }
    let signatures = match read_signatures(dir)? {
        None => Signatures::default(),
        Some(bytes) => Signatures::parse(&bytes, &root_hash, &dir.file(files::SIGNATURES))?,
    };
    let figures = match contents.remove(files::FIGURES) {
        None => None,
        Some(bytes) => {
            let path = dir.file(files::FIGURES);
            let text = utf8(bytes, &path)?;
            figures::check(&text, &path)?;
            Some(text)
        }
    };
    let probe = contents.remove(files::PROBE).map(Cow::into_owned);
    if let Some(bytes) = &probe {
        probe::check(bytes, &manifest, &dir.file(files::PROBE))?;
    }
    let mut take = |name| contents.remove(name).unwrap_or_default();
    let policy_path = dir.file(files::POLICY);
    let policy = Policy::parse_at(&utf8(take(files::POLICY), &policy_path)?, &policy_path)?;
    check_policy(&policy, &manifest)
        .and_then(|()| check_recheck(&policy, probe.as_deref()))
        .map_err(|bad| Error::Field(bad.in_file(&policy_path)))?;
    let vectors_path = dir.file(files::VECTORS);
    let vectors = vectors::decode(&take(files::VECTORS), &manifest, &vectors_path)?;
    let card = utf8(take(files::CARD), &dir.file(files::CARD))?;
    if card.trim().is_empty() {
        let reason = "found a blank card, expected what was measured, in words; write it, if only that nothing was";
        return Err(Error::layout(dir.file(files::CARD), reason));
    }
    let weights_mismatch = match model {
        None => false,
        Some(model) => manifest.check_binding(
            model,
            policy.allow_other_quantisation,
            &dir.file(files::MANIFEST),
        )?,
    };
    Ok(Generation {
        probe,
        id: found_id,
        root_hash,
        manifest,
        policy,
        vectors,
        card,
        figures,
        signatures,
        weights_mismatch,
    })
}

/// The bytes of every file that the manifest lists, each with the digest on record, and nothing beside them.
fn read_listed<'a>(
    dir: &'a impl Source,
    manifest: &Manifest,
) -> Result<BTreeMap<String, Cow<'a, [u8]>>> {
    for name in dir.names()? {
        let is_beside = name == files::MANIFEST || name == files::SIGNATURES;
        if !is_beside && !manifest.files.contains_key(&name) {
            let reason = format!(
                "found a file that the manifest does not list, expected {} alone; remove it",
                list(manifest.files.keys())
            );
            return Err(Error::layout(dir.file(&name), reason));
        }
    }
    let mut contents = BTreeMap::new();
    for (name, digest) in &manifest.files {
        let bytes = dir.read(name)?;
        files::check_digest(dir.file(name), &bytes, digest)?;
        contents.insert(name.clone(), bytes);
    }
    Ok(contents)
}

/// The bytes of the signatures, if somebody signed.
fn read_signatures(dir: &impl Source) -> Result<Option<Cow<'_, [u8]>>> {
    let is_signed = dir.names()?.iter().any(|name| name == files::SIGNATURES);
    is_signed.then(|| dir.read(files::SIGNATURES)).transpose()
}

/// The root hash of a generation whose files have the digests that its manifest lists.
pub(super) fn root_hash(manifest: &Manifest, manifest_bytes: &[u8]) -> String {
    let mut digests = manifest.files.clone();
    digests.insert(files::MANIFEST.to_owned(), hash::sha256(manifest_bytes));
    hash::root_hash(&digests)
}

fn utf8(bytes: Cow<'_, [u8]>, path: &Path) -> Result<String> {
    String::from_utf8(bytes.into_owned()).map_err(|error| Error::Syntax {
        path: path.to_owned(),
        reason: format!("found bytes that are not text ({}), expected UTF-8", error.utf8_error()),
    })
}

/// The policy against the manifest: the same categories, strengths inside what was measured, figures where it wants them. Who
/// finds categories for `auto` is the server's to know: [`Generation::needs_classifier`].
fn check_policy(policy: &Policy, manifest: &Manifest) -> Result<(), Box<BadValue>> {
    if let Some(found) = category_difference(policy.categories.keys(), &manifest.categories) {
        let expected = format!("the manifest's, {}", list(&manifest.categories));
        let advice = "give every category of the generation a rule, and no other";
        return Err(BadValue::new("categories", found, expected, advice));
    }
    for (category, rule) in &policy.categories {
        let field = format!("categories.{category}.strength");
        match manifest.safe_windows.get(category) {
            Some(window) => check_window(field, rule.strength, *window)?,
            None if rule.action != Action::Steer => {}
            None => {
                let expected = "a safe window for the category in manifest.json";
                let advice = "measure it, or choose the action `log` until it is measured";
                return Err(BadValue::new(field, "none measured", expected, advice));
            }
        }
    }
    bounds::check_relative_norms(policy, manifest)?;
    bounds::check_measured(policy, manifest)
}

/// Answers are looked at by a probe that was trained on answers.
fn check_recheck(policy: &Policy, probe: Option<&[u8]>) -> Result<(), Box<BadValue>> {
    let Some(every) = policy.auto.recheck_every else { return Ok(()) };
    if probe.is_some_and(probe::reads_answers) {
        return Ok(());
    }
    let expected = "no such field, as the generation has no probe with an answer part";
    let advice = "train one with `skeg probe train --answers`, or leave the field out";
    Err(BadValue::new("auto.recheck_every", every, expected, advice))
}

fn check_window(
    field: String,
    strength: Strength,
    window: SafeWindow,
) -> Result<(), Box<BadValue>> {
    let Strength { floor, ceiling, .. } = strength;
    if window.min <= floor && ceiling <= window.max {
        return Ok(());
    }
    Err(BadValue::new(
        field,
        format_args!("floor {floor}, ceiling {ceiling}"),
        format!("both inside the measured safe window {} to {}", window.min, window.max),
        "narrow the range, or measure a wider window",
    ))
}
