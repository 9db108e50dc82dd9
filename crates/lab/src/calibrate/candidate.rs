//! What a search chooses from: vectors at a site, with the norms that make doses comparable.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skeg_model::steering::{LayerVector, Operator, Positions, Site};
use skeg_vector_store::Category;

use crate::error::{Error, Result};
use crate::evaluate::AppliedVector;
use crate::experiment::Arm;
use crate::extract::Extraction;

/// Vectors of one extraction.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What they are, for tables: variant and site.
    pub name: String,
    /// Where they act.
    pub site: Site,
    /// Layers they have rows for, ascending.
    pub layers: Vec<usize>,
    /// The rows, one a layer.
    pub rows: BTreeMap<Category, Vec<LayerVector>>,
    /// By layer, over the categories, the mean of the rows' norms relative to the activations'.
    relative_norms: Vec<f64>,
}

/// One way to steer: everything but whose vector it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Index among the candidates.
    pub candidate_idx: usize,
    /// The layers that are steered.
    pub layers: Vec<usize>,
    /// On which tokens.
    pub positions: Positions,
    /// How.
    pub operator: Operator,
    /// Signed factor.
    pub strength: f32,
}

impl Candidate {
    /// The vectors of an extraction.
    ///
    /// # Errors
    /// [`Error::Data`] when a category has a vector without length: its two sides are alike.
    pub fn new(name: impl Into<String>, extraction: &Extraction) -> Result<Self> {
        let mut rows = BTreeMap::new();
        let mut norms = vec![0.0; extraction.layers.len()];
        for (category, one) in &extraction.categories {
            if let Some(layer) = one.layers.iter().find(|layer| layer.norm <= 0.0) {
                return Err(Error::Data(format!(
                    "category `{category}` has no vector in layer {}: both sides of its data have the same mean; give it \
                     more and different inputs",
                    layer.layer
                )));
            }
            for (norm, layer) in norms.iter_mut().zip(&one.layers) {
                *norm += layer.relative_norm / extraction.categories.len() as f64;
            }
            let row = one
                .layers
                .iter()
                .map(|layer| LayerVector { layer: layer.layer, values: layer.vector.clone() });
            rows.insert(category.clone(), row.collect());
        }
        let (name, site, layers) = (name.into(), extraction.site, extraction.layers.clone());
        Ok(Self { name, site, layers, rows, relative_norms: norms })
    }

    /// The strength at which the mean change of a row, relative to it, is `dose` over `layers`; to two digits.
    #[must_use]
    pub(crate) fn strength_of(&self, dose: f64, layers: &[usize]) -> f32 {
        let norms = self.layers.iter().zip(&self.relative_norms);
        let chosen: Vec<f64> =
            norms.filter_map(|(layer, norm)| layers.contains(layer).then_some(*norm)).collect();
        let mean = chosen.iter().sum::<f64>() / chosen.len().max(1) as f64;
        if mean > 0.0 { two_digits(dose / mean) } else { 0.0 }
    }

    /// The layer sets that a search tries, most layers first: all, the earlier and the later half, and single layers at a
    /// quarter, half and three quarters.
    #[must_use]
    pub(super) fn layer_sets(&self) -> Vec<Vec<usize>> {
        let layers = &self.layers;
        let count = layers.len();
        let mut sets = vec![layers.clone()];
        if count >= 4 {
            sets.push(layers[..count / 2].to_vec());
            sets.push(layers[count / 2..].to_vec());
        }
        for part in 1..=3 {
            let layer = layers.get(part * count / 4).copied();
            sets.extend(layer.map(|layer| vec![layer]));
        }
        sets.dedup();
        sets.retain(|set| !set.is_empty());
        sets
    }

    /// [`Self::rows_in`], shared by every arm that is made of them.
    pub(crate) fn shared_rows_in(&self, layers: &[usize]) -> SharedRows {
        share(self.rows_in(layers))
    }

    /// The rows of all categories in `layers`.
    #[must_use]
    pub(super) fn rows_in(&self, layers: &[usize]) -> BTreeMap<Category, Vec<LayerVector>> {
        rows_in(&self.rows, layers)
    }
}

/// Those of all categories' `rows` that are in `layers`.
#[must_use]
pub(super) fn rows_in(
    rows: &BTreeMap<Category, Vec<LayerVector>>,
    layers: &[usize],
) -> BTreeMap<Category, Vec<LayerVector>> {
    let chosen = |rows: &Vec<LayerVector>| {
        rows.iter().filter(|row| layers.contains(&row.layer)).cloned().collect()
    };
    rows.iter().map(|(category, rows)| (category.clone(), chosen(rows))).collect()
}

/// Rows by category, ready to be shared by arms.
pub(crate) type SharedRows = BTreeMap<Category, Arc<Vec<LayerVector>>>;

/// Makes rows shareable.
#[must_use]
pub(super) fn share(rows: BTreeMap<Category, Vec<LayerVector>>) -> SharedRows {
    rows.into_iter().map(|(category, rows)| (category, Arc::new(rows))).collect()
}

impl Setting {
    /// The arm that steers every category with its rows of `rows`; the strength is the category's in `strengths`, or
    /// the setting's.
    #[must_use]
    pub(crate) fn arm(
        &self,
        name: impl Into<String>,
        site: Site,
        rows: &SharedRows,
        strengths: &BTreeMap<Category, f32>,
    ) -> Arm {
        let vectors = rows.iter().map(|(category, rows)| {
            let vector = AppliedVector {
                site,
                operator: self.operator,
                positions: self.positions,
                strength: strengths.get(category).copied().unwrap_or(self.strength),
                layers: Arc::clone(rows),
            };
            (category.clone(), vector)
        });
        Arm { name: name.into(), vectors: vectors.collect(), ..Arm::default() }
    }
}

/// Site, layers, strength and the rest, in few words.
pub(crate) fn words(
    site: Site,
    layers: &[usize],
    strength: &str,
    operator: Operator,
    positions: Positions,
) -> String {
    let site = site.as_str();
    let layers = match (layers.first(), layers.last()) {
        (Some(first), Some(last)) if layers.len() > 1 && last - first + 1 == layers.len() => {
            format!("{first}-{last}")
        }
        _ => layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    let operator = match operator {
        Operator::Add => "",
        Operator::AddNormRestored => ", norm restored",
        Operator::ProjectOut => ", projected out",
    };
    let positions = match positions {
        Positions::All => "",
        Positions::Prompt => ", prompt",
        Positions::Generation => ", generation",
    };
    format!("{site} {layers}, {strength}{operator}{positions}")
}

/// Rounded to two significant digits, so that a policy file is readable.
#[must_use]
pub(crate) fn two_digits(value: f64) -> f32 {
    let text = format!("{value:.1e}");
    text.parse().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_have_two_digits() {
        for (value, expected) in [(0.123, "0.12"), (1.26, "1.3"), (12.6, "13"), (0.0996, "0.1")] {
            assert_eq!(two_digits(value).to_string(), expected);
        }
    }
}
