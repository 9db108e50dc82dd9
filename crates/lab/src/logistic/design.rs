//! The rows that a regression is fitted to: dense and standardised, or sparse as they are.

use super::lbfgs;

/// Rows of features, read one by one.
pub(super) trait Design {
    /// Rows.
    fn len(&self) -> usize;

    /// Features a row.
    fn width(&self) -> usize;

    /// `weights.x` of one row; `weights` is `[width]`.
    fn dot(&self, row_idx: usize, weights: &[f64]) -> f64;

    /// Adds `factor` times a row to `to`, `[width]`.
    fn add_scaled(&self, row_idx: usize, factor: f64, to: &mut [f64]);
}

/// `[n, d]`, standardised.
pub(super) struct Dense {
    pub(super) rows: Vec<Vec<f64>>,
    pub(super) width: usize,
}

impl Design for Dense {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn width(&self) -> usize {
        self.width
    }

    fn dot(&self, row_idx: usize, weights: &[f64]) -> f64 {
        lbfgs::dot(weights, &self.rows[row_idx])
    }

    fn add_scaled(&self, row_idx: usize, factor: f64, to: &mut [f64]) {
        lbfgs::add_scaled(to, factor, &self.rows[row_idx]);
    }
}

/// Rows of which most features are 0: the others by index, each below the width and once a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SparseRows {
    /// (index, value) pairs a row.
    pub(crate) rows: Vec<Vec<(u32, f32)>>,
    /// Features a row.
    pub(crate) width: usize,
}

impl Design for SparseRows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn width(&self) -> usize {
        self.width
    }

    fn dot(&self, row_idx: usize, weights: &[f64]) -> f64 {
        let row = self.rows[row_idx].iter();
        row.map(|&(idx, value)| f64::from(value) * weights[idx as usize]).sum()
    }

    fn add_scaled(&self, row_idx: usize, factor: f64, to: &mut [f64]) {
        for &(idx, value) in &self.rows[row_idx] {
            to[idx as usize] += factor * f64::from(value);
        }
    }
}
