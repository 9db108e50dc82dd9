//! Several categories at once: their vectors added up, bounded in length.

use std::collections::BTreeMap;

use crate::vectors::{norm, to_f32};
use crate::{Category, CategoryVectors, Generation, Operator};

/// Adds up `strength * vector` layer by layer and bounds the length of each sum.
///
/// The layers of the result are those in which a member acts; one that lacks a layer, or has zeros there, adds nothing. A sum longer
/// than `max_combined_norm` times its longest summand in that layer is scaled down to that length, so categories that
/// point the same way do not add up to a strength that was never measured. The result is applied with strength 1.
///
/// # Shapes
/// - `members`: each `[its layers, hidden_size]`, of one generation
/// - returns: `[layers of any member, hidden_size]`, f32; summed in f64 and rounded once
#[must_use]
pub fn combine(members: &[(&CategoryVectors, f32)], max_combined_norm: f32) -> CategoryVectors {
    let mut by_layer: BTreeMap<usize, Vec<(&[f32], f64)>> = BTreeMap::new();
    for (vectors, strength) in members {
        for (layer, row) in vectors.acting_rows() {
            by_layer.entry(layer).or_default().push((row, f64::from(*strength)));
        }
    }
    let mut combined = CategoryVectors { layers: Vec::new(), values: Vec::new() };
    for (layer, summands) in by_layer {
        combined.layers.push(layer);
        combined.values.extend(bounded_sum(&summands, f64::from(max_combined_norm)));
    }
    combined
}

fn bounded_sum(summands: &[(&[f32], f64)], max_combined_norm: f64) -> Vec<f32> {
    let hidden_size = summands.first().map_or(0, |(row, _)| row.len());
    let mut sum = vec![0.0_f64; hidden_size];
    let mut longest = 0.0_f64;
    for (row, strength) in summands {
        longest = longest.max(norm(row) * strength.abs());
        for (total, value) in sum.iter_mut().zip(*row) {
            *total += strength * f64::from(*value);
        }
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    let bound = longest * max_combined_norm;
    let factor = if length > bound { bound / length } else { 1.0 };
    sum.into_iter().map(|value| to_f32(value * factor)).collect()
}

/// Why categories cannot be applied together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// Only `add` is a sum.
    #[error("the operator of these vectors is `{0}`, and only `add` combines; name one category")]
    Operator(Operator),
    /// The generation has no such category.
    #[error("`{0}` is not a category of this generation")]
    UnknownCategory(Category),
}

impl Generation {
    /// The sum of some categories' vectors under the policy's bound; see [`combine`].
    ///
    /// # Errors
    /// [`CombineError`] when the operator is not `add` or a category is unknown.
    pub fn combine(&self, members: &[(Category, f32)]) -> Result<CategoryVectors, CombineError> {
        if self.manifest.operator != Operator::Add {
            return Err(CombineError::Operator(self.manifest.operator));
        }
        let rows = members.iter().map(|(category, strength)| {
            let vectors = self.vectors.get(category);
            let vectors = vectors.ok_or_else(|| CombineError::UnknownCategory(category.clone()))?;
            Ok((vectors, *strength))
        });
        let rows: Vec<(&CategoryVectors, f32)> = rows.collect::<Result<_, _>>()?;
        Ok(combine(&rows, self.policy.max_combined_norm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(layers: &[usize], values: &[f32]) -> CategoryVectors {
        CategoryVectors { layers: layers.to_vec(), values: values.to_vec() }
    }

    fn check(members: &[(&CategoryVectors, f32)], max: f32, layers: &[usize], values: &[f32]) {
        let combined = combine(members, max);
        assert_eq!(combined.layers, layers);
        assert_eq!(combined.values.len(), values.len());
        for (found, expected) in combined.values.iter().zip(values) {
            assert!((found - expected).abs() < 1e-6, "{:?} is not {values:?}", combined.values);
        }
    }

    #[test]
    fn vectors_at_right_angles_add_up_under_a_wide_bound() {
        let (a, b) = (vectors(&[3], &[1.0, 0.0]), vectors(&[3], &[0.0, 1.0]));
        check(&[(&a, 2.0), (&b, 0.5)], 10.0, &[3], &[2.0, 0.5]);
    }

    #[test]
    fn equal_vectors_are_no_stronger_than_one_of_them() {
        let a = vectors(&[3], &[3.0, 4.0]);
        check(&[(&a, 1.0), (&a, 1.0)], 1.0, &[3], &[3.0, 4.0]);
        check(&[(&a, 1.0), (&a, 1.0)], 1.5, &[3], &[4.5, 6.0]);
    }

    #[test]
    fn the_longest_summand_with_its_strength_sets_the_bound() {
        let (a, b) = (vectors(&[0], &[1.0, 0.0]), vectors(&[0], &[4.0, 0.0]));
        check(&[(&a, 8.0), (&b, 1.0)], 1.0, &[0], &[8.0, 0.0]);
    }

    #[test]
    fn a_layer_that_one_member_has_is_the_members_alone() {
        let (a, b) = (vectors(&[1, 2], &[1.0, 2.0]), vectors(&[2, 5], &[1.0, 7.0]));
        check(&[(&a, 1.0), (&b, 0.5)], 9.0, &[1, 2, 5], &[1.0, 2.5, 3.5]);
    }

    #[test]
    fn a_layer_that_every_member_leaves_alone_is_left_out() {
        let (a, b) =
            (vectors(&[1, 2, 3], &[0.0, 2.0, 0.0]), vectors(&[1, 2, 3], &[-0.0, 0.0, 7.0]));
        check(&[(&a, 1.0), (&b, 0.5)], 1.0, &[2, 3], &[2.0, 3.5]);
        // A strength of 0 is somebody's choice, and keeps the layer.
        check(&[(&a, 0.0), (&b, 0.5)], 1.0, &[2, 3], &[0.0, 3.5]);
    }

    #[test]
    fn nothing_combines_to_nothing() {
        check(&[], 1.0, &[], &[]);
    }
}
