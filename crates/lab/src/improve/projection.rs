//! Strength by where a prompt lies between harmless and harmful ones.

use serde::{Deserialize, Serialize};

use super::factor::{Affine, DEFAULT_MAX_FACTOR, FactorFigures, StrengthFactor, check_max};
use super::{check_rows, check_rows_of, wide};
use crate::error::{Error, Result};
use crate::numbers::dot;

/// `score(h) = u . (h - mean benign) / u . (mean harmful - mean benign)`: linear in the projection of `h` on a direction
/// `u`, 0 for the mean harmless prompt and 1 for the mean harmful one.
///
/// After `AdaSteer` (arXiv 2504.09466), whose strength is also a bounded linear function of the prompt's projection;
/// it learns slope and offset by logistic regression and steers along two directions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectionStrength {
    /// `u / u . (mean harmful - mean benign)`: `[hidden_size]`.
    pub weights: Vec<f64>,
    /// What is added to `weights . h`.
    pub offset: f64,
    /// The largest factor.
    pub max_factor: f64,
    /// On the rows it was fitted to: not what other prompts will get.
    pub fitted: FactorFigures,
}

impl ProjectionStrength {
    /// Along the difference of the means, harmful minus harmless.
    ///
    /// # Errors
    /// [`Error::Data`] when a side has no row, a row is of another width or not finite, or the means are the same.
    pub fn fit(benign: &[&[f32]], harmful: &[&[f32]]) -> Result<Self> {
        let means = Means::of(benign, harmful)?;
        means.along(&means.difference(), benign, harmful)
    }

    /// Along a direction `[hidden_size]` that was found elsewhere; its length and sign do not matter.
    ///
    /// # Errors
    /// As [`Self::fit`], and when both means lie at one place of the direction or it is of another width.
    pub fn fit_along(direction: &[f32], benign: &[&[f32]], harmful: &[&[f32]]) -> Result<Self> {
        let means = Means::of(benign, harmful)?;
        check_rows_of("direction's", &[direction], means.benign.len())?;
        means.along(&wide(direction), benign, harmful)
    }

    /// The same with another largest factor; [`Self::fitted`] stays that of the old one.
    ///
    /// # Errors
    /// [`Error::Spec`] when it is not a number above 0.
    pub fn with_max_factor(self, max_factor: f64) -> Result<Self> {
        Ok(Self { max_factor: check_max(max_factor)?, ..self })
    }
}

/// Mean activations, `[hidden_size]` each.
struct Means {
    benign: Vec<f64>,
    harmful: Vec<f64>,
}

impl Means {
    fn of(benign: &[&[f32]], harmful: &[&[f32]]) -> Result<Self> {
        let hidden_size = check_rows("benign", benign)?;
        check_rows("harmful", harmful)?;
        check_rows_of("harmful", harmful, hidden_size)?;
        Ok(Self { benign: mean(benign, hidden_size), harmful: mean(harmful, hidden_size) })
    }

    fn difference(&self) -> Vec<f64> {
        self.harmful.iter().zip(&self.benign).map(|(harmful, benign)| harmful - benign).collect()
    }

    fn along(
        &self,
        direction: &[f64],
        benign: &[&[f32]],
        harmful: &[&[f32]],
    ) -> Result<ProjectionStrength> {
        let difference = self.difference();
        let distance = dot(direction, &difference);
        // Below this the distance is what rounding left of two equal projections.
        let rounding =
            f64::EPSILON * (dot(direction, &self.benign).abs() + dot(direction, direction).sqrt());
        if distance.abs() <= rounding || !distance.is_finite() {
            return Err(Error::Data(
                "the means of benign and harmful activations lie at one place of the direction; take another \
                 direction, layer or data"
                    .to_owned(),
            ));
        }
        let weights: Vec<f64> = direction.iter().map(|value| value / distance).collect();
        let offset = -dot(&weights, &self.benign);
        let max_factor = DEFAULT_MAX_FACTOR;
        let fitted = Affine { weights: &weights, offset, max_factor }.figures(benign, harmful)?;
        Ok(ProjectionStrength { weights, offset, max_factor, fitted })
    }
}

fn mean(rows: &[&[f32]], hidden_size: usize) -> Vec<f64> {
    let mut sum = vec![0.0; hidden_size];
    for row in rows {
        sum.iter_mut().zip(*row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sum.into_iter().map(|value| value / rows.len() as f64).collect()
}

impl StrengthFactor for ProjectionStrength {
    fn score(&self, h: &[f32]) -> f64 {
        let Self { weights, offset, max_factor, .. } = self;
        Affine { weights, offset: *offset, max_factor: *max_factor }.score(h)
    }

    fn max_factor(&self) -> f64 {
        self.max_factor
    }

    fn hidden_size(&self) -> usize {
        self.weights.len()
    }
}
