//! The gate's classifier: is a conversation harmful, and of which category.
//!
//! A [`Probe`] is a few linear members and a [`Stack`] over their scores. A member reads the serving model's own activations on the
//! prompt ([`Input::Activations`]: no second model, no second pass), hashed [`NGrams`] of the text, or a sentence embedding. It
//! is kept in a generation as `probe.safetensors`, so that thresholds, vectors and probe change together.
//!
//! Scoring has two halves, because they happen in two places: [`Probe::text_scores`] before the engine has the request, and
//! [`Probe::verdict`] on the engine's thread, as soon as the prompt's last row is computed.

mod activation;
mod answer;
mod apply;
mod augment;
mod card;
mod corpus;
mod endpoint;
mod evasion;
mod file;
mod left_out;
pub mod measure;
mod member;
mod ngrams;
mod row_cache;
mod rows;
mod seen;
mod style;
mod subspace;
mod text;
mod train;
mod tune;
mod verdict;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use skeg_model::engine::PromptActivations;
use skeg_vector_store::Category;

use crate::error::{Error, Result};

pub use activation::ActivationInput;
pub use answer::{
    AnswerPart, AnswerReport, AnswerRow, AnswerRows, AnswerSpec, AnswerTable, Caught, ReadAnswer,
    Thresholds, TrainedOnAnswers, measure_answers, read_answers, train_answers,
};
pub use apply::verdicts;
pub use augment::{Augmentation, augment};
pub use corpus::{Corpus, Prompt, SourceSet};
pub use endpoint::{ClassifierOptions, ClassifierShape, EndpointClassifier};
pub use evasion::{Evasion, evade};
pub use member::{Input, Member, Planes, PromptRow};
pub use ngrams::NGrams;
pub use row_cache::{KeptEmbedder, RowCache};
pub use rows::{Reads, Sources};
pub use seen::{SeenFile, SharedTexts, seen_files, shared_texts};
pub use style::{StyleCheck, style_check};
pub use text::TextScores;
pub use train::{HeldOut, Penalties, ProbeSpec, Trained, train};
pub use tune::{
    EmbedderTraining, Heads, TuneReport, TuneSpec, TunedEmbedder, refuse_existing, tune, unseen,
};
pub use verdict::{Scores, Stack, Verdict};

/// A classifier of conversations: its members, and how their scores become one verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// The categories it knows, each once; what is in none of them is `none`.
    pub categories: Vec<Category>,
    /// At least one; at most one reads each kind of row of the activations.
    pub members: Vec<Member>,
    /// How their scores are put together.
    pub stack: Stack,
    /// What it was trained on.
    pub trained_on: TrainedOn,
    /// What looks at answers, if it was trained to.
    pub answer: Option<AnswerPart>,
}

/// What a probe was trained on: figures and hashes, no text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedOn {
    /// The sets, in the order given.
    pub sets: Vec<TrainingSource>,
}

/// One set that a probe was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSource {
    /// Its name.
    pub name: String,
    /// Lower-case hex SHA-256 of each of its files.
    pub sha256: Vec<String>,
    /// Harmful and harmless prompts of it that were used.
    pub num_prompts: [usize; 2],
    /// Disguised copies of them that were used as well; files of earlier builds do not say, and have none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub num_augmented: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Probe {
    /// The id of the embedder that it needs, if it needs one.
    #[must_use]
    pub fn embedder(&self) -> Option<&str> {
        self.members.iter().find_map(|member| match &member.input {
            Input::Embedding { embedder, .. } => Some(embedder.as_str()),
            Input::Activations { .. } | Input::NGrams(_) => None,
        })
    }

    /// The verdict of a conversation: `text` is what [`Self::text_scores`] gave, `activations` what [`Self::activation_input`] asks
    /// for, layer by layer. Takes microseconds.
    ///
    /// # Errors
    /// [`Error::Data`] when a row is missing or has another length, or the text scores are not this probe's.
    pub fn verdict(
        &self,
        text: &TextScores,
        activations: Option<PromptActivations<'_>>,
    ) -> Result<Verdict> {
        let asked = self.activation_input();
        let given = activations.unwrap_or_default();
        let members = self.members.iter().enumerate();
        let scores = members.map(|(idx, member)| match (&member.input, &asked) {
            (Input::Activations { layers, row, .. }, Some(asked)) => {
                Ok(member.planes.score(&asked.pick(*row, layers, given)?))
            }
            _ => text.of_member(idx).cloned(),
        });
        let scores = scores.collect::<Result<Vec<Scores>>>()?;
        Ok(self.stack.verdict(&scores, &self.categories))
    }

    /// Refuses a probe whose parts do not fit each other.
    fn check(&self) -> Result<()> {
        let wrong = |reason: String| Err(Error::Data(format!("a probe {reason}")));
        let num_planes = 1 + self.categories.len();
        let num_members = self.members.len();
        if num_members == 0 {
            return wrong("without a member; expected at least one".to_owned());
        }
        if self.categories.iter().collect::<BTreeSet<_>>().len() < self.categories.len() {
            return wrong("with a category twice; expected each once".to_owned());
        }
        activation::check(self.members.iter().map(|member| &member.input))?;
        if self.stack.harm.len() != num_members || self.stack.categories.len() != num_members {
            return wrong(format!("of {num_members} members, with a stack of another size"));
        }
        for (idx, Member { input, planes }) in self.members.iter().enumerate() {
            input.check()?;
            let expected = [num_planes * input.width(), num_planes];
            let found = [planes.weights.len(), planes.biases.len()];
            if found != expected {
                return wrong(format!(
                    "whose member {idx} has {} weights and {} biases; expected {} and {}",
                    found[0], found[1], expected[0], expected[1]
                ));
            }
        }
        self.answer.as_ref().map_or(Ok(()), |part| part.check(self))
    }
}

#[cfg(test)]
mod tests;
