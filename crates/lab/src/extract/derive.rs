//! From the activations of single inputs to one vector, for one category and one layer.
//!
//! Everything is done in f64 in the order of the inputs. `tests/golden/gen_variants.py` does the same in `NumPy`.

use super::variant::{Estimator, Pairing, PruneCriterion, Pruning, Variant};
use crate::numbers::{cosine, dot};

/// The power method ends when the direction moves less than this, or after so many rounds.
const TOLERANCE: f64 = 1e-12;
const MAX_ROUNDS: usize = 10_000;

/// Mean activations of the inputs of both sides: each `[hidden_size]`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sides<'a> {
    pub(crate) safe: Vec<&'a [f32]>,
    pub(crate) not_safe: Vec<&'a [f32]>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Derived {
    /// `[hidden_size]`.
    pub(crate) vector: Vec<f64>,
    /// Differences that counted, where pruning left some out.
    pub(crate) num_kept: Option<usize>,
}

/// The vector of a variant; `None` when a side has no input.
pub(crate) fn derive(sides: &Sides<'_>, variant: &Variant) -> Option<Derived> {
    let differences = differences(sides, variant.pairing)?;
    let (kept, num_kept) = match variant.pruning {
        None => (differences, None),
        Some(pruning) => {
            let kept = prune(differences, pruning);
            let num_kept = kept.len();
            (kept, Some(num_kept))
        }
    };
    let mut vector = match variant.estimator {
        Estimator::DifferenceOfMeans => mean(kept.iter().map(Vec::as_slice))?,
        Estimator::PrincipalComponent => principal_component(&kept)?,
    };
    if let Some(ratio) = variant.mask_massive {
        mask_massive(sides, f64::from(ratio), &mut vector);
    }
    if let Some(top_k) = variant.top_k {
        keep_largest(&mut vector, top_k);
    }
    Some(Derived { vector, num_kept })
}

/// `d_i`: safe minus unsafe, one for each unsafe input.
fn differences(sides: &Sides<'_>, pairing: Pairing) -> Option<Vec<Vec<f64>>> {
    let wide = |row: &[f32]| -> Vec<f64> { row.iter().map(|&value| f64::from(value)).collect() };
    let minus = |safe: &[f64], not_safe: &[f32]| -> Vec<f64> {
        safe.iter().zip(not_safe).map(|(safe, &not_safe)| safe - f64::from(not_safe)).collect()
    };
    let safe: Vec<Vec<f64>> = sides.safe.iter().map(|row| wide(row)).collect();
    let mean = mean(safe.iter().map(Vec::as_slice))?;
    let differences: Vec<Vec<f64>> = match pairing {
        Pairing::SafeMean => sides.not_safe.iter().map(|row| minus(&mean, row)).collect(),
        Pairing::Matched => {
            safe.iter().zip(&sides.not_safe).map(|(safe, row)| minus(safe, row)).collect()
        }
    };
    (!differences.is_empty()).then_some(differences)
}

fn mean<'a>(rows: impl Iterator<Item = &'a [f64]>) -> Option<Vec<f64>> {
    let mut sum: Vec<f64> = Vec::new();
    let mut count = 0_u32;
    for row in rows {
        sum.resize(row.len(), 0.0);
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
        count += 1;
    }
    (count > 0).then(|| sum.into_iter().map(|value| value / f64::from(count)).collect())
}

/// The differences of the highest rank, in their order; at least one. At a share of a half they are the upper half: with
/// an odd number, those above the median.
fn prune(differences: Vec<Vec<f64>>, pruning: Pruning) -> Vec<Vec<f64>> {
    let rank: Vec<f64> = match pruning.criterion {
        PruneCriterion::Norm => differences.iter().map(|row| dot(row, row)).collect(),
        PruneCriterion::Agreement => {
            let mean = mean(differences.iter().map(Vec::as_slice)).unwrap_or_default();
            differences.iter().map(|row| cosine(row, &mean).unwrap_or(-1.0)).collect()
        }
    };
    let keep = kept_of(differences.len(), pruning.keep);
    let mut order: Vec<usize> = (0..differences.len()).collect();
    // A stable sort: of equal ones the earlier stay.
    order.sort_by(|&a, &b| rank[b].total_cmp(&rank[a]));
    let mut is_kept = vec![false; differences.len()];
    for &idx in &order[..keep] {
        is_kept[idx] = true;
    }
    differences.into_iter().zip(is_kept).filter_map(|(row, kept)| kept.then_some(row)).collect()
}

