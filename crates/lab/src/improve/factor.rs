//! What a strength that depends on the prompt has in common, however it was fitted.

use serde::{Deserialize, Serialize};

use super::{check_rows_of, dot_row};
use crate::error::{Error, Result};
use crate::judge::{Estimate, auc};

/// The factor is cut here unless asked otherwise: 1 is the strength that was measured, and more was not.
pub const DEFAULT_MAX_FACTOR: f64 = 1.0;

/// A share of the calibrated strength, read from a prompt's activation `h` of `[hidden_size]` at one layer.
pub trait StrengthFactor {
    /// Near 0 for harmless prompts and near 1 for harmful ones, without bounds.
    fn score(&self, h: &[f32]) -> f64;

    /// The largest factor; above 0.
    fn max_factor(&self) -> f64;

    /// What the strength is multiplied by: the score, cut at 0 and at [`Self::max_factor`]. A score that is no number gives
    /// the largest.
    fn factor(&self, h: &[f32]) -> f64 {
        let (score, max) = (self.score(h), self.max_factor());
        if score <= 0.0 {
            0.0
        } else if score < max {
            score
        } else {
            max
        }
    }

    /// Numbers a row.
    fn hidden_size(&self) -> usize;

    /// Means of the factor, and how well the score tells harmful prompts from harmless ones.
    ///
    /// # Errors
    /// [`Error::Data`] when a side has no row or a row is of another width or not finite.
    fn figures(&self, benign: &[&[f32]], harmful: &[&[f32]]) -> Result<FactorFigures> {
        check_rows_of("benign", benign, self.hidden_size())?;
        check_rows_of("harmful", harmful, self.hidden_size())?;
        let rows = || benign.iter().chain(harmful);
        let scores: Vec<f64> = rows().map(|row| self.score(row)).collect();
        let is_harmful: Vec<bool> = (0..scores.len()).map(|idx| idx >= benign.len()).collect();
        let auc = auc(&scores, &is_harmful).ok_or_else(|| {
            Error::Data(format!(
                "{} benign and {} harmful activations; expected at least one of each",
                benign.len(),
                harmful.len()
            ))
        })?;
        let mean = |side: &[&[f32]]| {
            side.iter().map(|row| self.factor(row)).sum::<f64>() / side.len() as f64
        };
        Ok(FactorFigures {
            num_benign: benign.len(),
            num_harmful: harmful.len(),
            benign_mean: mean(benign),
            harmful_mean: mean(harmful),
            auc,
        })
    }
}

/// What a [`StrengthFactor`] gives harmless and harmful prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorFigures {
    /// Harmless prompts.
    pub num_benign: usize,
    /// Harmful prompts.
    pub num_harmful: usize,
    /// Mean factor of the harmless ones; 0 would leave them alone.
    pub benign_mean: f64,
    /// Mean factor of the harmful ones; 1 would give them what was calibrated.
    pub harmful_mean: f64,
    /// How often a harmful prompt scores above a harmless one, before the cut.
    pub auc: Estimate,
}

/// `weights . h + offset`, as every factor here is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine<'a> {
    pub(super) weights: &'a [f64],
    pub(super) offset: f64,
    pub(super) max_factor: f64,
}

impl StrengthFactor for Affine<'_> {
    fn score(&self, h: &[f32]) -> f64 {
        debug_assert_eq!(h.len(), self.weights.len(), "an activation of another model");
        dot_row(self.weights, h) + self.offset
    }

    fn max_factor(&self) -> f64 {
        self.max_factor
    }

    fn hidden_size(&self) -> usize {
        self.weights.len()
    }
}

/// A largest factor that can be used.
pub(super) fn check_max(max_factor: f64) -> Result<f64> {
    if max_factor.is_finite() && max_factor > 0.0 {
        return Ok(max_factor);
    }
    Err(Error::Spec(format!("the largest factor is {max_factor}; expected a number above 0")))
}
