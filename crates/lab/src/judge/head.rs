//! A linear head: what logistic regression made of labelled answers, and its file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::features::{FeatureRows, Features};
use super::logistic::{Plane, fit, sigmoid};
use crate::error::{Error, Result};

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
    /// [`Error::Data`] when labels and rows do not fit or a class is missing, [`Error::Spec`] for an `l2` that is not
    /// above 0.
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

/// The form of a file of heads.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadFile {
    format_version: u32,
    heads: Vec<LinearHead>,
}

const FORMAT_VERSION: u32 = 1;

/// Writes heads to a JSON file: weights and figures, no text they were trained on.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn save_heads(path: &Path, heads: &[LinearHead]) -> Result<()> {
    let io_error = |source| Error::Io { path: path.to_owned(), source };
    let file = HeadFile { format_version: FORMAT_VERSION, heads: heads.to_vec() };
    let json = serde_json::to_string(&file).map_err(|error| io_error(error.into()))?;
    std::fs::write(path, json + "\n").map_err(io_error)
}

/// Reads heads that [`save_heads`] wrote.
///
/// # Errors
/// [`Error::Io`], or [`Error::Data`] when it is no such file, of another version, or a head holds a number that is not
/// finite.
pub fn load_heads(path: &Path) -> Result<Vec<LinearHead>> {
    let bad = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let file: HeadFile = serde_json::from_str(&text)
        .map_err(|error| bad(format!("{error}; expected heads as `--save` writes them")))?;
    if file.format_version != FORMAT_VERSION {
        return Err(bad(format!(
            "format_version is {}; this build reads {FORMAT_VERSION}",
            file.format_version
        )));
    }
    let is_finite = |head: &LinearHead| head.weights.iter().all(|weight| weight.is_finite());
    match file.heads.iter().position(|head| !is_finite(head) || !head.bias.is_finite()) {
        Some(idx) => Err(bad(format!("head {idx} holds a weight that is not a finite number"))),
        None => Ok(file.heads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> LinearHead {
        let rows = FeatureRows::new(vec![0.0, 1.0, 1.0, 0.5, 2.0, 0.25, 3.0, 0.0], 2);
        let set = TrainingSet { name: "own".to_owned(), sha256: "ab".repeat(32), num_answers: 4 };
        let labels = [false, false, true, true];
        LinearHead::fit(Features::Opening, "letters", vec![set], (&rows, &labels), 0.5).unwrap()
    }

    #[test]
    fn a_head_scores_by_probability_and_names_its_classes() {
        let head = head();
        assert_eq!(head.classes, ["compliance", "refusal"]);
        let scores = [head.score(&[0.0, 1.0]), head.score(&[3.0, 0.0])];
        assert!(scores[0] > 0.0 && scores[0] < 0.5 && scores[1] > 0.5 && scores[1] < 1.0);
    }

    #[test]
    fn heads_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heads.json");
        save_heads(&path, &[head()]).unwrap();
        let read = load_heads(&path).unwrap();
        assert_eq!(read[0].trained_on, head().trained_on);
        assert!((read[0].score(&[2.0, 0.1]) - head().score(&[2.0, 0.1])).abs() < 1e-12);
    }

    #[test]
    fn a_file_that_is_no_file_of_heads_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heads.json");
        for (text, expected) in [
            ("[]", "expected heads as `--save` writes them"),
            ("{\"format_version\": 2, \"heads\": []}", "format_version is 2; this build reads 1"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = load_heads(&path).unwrap_err().to_string();
            assert!(error.contains("heads.json: ") && error.contains(expected), "{error}");
        }
        assert!(matches!(load_heads(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
