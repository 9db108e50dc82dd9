//! `vectors.safetensors`: one tensor a category, and what a row must hold to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{BadValue, Error, Result};
use crate::manifest::check::list;
use crate::{Category, Manifest};

/// A row's norm may differ from the manifest's by this share: rounding, nothing else.
const NORM_TOLERANCE: f64 = 1e-3;
const F32_BYTES: usize = 4;
const MAKE_AGAIN: &str = "extract the vectors and write the generation again";

/// A category's rows, one a steered layer of the generation. A row of zeros leaves its layer alone.
#[derive(Debug, Clone, PartialEq)]
pub struct CategoryVectors {
    /// Blocks from 0, ascending.
    pub layers: Vec<usize>,
    /// `[num_layers_steered, hidden_size]`, row-major, finite, not normalised and without strength.
    pub values: Vec<f32>,
}

impl CategoryVectors {
    /// Length of a row; 0 when there are none.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.values.len().checked_div(self.layers.len()).unwrap_or(0)
    }

    /// The row of `layers[layer_idx]`: `[hidden_size]`.
    ///
    /// # Panics
    /// When `layer_idx` is not below the number of layers.
    #[must_use]
    pub fn row(&self, layer_idx: usize) -> &[f32] {
        let hidden_size = self.hidden_size();
        &self.values[layer_idx * hidden_size..(layer_idx + 1) * hidden_size]
    }

    /// Each layer with its row.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let layers = self.layers.iter().copied().enumerate();
        layers.map(|(layer_idx, layer)| (layer, self.row(layer_idx)))
    }

    /// Each layer in which the category acts, with its row: those whose row is not all zeros.
    pub fn acting_rows(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.rows().filter(|(_, row)| row.iter().any(|value| *value != 0.0))
    }
}

/// Euclidean norm, summed in f64.
pub(crate) fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// Rounds to the precision that vectors and manifests have.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is meant")]
pub(crate) fn to_f32(value: f64) -> f32 {
    value as f32
}

/// The bytes of `vectors.safetensors`; tensors lie in the order of their names.
pub(crate) fn encode(
    vectors: &BTreeMap<Category, CategoryVectors>,
    manifest: &Manifest,
) -> Result<Vec<u8>> {
    let invalid = |error| Error::Syntax {
        path: crate::files::VECTORS.into(),
        reason: format!("not a set of tensors: {error}"),
    };
    let tensors: Vec<(String, Vec<u8>, Vec<usize>)> = vectors
        .iter()
        .map(|(category, vectors)| {
            let bytes = vectors.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let shape = vec![vectors.layers.len(), vectors.hidden_size()];
            (manifest.tensor_name(category), bytes, shape)
        })
        .collect();
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, bytes, shape)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    safetensors::serialize(views, None).map_err(invalid)
}

/// Reads the tensors that the manifest promises, no more and no less.
pub(crate) fn decode(
    bytes: &[u8],
    manifest: &Manifest,
    path: &Path,
) -> Result<BTreeMap<Category, CategoryVectors>> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| Error::Syntax {
        path: path.to_owned(),
        reason: format!("not a safetensors file, or a truncated one: {error}"),
    })?;
    let expected: BTreeMap<String, &Category> =
        manifest.categories.iter().map(|c| (manifest.tensor_name(c), c)).collect();
    let mut names = tensors.names();
    names.sort_unstable();
    if let Some(extra) = names.into_iter().find(|name| !expected.contains_key(*name)) {
        let found = "a tensor that the manifest does not name";
        let bad =
            BadValue::new(extra, found, format!("{} alone", list(expected.keys())), MAKE_AGAIN);
        return Err(Error::Tensor(bad.in_file(path)));
    }
    let read = expected.into_iter().map(|(name, category)| {
        let reader = TensorReader { manifest, path, name: &name };
        reader.read(&tensors, category).map(|vectors| (category.clone(), vectors))
    });
    read.collect()
}

struct TensorReader<'a> {
    manifest: &'a Manifest,
    path: &'a Path,
    name: &'a str,
}

impl TensorReader<'_> {
    fn read(&self, tensors: &SafeTensors<'_>, category: &Category) -> Result<CategoryVectors> {
        let layers = &self.manifest.layers;
        let hidden_size = self.manifest.hidden_size;
        let wanted = format!("f32 [{}, {hidden_size}] (layers, hidden_size)", layers.len());
        let tensor =
            tensors.tensor(self.name).map_err(|_| self.bad("no such tensor", wanted.clone()))?;
        let shape: &[usize] = tensor.shape();
        if tensor.dtype() != Dtype::F32 || shape != [layers.len(), hidden_size] {
            return Err(self.bad(format!("{:?} {shape:?}", tensor.dtype()).to_lowercase(), wanted));
        }
        let (chunks, _) = tensor.data().as_chunks::<F32_BYTES>();
        let values: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let vectors = CategoryVectors { layers: layers.clone(), values };
        self.check_rows(&vectors, category)?;
        Ok(vectors)
    }

    fn check_rows(&self, vectors: &CategoryVectors, category: &Category) -> Result<()> {
        let recorded = self.manifest.norms.get(category).map_or(&[][..], Vec::as_slice);
        for ((layer, row), recorded) in vectors.rows().zip(recorded) {
            if let Some((idx, value)) = row.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                let found = format!("{value} at layer {layer}, coordinate {idx}");
                return Err(self.bad(found, "finite values"));
            }
            let (found, recorded) = (norm(row), f64::from(recorded.vector));
            if (found - recorded).abs() > NORM_TOLERANCE * recorded {
                return Err(self.bad(
                    format!("norm {found:.6} at layer {layer}"),
                    format!("{recorded:.6} within 0.1 %, as the manifest records it"),
                ));
            }
        }
        Ok(())
    }

    fn bad(&self, found: impl fmt::Display, expected: impl Into<String>) -> Error {
        Error::Tensor(BadValue::new(self.name, found, expected, MAKE_AGAIN).in_file(self.path))
    }
}
