//! The difference of two sets of vectors: how they are turned and how much longer they are.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::vectors::norm;
use crate::{Category, CategoryVectors, Generation};

/// What changed in a category's vectors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VectorChange {
    /// The category.
    pub category: Category,
    /// Whether the generation before has it.
    pub was: bool,
    /// Whether the generation after has it.
    pub is: bool,
    /// The layers of either side, ascending. Norms are 0 where a side has no row.
    pub layers: Vec<LayerChange>,
}

/// What changed in one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerChange {
    /// The block, from 0.
    pub layer: usize,
    /// Cosine between the row before and the row after; absent where one is zero, missing or of another length.
    pub cosine: Option<f64>,
    /// Euclidean norm before.
    pub norm_from: f64,
    /// Euclidean norm after.
    pub norm_to: f64,
    /// Whether every value is the same.
    pub is_same: bool,
}

impl LayerChange {
    /// How much longer the row is, as a share of what it was; absent where it was zero.
    #[must_use]
    pub fn norm_change(&self) -> Option<f64> {
        (self.norm_from > 0.0).then(|| self.norm_to / self.norm_from - 1.0)
    }

    fn between(layer: usize, from: Option<&[f32]>, to: Option<&[f32]>) -> Self {
        let (before, after) = (from.unwrap_or(&[]), to.unwrap_or(&[]));
        let (norm_from, norm_to) = (norm(before), norm(after));
        let product = norm_from * norm_to;
        let dot = |(&a, &b): (&f32, &f32)| f64::from(a) * f64::from(b);
        let is_comparable = before.len() == after.len() && product > 0.0;
        let cosine = is_comparable
            .then(|| (before.iter().zip(after).map(dot).sum::<f64>() / product).clamp(-1.0, 1.0));
        Self { layer, cosine, norm_from, norm_to, is_same: from == to }
    }
}

impl VectorChange {
    /// One line of plain words; `None` where nothing changed.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        let (category, num) = (&self.category, self.layers.len());
        if !self.was || !self.is {
            let what = if self.is { "has vectors now" } else { "has no vectors any more" };
            return Some(format!("{category}: {what} ({num} layers)"));
        }
        let changed: Vec<&LayerChange> = self.layers.iter().filter(|l| !l.is_same).collect();
        if changed.is_empty() {
            return None;
        }
        let cosines = range(changed.iter().filter_map(|layer| layer.cosine));
        let cosines = cosines.map_or("cosine unknown".to_owned(), |(min, max)| {
            format!("cosine {min:.3} to {max:.3}")
        });
        let norms = range(changed.iter().filter_map(|layer| layer.norm_change()));
        let norms = norms.map_or("norm from nothing".to_owned(), |(min, max)| {
            format!("norm {:+.1} % to {:+.1} %", 100.0 * min, 100.0 * max)
        });
        Some(format!(
            "{category}: vectors differ in {} of {num} layers: {cosines}, {norms}",
            changed.len()
        ))
    }
}

/// The least and the greatest.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range: Option<(f64, f64)>, value| {
        let (min, max) = range.unwrap_or((value, value));
        Some((min.min(value), max.max(value)))
    })
}

pub(super) fn changes(from: &Generation, to: &Generation) -> Vec<VectorChange> {
    let categories: BTreeSet<&Category> = from.vectors.keys().chain(to.vectors.keys()).collect();
    let change = |category: &Category| {
        let sides = (from.vectors.get(category), to.vectors.get(category));
        let layers = |side: Option<&CategoryVectors>| side.map_or(Vec::new(), |v| v.layers.clone());
        let layers: BTreeSet<usize> = layers(sides.0).into_iter().chain(layers(sides.1)).collect();
        let layer =
            |layer: usize| LayerChange::between(layer, row(sides.0, layer), row(sides.1, layer));
        VectorChange {
            category: category.clone(),
            was: sides.0.is_some(),
            is: sides.1.is_some(),
            layers: layers.into_iter().map(layer).collect(),
        }
    };
    categories.into_iter().map(change).collect()
}

/// A layer's row: `[hidden_size]`.
fn row(vectors: Option<&CategoryVectors>, layer: usize) -> Option<&[f32]> {
    vectors?.rows().find(|(known, _)| *known == layer).map(|(_, row)| row)
}
