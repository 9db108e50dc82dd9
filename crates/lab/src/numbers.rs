//! The few conversions and sums that more than one module needs, in one fixed order of operations.

/// Rounds to the nearest f32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding a sum made in f64 to the stored f32 is the purpose"
)]
pub(crate) fn to_f32(value: f64) -> f32 {
    value as f32
}

/// Euclidean norm, summed in f64 from the first element on.
pub(crate) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// Sum of products, from the first element on.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Cosine of the angle between two vectors; `None` when one of them is zero.
pub(crate) fn cosine(a: &[f64], b: &[f64]) -> Option<f64> {
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    (norms > 0.0).then(|| dot(a, b) / norms)
}
