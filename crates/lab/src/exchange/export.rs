//! From a generation to what a file holds.

use std::collections::BTreeMap;

use skeg_vector_store::{Category, Generation};

use super::{Declared, FileFormat, FileVector, VectorFile, gguf};
use crate::error::{Error, Result};

/// A generation's vectors for some of its categories, as they are stored: strengths stand beside them, as what the policy says.
/// `model_hint` is the kind of model for llama.cpp and repeng, for example `llama`.
///
/// # Errors
/// [`Error::Spec`] for a category that the generation does not have, for none, and for more than one in GGUF.
pub fn exported(
    generation: &Generation,
    categories: &[Category],
    (format, model_hint): (FileFormat, &str),
) -> Result<VectorFile> {
    let manifest = &generation.manifest;
    if categories.is_empty() || (format == FileFormat::Gguf && categories.len() > 1) {
        return Err(Error::Spec(format!(
            "{} categories for a {} file; expected {}",
            categories.len(),
            format.as_str(),
            if format == FileFormat::Gguf {
                "one: the format holds one vector"
            } else {
                "at least one"
            }
        )));
    }
    let (mut vectors, mut strengths) = (BTreeMap::new(), BTreeMap::new());
    for category in categories {
        let rows = generation.vectors.get(category).ok_or_else(|| {
            let known: Vec<&str> = manifest.categories.iter().map(Category::as_str).collect();
            Error::Spec(format!(
                "generation {} has no category `{category}`; it has {}",
                generation.id,
                known.join(", ")
            ))
        })?;
        let name = match format {
            FileFormat::Gguf => gguf::NAME,
            FileFormat::Safetensors | FileFormat::Npz => category.as_str(),
        };
        let vector = FileVector {
            layers: Some(rows.layers.clone()),
            num_rows: rows.layers.len(),
            values: rows.values.clone(),
        };
        vectors.insert(name.to_owned(), vector);
        let rule = generation.policy.categories.get(category);
        strengths.extend(rule.map(|rule| (name.to_owned(), rule.strength.into())));
    }
    let declared = Declared {
        site: Some(manifest.site),
        operator: Some(manifest.operator),
        orientation: Some(manifest.orientation),
        model_hint: Some(model_hint.to_owned()),
        architecture_id: Some(manifest.architecture_id.clone()),
        weights_id: Some(manifest.weights_id.clone()),
        strengths,
    };
    Ok(VectorFile { declared, vectors })
}
