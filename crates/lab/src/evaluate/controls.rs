//! The control vectors.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use skeg_model::steering::LayerVector;
use skeg_vector_store::Category;

use crate::numbers::{norm, to_f32};

/// What answers are steered with instead of their own category's vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// A random direction with the own vector's norm in each layer: what a push of that size does by
    /// itself.
    Random,
    /// Another category's vector: what does not depend on the category.
    Unrelated,
    /// The mean of all categories' vectors.
    Pooled,
}

/// Vectors of one category, one row a layer.
pub(crate) type Rows = Vec<LayerVector>;

/// An unrelated category is this many places further in the sorted list: not a neighbour, and over eleven
/// categories each is used once.
const ROTATION: usize = 5;

/// The rows each category's prompts are steered with under `condition`.
pub(crate) fn rows_of(
    condition: Condition,
    own: &BTreeMap<Category, Rows>,
    seed: u64,
) -> BTreeMap<Category, Rows> {
    let categories: Vec<&Category> = own.keys().collect();
    match condition {
        Condition::Random => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let random = |rows: &Rows| rows.iter().map(|row| random_like(row, &mut rng)).collect();
            let mut rows: Vec<Rows> = own.values().map(random).collect();
            own.keys().cloned().zip(rows.drain(..)).collect()
        }
        Condition::Unrelated => categories
            .iter()
            .enumerate()
            .map(|(idx, category)| {
                let places = if ROTATION.is_multiple_of(categories.len()) { 1 } else { ROTATION };
                let other = categories[(idx + places) % categories.len()];
                ((*category).clone(), own[other].clone())
            })
            .collect(),
        Condition::Pooled => {
            let pooled = pooled(own);
            own.keys().map(|category| (category.clone(), pooled.clone())).collect()
        }
    }
}

/// A random direction with the norm of `row`.
fn random_like(row: &LayerVector, rng: &mut ChaCha8Rng) -> LayerVector {
    /// Uniform numbers in a sum that is close enough to normal (Irwin-Hall), and the same on every platform.
    const TERMS: usize = 12;
    let mut values: Vec<f32> = Vec::with_capacity(row.values.len());
    for _ in 0..row.values.len() {
        let sum: f64 = (0..TERMS).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum();
        values.push(to_f32(sum - TERMS as f64 / 2.0));
    }
    let scale = norm(&row.values) / norm(&values);
    LayerVector {
        layer: row.layer,
        values: values.iter().map(|&value| to_f32(f64::from(value) * scale)).collect(),
    }
}

/// The mean of all categories' rows. All have the same layers.
fn pooled(own: &BTreeMap<Category, Rows>) -> Rows {
    let Some(first) = own.values().next() else { return Rows::new() };
    let mut rows = first.clone();
    for (row_idx, row) in rows.iter_mut().enumerate() {
        for (idx, value) in row.values.iter_mut().enumerate() {
            let sum: f64 = own.values().map(|rows| f64::from(rows[row_idx].values[idx])).sum();
            *value = to_f32(sum / own.len() as f64);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> BTreeMap<Category, Rows> {
        crate::catqa_categories()
            .into_iter()
            .enumerate()
            .map(|(idx, category)| {
                let values = vec![idx as f32 + 1.0; 64];
                (category, vec![LayerVector { layer: 3, values }])
            })
            .collect()
    }

    #[test]
    fn random_rows_have_the_norm_of_the_own_ones_and_another_direction() {
        let own = own();
        let random = rows_of(Condition::Random, &own, 7);
        assert_eq!(random, rows_of(Condition::Random, &own, 7));
        assert_ne!(random, rows_of(Condition::Random, &own, 8));
        for (category, rows) in &own {
            let (expected, found) = (norm(&rows[0].values), norm(&random[category][0].values));
            assert!((found / expected - 1.0).abs() < 1e-5, "{category}");
            let dot: f64 = rows[0]
                .values
                .iter()
                .zip(&random[category][0].values)
                .map(|(a, b)| f64::from(a * b))
                .sum();
            assert!((dot / expected / found).abs() < 0.5, "{category}");
        }
    }

    #[test]
    fn every_unrelated_vector_is_another_category_s_and_used_once() {
        let own = own();
        let unrelated = rows_of(Condition::Unrelated, &own, 0);
        let mut used: Vec<f32> = unrelated.values().map(|rows| rows[0].values[0]).collect();
        for (category, rows) in &own {
            assert_ne!(&unrelated[category], rows);
        }
        used.sort_by(f32::total_cmp);
        used.dedup();
        assert_eq!(used.len(), own.len());
    }

    #[test]
    fn the_pooled_vector_is_the_mean() {
        let pooled = rows_of(Condition::Pooled, &own(), 0);
        // the mean of 1 to 11
        assert!(
            pooled
                .values()
                .all(|rows| rows[0].values.iter().all(|value| (value - 6.0).abs() < 1e-6))
        );
    }
}
