//! `probe.safetensors`: what must hold of any probe. What it computes is its reader's.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};

use crate::Manifest;
use crate::error::{BadValue, Error, Result};
use crate::manifest::check::{category_difference, list};

/// The key of the file's metadata that holds the classes, a list in JSON.
const CLASSES: &str = "classes";
/// The class of what belongs to no category.
const NONE: &str = "none";
/// The tensor of a probe that was trained on answers as well.
const ANSWER: &str = "answer.weights";
const F32_BYTES: usize = 4;
const TRAIN_AGAIN: &str =
    "train the probe for this generation's categories and write the generation again";

/// Checks that the classes are the generation's categories and `none`, each once, in any order, and that every tensor holds
/// finite f32; `path` is for errors.
pub(super) fn check(bytes: &[u8], manifest: &Manifest, path: &Path) -> Result<()> {
    let syntax = |reason: String| Error::Syntax { path: path.to_owned(), reason };
    let not_a_file = |error| syntax(format!("not a safetensors file, or a truncated one: {error}"));
    let tensors = SafeTensors::deserialize(bytes).map_err(not_a_file)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(not_a_file)?;
    let classes = metadata.metadata().as_ref().and_then(|metadata| metadata.get(CLASSES));
    check_classes(classes.map(String::as_str), manifest)
        .map_err(|bad| Error::Field(bad.in_file(path)))?;
    if tensors.is_empty() {
        return Err(syntax("found no tensor, expected the probe's".to_owned()));
    }
    for (name, tensor) in tensors.iter() {
        let bad = |found: String, expected: &str| {
            Error::Tensor(BadValue::new(name, found, expected, TRAIN_AGAIN).in_file(path))
        };
        if tensor.dtype() != Dtype::F32 {
            return Err(bad(format!("{:?}", tensor.dtype()).to_lowercase(), "f32"));
        }
        let (chunks, _) = tensor.data().as_chunks::<F32_BYTES>();
        let mut values = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).enumerate();
        if let Some((idx, value)) = values.find(|(_, value)| !value.is_finite()) {
            return Err(bad(format!("{value} at value {idx}"), "finite values"));
        }
    }
    Ok(())
}

/// Whether a probe that [`check`] took can look at answers.
pub(super) fn reads_answers(bytes: &[u8]) -> bool {
    SafeTensors::deserialize(bytes).is_ok_and(|tensors| tensors.tensor(ANSWER).is_ok())
}

fn check_classes(classes: Option<&str>, manifest: &Manifest) -> Result<(), Box<BadValue>> {
    let field = format!("__metadata__.{CLASSES}");
    let expected = format!("a list in JSON of {}, `{NONE}`, each once", list(&manifest.categories));
    let bad =
        |found: String| Err(BadValue::new(field.clone(), found, expected.clone(), TRAIN_AGAIN));
    let Some(text) = classes else { return bad("no such key".to_owned()) };
    let Ok(mut classes) = serde_json::from_str::<Vec<String>>(text) else {
        return bad("something else".to_owned());
    };
    classes.sort_unstable();
    if let Some([twice, _]) = classes.array_windows().find(|[a, b]| a == b) {
        return bad(format!("`{twice}` twice"));
    }
    let num_classes = classes.len();
    classes.retain(|class| class != NONE);
    if classes.len() == num_classes {
        return bad(format!("no `{NONE}`"));
    }
    let mut categories = Vec::new();
    for class in &classes {
        match crate::Category::parse(class) {
            Ok(category) => categories.push(category),
            Err(error) => return bad(error.to_string()),
        }
    }
    match category_difference(categories.iter(), &manifest.categories) {
        Some(difference) => bad(difference),
        None => Ok(()),
    }
}
