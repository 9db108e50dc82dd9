//! safetensors: one tensor a category, f32 `[num_layers, hidden_size]`, and what they are in `__metadata__`.
//!
//! Tensors are named `<category>/<site>`, as a generation's own; `<category>` alone is read too. `layers` in the metadata is a JSON
//! list, one block from 0 for each row. The other keys are [`Declared`]'s.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::json;
use skeg_vector_store::Site;

use super::{Declared, FileVector, Parsed, VectorFile, floats};
use crate::tensor_file::{self, NamedTensor};

const LAYERS: &str = "layers";

/// Reads a file.
pub(super) fn parse(bytes: &[u8]) -> Parsed<VectorFile> {
    let damaged = |error| format!("not a safetensors file, or a truncated one: {error}");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let texts = header.metadata().as_ref();
    let texts = || texts.into_iter().flatten().map(|(key, text)| (key.as_str(), text.as_str()));
    let mut declared = Declared::from_texts(texts())?;
    let layers = match texts().find(|(key, _)| *key == LAYERS) {
        None => None,
        Some((_, text)) => Some(serde_json::from_str::<Vec<usize>>(text).map_err(|error| {
            format!("metadata `{LAYERS}`: {error}; expected a list such as [8, 9]")
        })?),
    };
    let mut vectors = BTreeMap::new();
    for (tensor_name, tensor) in tensors.iter() {
        let name = own_name(tensor_name, &mut declared)?;
        let &[num_rows, _] = tensor.shape() else {
            let shape = super::shortened(tensor.shape());
            return Err(format!("tensor `{name}` is {shape}; expected [layers, hidden_size]"));
        };
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("tensor `{name}` is {:?}; expected F32", tensor.dtype()));
        }
        let values = floats(tensor.data());
        let vector = FileVector::new(name, layers.as_deref(), num_rows, values)?;
        if vectors.insert(name.to_owned(), vector).is_some() {
            return Err(format!("`{name}` is there twice, with and without its site"));
        }
    }
    Ok(VectorFile { declared, vectors })
}

/// The name without its site, which must be the one of the others.
fn own_name<'a>(tensor_name: &'a str, declared: &mut Declared) -> Parsed<&'a str> {
    let Some((name, site)) = tensor_name.split_once('/') else { return Ok(tensor_name) };
    let known = [Site::AttnOut, Site::ResidPost].into_iter().find(|known| known.as_str() == site);
    let site = known.ok_or_else(|| {
        format!("tensor {tensor_name:?}; expected `<category>` or `<category>/attn_out` or `<category>/resid_post`")
    })?;
    let of_all = *declared.site.get_or_insert(site);
    if of_all != site {
        return Err(format!("tensor `{tensor_name}` in a file of vectors for `{of_all}`"));
    }
    Ok(name)
}

/// Writes a file.
pub(super) fn write(file: &VectorFile) -> Parsed<Vec<u8>> {
    let site = file.declared.site.ok_or("vectors without a site")?;
    let mut texts = file.declared.to_texts()?;
    let layers = json!(file.common_layers()?);
    texts.insert(LAYERS.to_owned(), layers.to_string());
    let tensors = file.vectors.iter().map(|(name, vector)| NamedTensor {
        name: format!("{name}/{site}"),
        shape: vec![vector.num_rows, vector.hidden_size()],
        values: &vector.values,
    });
    Ok(tensor_file::to_bytes(&texts, &tensors.collect::<Vec<_>>()))
}
