//! The rows that a regression is fitted to: dense and standardised, or sparse as they are.

use super::{COARSE_TOLERANCE, Plane, lbfgs};
use crate::judge::FeatureRows;

/// Largest component of the gradient at the minimum.
const TOLERANCE: f64 = 1e-7;

/// Fits planes to a design, to this largest component of the gradient.
pub(crate) type Fit<'a> = dyn Fn(&dyn Design, f64) -> Vec<Plane> + 'a;

/// Rows of features that planes are fitted to, brought to the form in which that is done.
pub(crate) trait Rows {
    /// Rows.
    fn len(&self) -> usize;

    /// The planes that `fit` gives for them, over the features as they are here.
    fn planes(&self, fit: &Fit<'_>) -> Vec<Plane>;
}

impl Rows for FeatureRows {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn planes(&self, fit: &Fit<'_>) -> Vec<Plane> {
        let scaling = Scaling::of(self);
        let planes = fit(&scaling.apply(self), TOLERANCE);
        planes.iter().map(|plane| scaling.unfold(plane)).collect()
    }
}

impl Rows for SparseRows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn planes(&self, fit: &Fit<'_>) -> Vec<Plane> {
        fit(self, COARSE_TOLERANCE)
    }
}

/// Rows of features, read one by one.
pub(crate) trait Design {
    /// Features a row.
    fn width(&self) -> usize;

    /// `weights.x` of one row; `weights` is `[width]`.
    fn dot(&self, row_idx: usize, weights: &[f64]) -> f64;

    /// Adds `factor` times a row to `to`, `[width]`.
    fn add_scaled(&self, row_idx: usize, factor: f64, to: &mut [f64]);
}

/// `[n, d]`, standardised.
struct Dense {
    rows: Vec<Vec<f64>>,
    width: usize,
}

impl Design for Dense {
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

/// Mean of each feature, and 1 over its standard deviation; 0 for a feature that never changes.
struct Scaling {
    means: Vec<f64>,
    scales: Vec<f64>,
}

impl Scaling {
    fn of(rows: &FeatureRows) -> Self {
        let n = rows.len() as f64;
        let mut means = vec![0.0; rows.width()];
        for row in rows.iter() {
            for (mean, &value) in means.iter_mut().zip(row) {
                *mean += f64::from(value) / n;
            }
        }
        let mut variances = vec![0.0; rows.width()];
        for row in rows.iter() {
            for ((variance, &value), mean) in variances.iter_mut().zip(row).zip(&means) {
                let distance = f64::from(value) - mean;
                *variance += distance * distance / n;
            }
        }
        // What is left of a constant after rounding is no variance.
        let scale = |variance: f64| if variance > 1e-14 { 1.0 / variance.sqrt() } else { 0.0 };
        Self { means, scales: variances.into_iter().map(scale).collect() }
    }

    fn apply(&self, rows: &FeatureRows) -> Dense {
        let standardise = |row: &[f32]| {
            let values = row.iter().zip(&self.means).zip(&self.scales);
            values.map(|((&value, mean), scale)| (f64::from(value) - mean) * scale).collect()
        };
        Dense { rows: rows.iter().map(standardise).collect(), width: rows.width() }
    }

    /// The plane over raw features.
    fn unfold(&self, plane: &Plane) -> Plane {
        let weights = plane.weights.iter().zip(&self.scales);
        let weights: Vec<f64> = weights.map(|(weight, scale)| weight * scale).collect();
        let shift: f64 = weights.iter().zip(&self.means).map(|(weight, mean)| weight * mean).sum();
        Plane { weights, bias: plane.bias - shift }
    }
}
