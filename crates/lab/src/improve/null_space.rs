//! The directions that harmless prompts do not use.

use serde::{Serialize, Serializer};

use super::matrix::{eigen, pair_products, transposed, weighted_sum};
use super::{check_rows, dot_row, wide};
use crate::error::{Error, Result};
use crate::numbers::{dot, norm, to_f32};

/// Less of a vector's norm than this is rounding, not a direction.
const SMALLEST_SHARE_LEFT: f64 = 1e-6;

/// The approximate null space of harmless activations at one layer (`AlphaSteer`, arXiv 2506.07022).
///
/// With `H_b` `[n, d]` the harmless rows, the eigenvectors of their uncentred second moment `H_b^T H_b / n` with the
/// largest eigenvalues form `U` `[d, rank]`, and `P = I - U U^T` maps harmless activations to nearly nothing. `AlphaSteer`
/// gives the null space a fixed share of the dimensions, chosen layer by layer ([`Self::fit_rank`]). [`Self::fit`] takes
/// the fewest eigenvectors that hold a share of the trace, so that what is left of harmless rows is known: 1 minus
/// that share, in the mean of squares.
///
/// Serialised, it is its size alone: the basis is made again from the same rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NullSpace {
    hidden_size: usize,
    num_rows: usize,
    variance_held: f64,
    /// `U^T`: `[rank, hidden_size]`, orthonormal.
    #[serde(rename = "rank", serialize_with = "len")]
    basis: Vec<Vec<f64>>,
}

impl NullSpace {
    /// Of harmless activations `[n, d]`; `variance_kept` is the share of their second moment that counts as used. The
    /// work grows with the cube of `min(n, d)`.
    ///
    /// Where one massive dimension holds nearly all of the moment, as in the residual stream of most models, 0.99 may be a
    /// rank of 1: look at [`Self::rank`], ask for 0.999 and more, or for a rank ([`Self::fit_rank`]).
    ///
    /// # Errors
    /// [`Error::Spec`] when `variance_kept` is not above 0 and at most 1. [`Error::Data`] when the rows are none, not of
    /// one width, not finite, or all zero, or when they use every dimension, so that nothing is left.
    pub fn fit(benign: &[&[f32]], variance_kept: f64) -> Result<Self> {
        if !(variance_kept > 0.0 && variance_kept <= 1.0) {
            return Err(Error::Spec(format!(
                "variance_kept is {variance_kept}; expected above 0 and at most 1"
            )));
        }
        let space = Self::fit_until(benign, |space| space.variance_held >= variance_kept)?;
        if space.rank() == space.hidden_size {
            return Err(Error::Data(format!(
                "{variance_kept} of the second moment of {} benign activations takes all {} dimensions, and nothing \
                 is left; ask for less",
                space.num_rows, space.hidden_size
            )));
        }
        Ok(space)
    }

    /// As [`Self::fit`], with the `rank` leading eigenvectors, or as many as the rows have: `AlphaSteer`'s way, whose
    /// share of the dimensions is `1 - rank / d`.
    ///
    /// # Errors
    /// [`Error::Spec`] when `rank` is 0 or leaves no dimension; [`Error::Data`] as [`Self::fit`].
    pub fn fit_rank(benign: &[&[f32]], rank: usize) -> Result<Self> {
        let hidden_size = check_rows("benign", benign)?;
        if rank == 0 || rank >= hidden_size {
            return Err(Error::Spec(format!(
                "rank {rank} of {hidden_size} dimensions; expected 1 to {}",
                hidden_size - 1
            )));
        }
        Self::fit_until(benign, |space| space.rank() >= rank)
    }

    /// Takes one eigenvector after another until `is_enough`.
    fn fit_until(benign: &[&[f32]], is_enough: impl Fn(&Self) -> bool) -> Result<Self> {
        let hidden_size = check_rows("benign", benign)?;
        let rows: Vec<Vec<f64>> = benign.iter().map(|row| wide(row)).collect();
        let trace = rows.iter().map(|row| dot(row, row)).sum::<f64>();
        if trace <= 0.0 {
            return Err(Error::Data(
                "every benign activation is zero; read them at another site or layer".to_owned(),
            ));
        }
        let (num_rows, variance_held, basis) = (rows.len(), 0.0, Vec::new());
        let mut space = Self { hidden_size, num_rows, variance_held, basis };
        let mut held = 0.0;
        for (value, vector) in principal_axes(&rows, trace, usize::MAX)? {
            if is_enough(&space) {
                break;
            }
            held += value;
            space.variance_held = held / trace;
            space.basis.push(vector);
        }
        Ok(space)
    }