/// `floor(share * len)`, at least 1.
fn kept_of(len: usize, share: f32) -> usize {
    let limit = f64::from(share) * len as f64;
    (1..=len).take_while(|&count| count as f64 <= limit).last().unwrap_or(1)
}

/// The direction of the largest sum of squares of the differences, by the power method from their mean on; as long
/// as the mean, and on its side.
fn principal_component(differences: &[Vec<f64>]) -> Option<Vec<f64>> {
    let mean = mean(differences.iter().map(Vec::as_slice))?;
    let length = dot(&mean, &mean).sqrt();
    let Some(mut direction) = unit(&mean) else { return Some(mean) };
    for _ in 0..MAX_ROUNDS {
        let mut next = vec![0.0; mean.len()];
        for row in differences {
            let along = dot(row, &direction);
            for (next, value) in next.iter_mut().zip(row) {
                *next += along * value;
            }
        }
        let Some(next) = unit(&next) else { break };
        let moved: f64 =
            next.iter().zip(&direction).map(|(new, old)| (new - old) * (new - old)).sum();
        direction = next;
        if moved.sqrt() < TOLERANCE {
            break;
        }
    }
    // Every round keeps the direction on the mean's side: the sum of squares has no negative part.
    Some(direction.into_iter().map(|value| length * value).collect())
}

fn unit(vector: &[f64]) -> Option<Vec<f64>> {
    let length = dot(vector, vector).sqrt();
    (length > 0.0).then(|| vector.iter().map(|value| value / length).collect())
}

/// Sets dimensions of massive activations to 0: those whose mean absolute value over all inputs of both sides is more than
/// `ratio` times the median dimension's.
fn mask_massive(sides: &Sides<'_>, ratio: f64, vector: &mut [f64]) {
    let mut sizes = vec![0.0; vector.len()];
    for row in sides.safe.iter().chain(&sides.not_safe) {
        for (size, value) in sizes.iter_mut().zip(*row) {
            *size += f64::from(value.abs());
        }
    }
    let mut sorted = sizes.clone();
    sorted.sort_by(f64::total_cmp);
    let (Some(&lower), Some(&upper)) =
        (sorted.get((sorted.len() - 1) / 2), sorted.get(sorted.len() / 2))
    else {
        return;
    };
    let median = f64::midpoint(lower, upper);
    for (value, size) in vector.iter_mut().zip(sizes) {
        if size > ratio * median {
            *value = 0.0;
        }
    }
}

