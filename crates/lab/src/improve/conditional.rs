//! Strength by ridge regression in the null space of harmless prompts.

use serde::{Deserialize, Serialize};

use super::factor::{Affine, DEFAULT_MAX_FACTOR, FactorFigures, StrengthFactor, check_max};
use super::matrix::{pair_products, solve, transposed, weighted_sum};
use super::null_space::NullSpace;
use super::{check_rows, check_rows_of};
use crate::error::{Error, Result};
use crate::numbers::dot;

/// `score(h) = w . P h`, `AlphaSteer`'s closed form (arXiv 2506.07022) at the level of the prompt.
///
/// `AlphaSteer` adds `Delta P h` with `Delta = R H_m^T P^T (P H_m H_m^T P^T + a P P^T)^+`, where the columns of `H_m` are
/// harmful activations and those of `R` what each is to become. All columns of `R` are one direction `r`, so `Delta` is
/// the outer product `r w^T` with `w = argmin sum over harmful h of (w . P h - 1)^2 + a |P w|^2`, and what is added is
/// `(w . P h) r`: a strength times a vector. This is that strength, read once at the prompt, for any vector.
///
/// With `X` the rows `P h`, `w` is `X^T (X X^T + a I)^-1 1`, or `(X^T X + a I)^-1 X^T 1` where there are more rows than
/// dimensions: both are the pseudo-inverse's, as `X` has nothing outside of `P`. Nothing but `P` speaks for harmless
/// prompts: what `P` leaves of them is not pushed to 0, and prompts unlike the harmless rows may get much of the strength.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionalStrength {
    /// `P w`: `[hidden_size]`, so that no projection is needed to apply it.
    pub weights: Vec<f64>,
    /// The largest factor.
    pub max_factor: f64,
    /// `a`.
    pub ridge: f64,
    /// Dimensions that count as used by harmless prompts.
    pub rank: usize,
    /// The share of the harmless second moment that those hold.
    pub variance_held: f64,
    /// On the rows it was fitted to: not what other prompts will get.
    pub fitted: FactorFigures,
}

impl ConditionalStrength {
    /// Of harmless and harmful activations at the layer of `null_space`. `ridge` is on the scale of a squared norm: see
    /// [`Self::ridge_of`]. Harmless rows serve [`Self::fitted`] alone.
    ///
    /// # Errors
    /// [`Error::Spec`] when `ridge` is not above 0; [`Error::Data`] when a side has no row, a row is of another width or
    /// not finite, or the ridge is lost in rounding.
    pub fn fit(
        benign: &[&[f32]],
        harmful: &[&[f32]],
        null_space: &NullSpace,
        ridge: f64,
    ) -> Result<Self> {
        if !(ridge.is_finite() && ridge > 0.0) {
            return Err(Error::Spec(format!("the ridge is {ridge}; expected a number above 0")));
        }
        let rows = projected(harmful, null_space)?;
        let hidden_size = null_space.hidden_size();
        let columns = transposed(&rows);
        let is_wide = rows.len() <= hidden_size;
        let mut system = pair_products(if is_wide { &rows } else { &columns });
        for idx in 0..system.nrows() {
            system[(idx, idx)] += ridge;
        }
        let ones = vec![1.0; rows.len()];
        let solution = if is_wide {
            solve(system, &ones).map(|of_rows| weighted_sum(&rows, &of_rows))
        } else {
            solve(system, &weighted_sum(&rows, &ones))
        };
        let weights = solution.ok_or_else(|| {
            Error::Data(format!(
                "a ridge of {ridge} is lost beside the activations; take a larger one"
            ))
        })?;
        let max_factor = DEFAULT_MAX_FACTOR;
        let fitted =
            Affine { weights: &weights, offset: 0.0, max_factor }.figures(benign, harmful)?;
        let (rank, variance_held) = (null_space.rank(), null_space.variance_held());
        Ok(Self { weights, max_factor, ridge, rank, variance_held, fitted })
    }

    /// A ridge of `share` times the mean squared norm of harmful rows in the null space. `AlphaSteer`'s is one number for
    /// every layer, though activations grow by orders of magnitude from the first to the last.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no row, or one is of another width or not finite.
    pub fn ridge_of(share: f64, harmful: &[&[f32]], null_space: &NullSpace) -> Result<f64> {
        let rows = projected(harmful, null_space)?;
        Ok(share * rows.iter().map(|row| dot(row, row)).sum::<f64>() / rows.len() as f64)
    }

    /// The same with another largest factor; [`Self::fitted`] stays that of the old one.
    ///
    /// # Errors
    /// [`Error::Spec`] when it is not a number above 0.
    pub fn with_max_factor(self, max_factor: f64) -> Result<Self> {
        Ok(Self { max_factor: check_max(max_factor)?, ..self })
    }
}

/// `P h` of every row, at least one.
fn projected(harmful: &[&[f32]], null_space: &NullSpace) -> Result<Vec<Vec<f64>>> {
    check_rows("harmful", harmful)?;
    check_rows_of("harmful", harmful, null_space.hidden_size())?;
    Ok(harmful.iter().map(|row| null_space.project_wide(row)).collect())
}

impl StrengthFactor for ConditionalStrength {
    fn score(&self, h: &[f32]) -> f64 {
        Affine { weights: &self.weights, offset: 0.0, max_factor: self.max_factor }.score(h)
    }

    fn max_factor(&self) -> f64 {
        self.max_factor
    }

    fn hidden_size(&self) -> usize {
        self.weights.len()
    }
}
