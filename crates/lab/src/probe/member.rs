//! One classifier of a probe: what it reads, and its planes.

use serde::{Deserialize, Serialize};
use skeg_model::steering::Site;

use super::ngrams::NGrams;
use super::verdict::Scores;
use crate::error::{Error, Result};
use crate::exchange::shortened;
use crate::logistic::Plane;
use crate::numbers::to_f32;

/// Which row of a prompt's activations is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptRow {
    /// Row P-1, which yields the first token of the answer.
    Last,
    /// The mean of all rows, but for those of the tokens with which every prompt begins.
    Mean,
}

/// What a member reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Input {
    /// The model's own activations on the rendered prompt: no second model and no second pass.
    Activations {
        /// Where in a block.
        site: Site,
        /// Blocks from 0, ascending; a feature row is theirs one after the other, `[num_layers * hidden_size]`.
        layers: Vec<usize>,
        /// Numbers of one layer's row.
        hidden_size: usize,
        /// Which row of the prompt.
        row: PromptRow,
        /// Of the mean: the ids that every rendered prompt begins with. Their rows do not count where a prompt begins with exactly
        /// these; where it begins otherwise, as with a system message of its own, all rows count.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        prefix_token_ids: Vec<u32>,
    },
    /// The conversation's text, as hashed n-grams.
    NGrams(NGrams),
    /// The conversation's text, as a sentence embedding.
    Embedding {
        /// [`crate::judge::Embed::id`] of the embedder it was trained with.
        embedder: String,
        /// Numbers in an embedding.
        width: usize,
    },
}

impl Input {
    /// Features a row.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Activations { layers, hidden_size, .. } => layers.len() * hidden_size,
            Self::NGrams(ngrams) => ngrams.width(),
            Self::Embedding { width, .. } => *width,
        }
    }

    /// Refuses what no row can have.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::NGrams(ngrams) => ngrams.check(),
            Self::Activations { layers, .. }
                if layers.is_empty() || !layers.is_sorted_by(|a, b| a < b) =>
            {
                let found = shortened(layers);
                Err(Error::Spec(format!(
                    "a probe on layers {found}; expected at least one, ascending, each once"
                )))
            }
            Self::Activations { row: PromptRow::Last, prefix_token_ids, .. }
                if !prefix_token_ids.is_empty() =>
            {
                Err(Error::Spec(
                    "a probe on the last row, with tokens whose rows do not count; expected them of the mean alone"
                        .to_owned(),
                ))
            }
            Self::Activations { layers, hidden_size, .. } => {
                check_width(layers.len().checked_mul(*hidden_size))
            }
            Self::Embedding { width, .. } => check_width(Some(*width)),
        }
    }
}

/// Refuses a row without numbers, which would give planes no scores, and one of more numbers than can be counted (`None`).
fn check_width(width: Option<usize>) -> Result<()> {
    match width {
        Some(1..) => Ok(()),
        Some(0) => Err(Error::Spec(
            "a probe on rows of no numbers; expected at least one".to_owned(),
        )),
        None => Err(Error::Spec(
            "a probe whose layers have more numbers together than can be counted; expected a model's hidden size"
                .to_owned(),
        )),
    }
}

/// One plane a question over the same features, f32 as they are stored: `logit = weights.x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Planes {
    /// `[1 + num_categories, width]`, row-major: harm first, then the categories.
    pub(super) weights: Vec<f32>,
    /// `[1 + num_categories]`.
    pub(super) biases: Vec<f32>,
}

impl Planes {
    /// `weights` `[1 + num_categories, width]`, row-major, and `biases` `[1 + num_categories]`: harm first, then the categories.
    #[must_use]
    pub fn new(weights: Vec<f32>, biases: Vec<f32>) -> Self {
        Self { weights, biases }
    }

    /// Harm first, then one a category; all of one width.
    pub(super) fn of(harm: &Plane, categories: &[Plane]) -> Self {
        let all = std::iter::once(harm).chain(categories);
        Self {
            weights: all
                .clone()
                .flat_map(|plane| plane.weights.iter().map(|&w| to_f32(w)))
                .collect(),
            biases: all.map(|plane| to_f32(plane.bias)).collect(),
        }
    }

    fn width(&self) -> usize {
        self.weights.len() / self.biases.len().max(1)
    }

    /// Scores of a dense row `[width]`.
    pub(super) fn score(&self, row: &[f32]) -> Scores {
        self.scores(|weights| {
            weights.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        })
    }

    /// Scores of a sparse row of (index, value), each index below the width.
    pub(super) fn score_sparse(&self, row: &[(u32, f32)]) -> Scores {
        self.scores(|weights| {
            row.iter().map(|&(idx, x)| f64::from(weights[idx as usize]) * f64::from(x)).sum()
        })
    }

    fn scores(&self, dot: impl Fn(&[f32]) -> f64) -> Scores {
        let planes = self.weights.chunks_exact(self.width().max(1)).zip(&self.biases);
        let mut logits = planes.map(|(weights, bias)| dot(weights) + f64::from(*bias));
        let harm = logits.next().unwrap_or_default();
        Scores { harm, categories: logits.collect() }
    }
}

/// What a member reads, and what it makes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What it reads.
    pub input: Input,
    /// Its planes, `width` of the input wide.
    pub planes: Planes,
}
