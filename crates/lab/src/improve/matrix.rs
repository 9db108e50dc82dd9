//! The two decompositions that the closed forms need, on matrices given as rows.

use nalgebra::{Cholesky, DMatrix, DVector, SymmetricEigen};

use crate::error::{Error, Result};
use crate::numbers::dot;

/// The QR iterations of one eigenvalue problem end here; a few a dimension are usual.
const MAX_ITERATIONS: usize = 1_000_000;

/// `rows rows^T`: `[n, n]`, the dot products of all pairs.
pub(super) fn pair_products(rows: &[Vec<f64>]) -> DMatrix<f64> {
    let mut products = DMatrix::zeros(rows.len(), rows.len());
    for (i, row) in rows.iter().enumerate() {
        for (j, other) in rows[..=i].iter().enumerate() {
            let product = dot(row, other);
            products[(i, j)] = product;
            products[(j, i)] = product;
        }
    }
    products
}

/// `[n, d]` to `[d, n]`; all rows are equally long.
pub(super) fn transposed(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|column| rows.iter().map(|row| row[column]).collect()).collect()
}

/// `rows^T weights`: `[d]`, the sum of the rows times their weights.
pub(super) fn weighted_sum<'a>(
    rows: impl IntoIterator<Item = &'a Vec<f64>>,
    weights: &[f64],
) -> Vec<f64> {
    let mut sum: Vec<f64> = Vec::new();
    for (row, weight) in rows.into_iter().zip(weights) {
        sum.resize(row.len(), 0.0);
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += weight * value;
        }
    }
    sum
}

/// Eigenvalues of a symmetric matrix from the largest down, each with its eigenvector of norm 1.
pub(super) fn eigen(matrix: DMatrix<f64>) -> Result<Vec<(f64, Vec<f64>)>> {
    let size = matrix.nrows();
    let eigen =
        SymmetricEigen::try_new(matrix, f64::EPSILON, MAX_ITERATIONS).ok_or_else(|| {
            Error::Data(format!(
                "the eigenvalues of a matrix of {size} rows were not found in {MAX_ITERATIONS} steps; look for \
                 activations of extreme size"
            ))
        })?;
    let vectors = eigen.eigenvectors.column_iter().map(|column| column.iter().copied().collect());
    let mut pairs: Vec<(f64, Vec<f64>)> = eigen.eigenvalues.iter().copied().zip(vectors).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(pairs)
}

/// `x` with `matrix x = values`, for a symmetric positive definite matrix; `None` where it is not one.
pub(super) fn solve(matrix: DMatrix<f64>, values: &[f64]) -> Option<Vec<f64>> {
    let solution = Cholesky::new(matrix)?.solve(&DVector::from_column_slice(values));
    let solution: Vec<f64> = solution.iter().copied().collect();
    solution.iter().all(|value| value.is_finite()).then_some(solution)
}