/// Sets all but the `top_k` coordinates of the largest size to 0; of equal ones the first stay.
pub(crate) fn keep_largest(vector: &mut [f64], top_k: usize) {
    let mut order: Vec<usize> = (0..vector.len()).collect();
    order.sort_by(|&a, &b| vector[b].abs().total_cmp(&vector[a].abs()));
    for &idx in order.iter().skip(top_k) {
        vector[idx] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        safe: Vec<Vec<f32>>,
        #[serde(rename = "unsafe")]
        not_safe: Vec<Vec<f32>>,
        cases: Vec<GoldenCase>,
    }

    #[derive(Deserialize)]
    struct GoldenCase {
        variant: Variant,
        vector: Vec<f64>,
    }

    #[test]
    fn every_variant_is_numpys() {
        let golden = include_str!("../../../../tests/golden/variants.json");
        let golden: Golden = serde_json::from_str(golden).unwrap();
        let safe = golden.safe.iter().map(Vec::as_slice).collect();
        let not_safe = golden.not_safe.iter().map(Vec::as_slice).collect();
        let sides = Sides { safe, not_safe };
        assert_eq!(golden.cases.len(), 8);
        for GoldenCase { variant, vector } in golden.cases {
            let derived = derive(&sides, &variant).unwrap().vector;
            let length = dot(&vector, &vector).sqrt();
            for (found, expected) in derived.iter().zip(&vector) {
                assert!((found - expected).abs() < 1e-9 * length, "{variant}: {derived:?}");
            }
        }
    }

    fn pruned(criterion: PruneCriterion, keep: f32) -> Variant {
        Variant { pruning: Some(Pruning { criterion, keep }), ..Variant::default() }
    }

    #[test]
    fn pruning_keeps_what_is_above_the_median() {
        // safe mean 0: the differences are the unsafe ones turned round.
        let not_safe: [&[f32]; 5] =
            [&[1.0, 0.0], &[0.0, 5.0], &[2.0, 0.0], &[0.0, 4.0], &[3.0, 0.0]];
        let sides = Sides { safe: vec![&[0.0, 0.0]], not_safe: not_safe.to_vec() };
        let derived = derive(&sides, &pruned(PruneCriterion::Norm, 0.5)).unwrap();
        assert_eq!(derived, Derived { vector: vec![0.0, -4.5], num_kept: Some(2) });
        let one = derive(&sides, &pruned(PruneCriterion::Norm, 0.01)).unwrap();
        assert_eq!(one.vector, [0.0, -5.0]);
        let all = derive(&sides, &pruned(PruneCriterion::Norm, 1.0)).unwrap();
        assert_eq!(all.num_kept, Some(5));
        assert_eq!(all.vector, derive(&sides, &Variant::default()).unwrap().vector);
    }

    #[test]
    fn agreement_drops_what_points_elsewhere() {
        let not_safe: [&[f32]; 4] = [&[-1.0, 0.1], &[-1.0, -0.1], &[-1.0, 0.0], &[9.0, 0.0]];
        let sides = Sides { safe: vec![&[0.0, 0.0]; 4], not_safe: not_safe.to_vec() };
        // The mean difference points along -x because of one large outlier.
        let derived = derive(&sides, &pruned(PruneCriterion::Agreement, 0.25)).unwrap();
        assert_eq!(derived.vector, [-9.0, 0.0]);
    }

    #[test]
    fn matched_pairs_are_subtracted_one_by_one() {
        let safe: [&[f32]; 2] = [&[2.0, 0.0], &[0.0, 10.0]];
        let not_safe: [&[f32]; 2] = [&[1.0, 0.0], &[0.0, 9.5]];
        let sides = Sides { safe: safe.to_vec(), not_safe: not_safe.to_vec() };
        let variant = Variant { pairing: Pairing::Matched, ..pruned(PruneCriterion::Norm, 0.5) };
        assert_eq!(derive(&sides, &variant).unwrap().vector, [1.0, 0.0]);
    }

    #[test]
    fn a_principal_component_is_as_long_as_the_mean_and_on_its_side() {
        let not_safe: [&[f32]; 3] = [&[-3.0, -1.0], &[-3.0, 1.0], &[-3.0, 0.0]];
        let sides = Sides { safe: vec![&[0.0, 0.0]], not_safe: not_safe.to_vec() };
        let variant = Variant { estimator: Estimator::PrincipalComponent, ..Variant::default() };
        let vector = derive(&sides, &variant).unwrap().vector;
        assert!((vector[0] - 3.0).abs() < 1e-9 && vector[1].abs() < 1e-9, "{vector:?}");
    }

    #[test]
    fn massive_dimensions_and_small_coordinates_are_set_to_zero() {
        let sides = Sides {
            safe: vec![&[2.0, 3.0, 900.0, 1.0, 2.5]],
            not_safe: vec![&[1.0, 1.0, 100.0, 1.5, 2.0]],
        };
        let variant = Variant { mask_massive: Some(100.0), top_k: Some(2), ..Variant::default() };
        let vector = derive(&sides, &variant).unwrap().vector;
        assert_eq!(vector, [1.0, 2.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn an_empty_side_has_no_vector() {
        let sides = Sides { safe: vec![&[1.0]], not_safe: Vec::new() };
        assert_eq!(derive(&sides, &Variant::default()), None);
        let sides = Sides { safe: Vec::new(), not_safe: vec![&[1.0]] };
        assert_eq!(derive(&sides, &Variant::default()), None);
    }
}
