//! Questions, answers, and whoever answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skeg_model::steering::{LayerVector, Operator, Positions, Site};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// One vector as it is applied.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedVector {
    /// Where.
    pub site: Site,
    /// How.
    pub operator: Operator,
    /// On which tokens.
    pub positions: Positions,
    /// Signed factor.
    pub strength: f32,
    /// The rows, one a layer; shared between vectors that differ in strength alone.
    pub layers: Arc<Vec<LayerVector>>,
}

/// One prompt to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Names the question in errors.
    pub id: String,
    /// The system message before the prompt; `None` = the template's own, if it has one.
    pub system: Option<String>,
    /// The prompt as a user writes it.
    pub prompt: String,
    /// Index into the vectors handed over beside the questions; `None` = not steered.
    pub vector_idx: Option<usize>,
    /// This prompt's factor on the vector's strength: 1, or what a condition makes of the prompt.
    pub factor: f32,
}

impl Question {
    /// A prompt without a system message, not steered.
    #[must_use]
    pub fn new(id: impl Into<String>, prompt: impl Into<String>) -> Self {
        let (id, prompt) = (id.into(), prompt.into());
        Self { id, system: None, prompt, vector_idx: None, factor: 1.0 }
    }

    /// Its vector among those handed over beside it; `None` = not steered.
    ///
    /// # Errors
    /// [`Error::Spec`] when the vector it names is not among them: what is due to be steered is not answered unsteered.
    pub(super) fn vector<'a>(
        &self,
        vectors: &'a [AppliedVector],
    ) -> Result<Option<&'a AppliedVector>> {
        let Some(idx) = self.vector_idx else { return Ok(None) };
        let missing = || {
            let (id, count) = (&self.id, vectors.len());
            Error::Spec(format!("question `{id}` names vector {idx} of {count}, counted from 0"))
        };
        vectors.get(idx).map(Some).ok_or_else(missing)
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The text, without special tokens.
    pub text: String,
    /// The tokens, the stop token included where there is one.
    pub token_ids: Vec<u32>,
    /// Largest `||strength * v|| / ||h||` over steered rows and layers, where it is measured.
    pub max_relative_norm: Option<f32>,
}

/// Whatever answers questions: the engine, or a script in tests.
pub trait Answerer {
    /// Answers every question, in order.
    ///
    /// # Errors
    /// [`Error::Unanswered`] for the first question that is given up, [`Error::Interrupted`] when
    /// `progress` asks to stop.
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>>;

    /// The same, and hands each answer over with its question's index as it is complete, in any order.
    ///
    /// # Errors
    /// As [`Self::answer`], and what `on_answer` returns.
    fn answer_each(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        on_answer: &mut dyn FnMut(usize, Answer) -> Result<()>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let answers = self.answer(questions, vectors, progress)?;
        answers.into_iter().enumerate().try_for_each(|(idx, answer)| on_answer(idx, answer))
    }
}
