//! What a head reads of an answer: which texts are embedded, and how embeddings become a row of features.

use serde::{Deserialize, Serialize};

use super::cache::Embed;
use super::{Exchange, Property};
use crate::error::Result;
use crate::evaluate::{REFUSAL_WINDOW_CHARS, is_refusal};
use crate::progress::NoProgress;

/// The features of a head; `e` is the embedder's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// The embedding of the answer's first 300 characters, `[e]`.
    Opening,
    /// The same, and 1 or 0 for the verdict of the refusal phrases, `[e + 1]`.
    OpeningAndPhrases,
    /// The embedding of the answer, and 1 or 0 for the verdict of the refusal phrases, `[e + 1]`. Chosen among twenty by leaving
    /// each of four labelled sets out of training in turn: mean AUC 0.75 on the set left out, 0.72 with
    /// [`Self::PromptAndResponse`].
    ResponseAndPhrases,
    /// Prompt, answer, and their product by element, `[3 e]`.
    PromptAndResponse,
}

impl Features {
    /// Numbers in a row, for an embedder of that width.
    #[must_use]
    pub fn width(self, embedder_width: usize) -> usize {
        match self {
            Self::Opening => embedder_width,
            Self::OpeningAndPhrases | Self::ResponseAndPhrases => embedder_width + 1,
            Self::PromptAndResponse => 3 * embedder_width,
        }
    }

    /// What a head on these features judges.
    #[must_use]
    pub fn property(self) -> Property {
        match self {
            Self::Opening | Self::OpeningAndPhrases => Property::Refusal,
            Self::ResponseAndPhrases | Self::PromptAndResponse => Property::Harm,
        }
    }

    /// The texts whose embeddings are read.
    pub(super) fn texts<'a>(self, answers: &[Exchange<'a>]) -> Vec<&'a str> {
        match self {
            Self::Opening | Self::OpeningAndPhrases => {
                answers.iter().map(|answer| opening(answer.response)).collect()
            }
            Self::ResponseAndPhrases => answers.iter().map(|answer| answer.response).collect(),
            Self::PromptAndResponse => {
                answers.iter().flat_map(|answer| [answer.prompt, answer.response]).collect()
            }
        }
    }

    /// One row an answer.
    ///
    /// # Errors
    /// What the embedder returns.
    pub fn rows(self, answers: &[Exchange<'_>], embedder: &dyn Embed) -> Result<FeatureRows> {
        let width = self.width(embedder.width());
        let embeddings = embedder.embed(&self.texts(answers), &mut NoProgress)?;
        let mut values = Vec::with_capacity(answers.len() * width);
        match self {
            Self::Opening => embeddings.iter().for_each(|one| values.extend_from_slice(one)),
            Self::OpeningAndPhrases | Self::ResponseAndPhrases => {
                for (embedding, answer) in embeddings.iter().zip(answers) {
                    values.extend_from_slice(embedding);
                    values.push(if is_refusal(answer.response) { 1.0 } else { 0.0 });
                }
            }
            Self::PromptAndResponse => {
                for pair in embeddings.chunks_exact(2) {
                    let [prompt, response] = [&pair[0], &pair[1]];
                    values.extend_from_slice(prompt);
                    values.extend_from_slice(response);
                    values.extend(prompt.iter().zip(response.iter()).map(|(a, b)| a * b));
                }
            }
        }
        Ok(FeatureRows { values, width })
    }
}

/// The window that the refusal phrases read: a refusal comes first or not at all.
fn opening(response: &str) -> &str {
    let response = response.trim_start();
    let end = response.char_indices().nth(REFUSAL_WINDOW_CHARS);
    end.map_or(response, |(end, _)| &response[..end])
}

/// Features of many answers, `[n, width]`, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRows {
    values: Vec<f32>,
    width: usize,
}

impl FeatureRows {
    /// Rows from their numbers, `width` at a time; what is left over is dropped.
    #[must_use]
    pub fn new(mut values: Vec<f32>, width: usize) -> Self {
        values.truncate(values.len() / width.max(1) * width);
        Self { values, width }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Some of the rows, in this order.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub(crate) fn select(&self, row_idxs: &[usize]) -> Self {
        let rows = row_idxs.iter().flat_map(|&idx| self.row(idx));
        Self { values: rows.copied().collect(), width: self.width }
    }

    /// One row.
    ///
    /// # Panics
    /// When there is no such row.
    pub(crate) fn row(&self, idx: usize) -> &[f32] {
        &self.values[idx * self.width..][..self.width]
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::testing::Letters;
    use super::*;

    #[test]
    fn rows_have_the_width_and_the_parts_that_are_documented() {
        let answers = [
            Exchange { prompt: "aab", response: "  I can't help" },
            Exchange { prompt: "b", response: "bb" },
        ];
        let letters = Letters::default();
        for (features, width) in [
            (Features::Opening, 26),
            (Features::OpeningAndPhrases, 27),
            (Features::ResponseAndPhrases, 27),
            (Features::PromptAndResponse, 78),
        ] {
            let rows = features.rows(&answers, &letters).unwrap();
            assert_eq!((rows.len(), rows.width(), features.width(26)), (2, width, width));
        }
        let stacked = Features::OpeningAndPhrases.rows(&answers, &letters).unwrap();
        let verdicts: Vec<f32> = stacked.iter().map(|row| row[26]).collect();
        assert_eq!(verdicts, [1.0, 0.0]);
        let harm = Features::PromptAndResponse.rows(&answers, &letters).unwrap();
        let second = harm.iter().nth(1).unwrap();
        for idx in [1, 26 + 1, 52 + 1] {
            assert!((second[idx] - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn an_opening_is_300_characters_not_bytes() {
        let answer = format!("\n {}", "é".repeat(400));
        assert_eq!(opening(&answer).chars().count(), REFUSAL_WINDOW_CHARS);
        assert_eq!(opening("short"), "short");
    }
}
