//! Which variant of the method a vector is made by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How inputs become a vector. The default is Eq. 1 of arXiv 2410.01174 over all activations.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variant {
    /// What is subtracted from what, where single differences are looked at.
    pub pairing: Pairing,
    /// Differences that count; `None` = all of them.
    pub pruning: Option<Pruning>,
    /// How differences become one vector.
    pub estimator: Estimator,
    /// Dimensions whose mean absolute activation is more than so many times the median dimension's are set to 0
    /// (massive activations, arXiv 2402.17762). `None` = no dimension is.
    pub mask_massive: Option<f32>,
    /// Only so many coordinates of the largest size are kept, after masking; `None` = all.
    pub top_k: Option<usize>,
}

/// What a difference is taken between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// The mean of the safe side minus each unsafe input: sides need not match.
    #[default]
    SafeMean,
    /// Safe input i minus unsafe input i; both sides have equally many.
    Matched,
}

/// Which differences are kept (section 3.2 of arXiv 2410.01174).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruning {
    /// What differences are ranked by, in each layer apart.
    pub criterion: PruneCriterion,
    /// Share of the differences that is kept, over 0 and up to 1. At 0.5 by norm: the paper's "above the median".
    pub keep: f32,
}

/// What differences are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneCriterion {
    /// Their L2 norm, the largest first: the paper's.
    #[default]
    Norm,
    /// Their cosine with the mean difference, the largest first.
    Agreement,
}

/// How differences become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Their mean (Eq. 1).
    #[default]
    DifferenceOfMeans,
    /// The direction along which their sum of squares is largest (first right singular vector of the differences,
    /// not centred: centring would take out what both sides differ in), with the mean difference's norm and sign.
    PrincipalComponent,
}

impl Variant {
    /// Whether running sums are enough; otherwise each input's activations are kept until the end.
    pub(crate) fn needs_sums_alone(&self) -> bool {
        self.pruning.is_none()
            && self.estimator == Estimator::DifferenceOfMeans
            && self.mask_massive.is_none()
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Spec`] naming the one that makes no sense.
    pub(crate) fn check(&self, hidden_size: Option<usize>) -> Result<()> {
        if let Some(pruning) = self.pruning.filter(|one| !(one.keep > 0.0 && one.keep <= 1.0)) {
            return Err(Error::Spec(format!(
                "a share of {} of the differences is kept; expected more than 0 and at most 1",
                pruning.keep
            )));
        }
        if let Some(ratio) = self.mask_massive.filter(|ratio| !(ratio.is_finite() && *ratio > 1.0))
        {
            return Err(Error::Spec(format!(
                "massive activations over {ratio} times the median are masked; expected more than 1"
            )));
        }
        let most = hidden_size.unwrap_or(usize::MAX);
        if let Some(top_k) = self.top_k.filter(|top_k| !(1..=most).contains(top_k)) {
            return Err(Error::Spec(format!(
                "the {top_k} largest coordinates are kept; expected 1 to the model's hidden size"
            )));
        }
        Ok(())
    }
}

/// In words, as it stands in manifests and tables.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.estimator {
            Estimator::DifferenceOfMeans => "difference_of_means",
            Estimator::PrincipalComponent => "principal_component",
        })?;
        if self.pairing == Pairing::Matched {
            f.write_str(", matched pairs")?;
        }
        if let Some(Pruning { criterion, keep }) = self.pruning {
            let criterion = match criterion {
                PruneCriterion::Norm => "norm",
                PruneCriterion::Agreement => "agreement",
            };
            write!(f, ", pruned to {keep} by {criterion}")?;
        }
        if let Some(ratio) = self.mask_massive {
            write!(f, ", dimensions over {ratio} medians masked")?;
        }
        if let Some(top_k) = self.top_k {
            write!(f, ", {top_k} largest coordinates")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_make_no_sense_are_named() {
        let pruned = |keep| Variant {
            pruning: Some(Pruning { criterion: PruneCriterion::Norm, keep }),
            ..Variant::default()
        };
        for (variant, expected) in [
            (pruned(0.0), "share of 0"),
            (pruned(f32::NAN), "share of NaN"),
            (pruned(1.1), "share of 1.1"),
            (Variant { mask_massive: Some(1.0), ..Variant::default() }, "over 1 times"),
            (Variant { top_k: Some(0), ..Variant::default() }, "the 0 largest"),
            (Variant { top_k: Some(65), ..Variant::default() }, "the 65 largest"),
        ] {
            let error = variant.check(Some(64)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        pruned(1.0).check(Some(64)).unwrap();
    }

    #[test]
    fn the_default_is_named_as_before() {
        assert_eq!(Variant::default().to_string(), "difference_of_means");
    }
}