    /// Dimensions that harmless prompts use; the null space has `hidden_size - rank`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.basis.len()
    }

    /// Numbers a row.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// The share of the second moment that they hold.
    #[must_use]
    pub fn variance_held(&self) -> f64 {
        self.variance_held
    }

    /// `P v = v - U U^T v`, for `v` of `[hidden_size]`.
    #[must_use]
    pub fn project(&self, v: &[f32]) -> Vec<f32> {
        self.project_wide(v).into_iter().map(to_f32).collect()
    }

    /// `P v` made as long as `v`: a shorter vector would be a weaker dose at the same strength. `None` where `P` leaves less
    /// than a millionth of `v`, as it does of a vector that harmless prompts use whole.
    #[must_use]
    pub fn project_keep_norm(&self, v: &[f32]) -> Option<Vec<f32>> {
        let left = self.project_wide(v);
        let (before, after) = (norm(v), dot(&left, &left).sqrt());
        let is_left = after > SMALLEST_SHARE_LEFT * before;
        is_left.then(|| left.into_iter().map(|value| to_f32(value * (before / after))).collect())
    }

    pub(super) fn project_wide(&self, v: &[f32]) -> Vec<f64> {
        debug_assert_eq!(v.len(), self.hidden_size, "a vector of another model");
        let mut left = wide(v);
        for axis in &self.basis {
            let along = dot_row(axis, v);
            for (left, value) in left.iter_mut().zip(axis) {
                *left -= along * value;
            }
        }
        left
    }
}

/// A basis as the number of its vectors.
#[expect(clippy::ptr_arg, reason = "serde hands over a reference to the field")]
fn len<S: Serializer>(basis: &Vec<Vec<f64>>, serializer: S) -> Result<S::Ok, S::Error> {
    basis.len().serialize(serializer)
}

/// Eigenvalues of `H^T H` from the largest down with their eigenvectors `[d]`, at most `max_axes` and as far as they are more than
/// rounding; `trace` is that of `H^T H`, above 0.
///
/// With fewer rows than dimensions they come from `H H^T`, which has the same eigenvalues: if `v` is its eigenvector,
/// `H^T v / sqrt(eigenvalue)` is the one wanted.
///
/// # Errors
/// [`Error::Data`] when the eigenvalues are not found.
pub(crate) fn principal_axes(
    rows: &[Vec<f64>],
    trace: f64,
    max_axes: usize,
) -> Result<Vec<(f64, Vec<f64>)>> {
    let (num_rows, hidden_size) = (rows.len(), rows.first().map_or(0, Vec::len));
    let smallest = trace * f64::EPSILON * num_rows.max(hidden_size) as f64;
    let is_more = |pair: &(f64, Vec<f64>)| pair.0 > smallest;
    if num_rows >= hidden_size {
        let pairs = eigen(pair_products(&transposed(rows)))?;
        return Ok(pairs.into_iter().take_while(is_more).take(max_axes).collect());
    }
    let mut axes: Vec<(f64, Vec<f64>)> = Vec::new();
    let pairs = eigen(pair_products(rows))?.into_iter();
    for (value, vector) in pairs.take_while(is_more).take(max_axes) {
        let mut axis = weighted_sum(rows, &vector);
        // Axes of small eigenvalues carry rounding of the large ones.
        for (_, earlier) in &axes {
            let along = dot(&axis, earlier);
            axis.iter_mut().zip(earlier).for_each(|(axis, earlier)| *axis -= along * earlier);
        }
        let length = dot(&axis, &axis).sqrt();
        axis.iter_mut().for_each(|axis| *axis /= length);
        axes.push((value, axis));
    }
    Ok(axes)
}
