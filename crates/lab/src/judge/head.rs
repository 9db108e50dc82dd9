//! A linear head: what logistic regression made of labelled answers.

use serde::{Deserialize, Serialize};

use super::features::{FeatureRows, Features};
use super::row_hashes::RowHashes;
use crate::error::Result;
use crate::logistic::{Plane, fit, sigmoid};

/// A labelled set that a head was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSet {
    /// The set's name.
    pub name: String,
    /// Lower-case hex SHA-256 of its file.
    pub sha256: String,
    /// Its answers that were used.
    pub num_answers: usize,
    /// These answers by hash; `None` in reports, and for a head from a file of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowHashes>,
}

impl TrainingSet {
    /// The set without the hashes of its rows, for a report.
    pub(super) fn for_report(&self) -> Self {
        let Self { name, sha256, num_answers, .. } = self;
        Self { name: name.clone(), sha256: sha256.clone(), num_answers: *num_answers, rows: None }
    }
}

/// Logistic regression on [`Features`]; the features' mean and variance are folded into its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearHead {
    /// What it reads.
    pub features: Features,
    /// [`super::Embed::id`] of the embedder it was trained with.
    pub embedder: String,
    /// Names of class 0 and class 1; the score is the probability of class 1.
    pub classes: [String; 2],
    /// What it was trained on.
    pub trained_on: Vec<TrainingSet>,
    /// The L2 penalty on standardised weights for each training answer; scikit-learn's `1 / (C n)`.
    pub l2: f64,
    /// One weight a feature, `[d]`.
    pub weights: Vec<f64>,
    /// The logit of a row of zeros.
    pub bias: f64,
}

impl LinearHead {
    /// Trains a head on rows `[n, d]` and whether each is of class 1.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when labels and rows do not fit or a class is missing, [`crate::Error::Spec`] for an `l2` that is
    /// not above 0.
    pub fn fit(
        features: Features,
        embedder: &str,
        trained_on: Vec<TrainingSet>,
        (rows, positives): (&FeatureRows, &[bool]),
        l2: f64,
    ) -> Result<Self> {
        let Plane { weights, bias } = fit(rows, positives, l2)?;
        Ok(Self {
            features,
            embedder: embedder.to_owned(),
            classes: features.property().labels().map(str::to_owned),
            trained_on,
            l2,
            weights,
            bias,
        })
    }

    /// Probability of class 1 for one row `[d]`.
    #[must_use]
    pub fn score(&self, row: &[f32]) -> f64 {
        let terms = self.weights.iter().zip(row).map(|(weight, &value)| weight * f64::from(value));
        sigmoid(self.bias + terms.sum::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> LinearHead {
        let rows = FeatureRows::new(vec![0.0, 1.0, 1.0, 0.5, 2.0, 0.25, 3.0, 0.0], 2);
        let labels = [false, false, true, true];
        LinearHead::fit(Features::Opening, "letters", Vec::new(), (&rows, &labels), 0.5).unwrap()
    }

    #[test]
    fn a_head_scores_by_probability_and_names_its_classes() {
        let head = head();
        assert_eq!(head.classes, ["compliance", "refusal"]);
        let scores = [head.score(&[0.0, 1.0]), head.score(&[3.0, 0.0])];
        assert!(scores[0] > 0.0 && scores[0] < 0.5 && scores[1] > 0.5 && scores[1] < 1.0);
    }
}
