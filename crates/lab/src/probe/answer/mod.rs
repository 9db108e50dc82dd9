//! The part of a probe that looks at an answer while it is generated.
//!
//! An answer shows harm more plainly than a prompt does, and a prompt that was found harmless is not asked about again. So a probe
//! may have planes of its own for the rows of generated tokens, at the site and layers of its member on activations: the server's
//! gate then reads one such row every so many tokens. Answers are read ([`read_answers`]) by a gate in the engine that serves, so what
//! is trained on is, to the last bit, what is looked at later.

mod measure;
mod read;
mod train;

use serde::{Deserialize, Serialize};

use super::member::Planes;
use super::{Probe, Verdict};
use crate::error::{Error, Result};
use crate::logistic::{sigmoid, softmax};

pub use measure::{AnswerReport, AnswerRow, AnswerTable, Caught, Thresholds, measure_answers};
pub use read::{AnswerRows, AnswerSpec, ReadAnswer, read_answers};
pub use train::train_answers;

/// Planes over the row of an answer's last token, and what their logit of harm is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerPart {
    /// As wide as [`Probe::activation_input`]'s layers together.
    pub planes: Planes,
    /// Scale and bias: `P(harm) = sigmoid(scale * z + bias)` (Platt 1999), fitted to answers of sets that the planes did not see.
    pub calibration: [f32; 2],
    /// What it was trained on.
    pub trained_on: TrainedOnAnswers,
}

/// What an answer part was trained on, in figures; the prompts are of [`Probe::trained_on`]'s sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedOnAnswers {
    /// Tokens of an answer up to which it was read.
    pub num_tokens: usize,
    /// Tokens between two rows that were read.
    pub every: usize,
    /// Answers to harmful prompts that do not refuse, and answers to harmless prompts.
    pub num_answers: [usize; 2],
    /// Answers to harmful prompts that refuse, and were left out.
    pub num_refused: usize,
}

impl AnswerPart {
    /// Refuses a part that does not fit its probe.
    pub(super) fn check(&self, probe: &Probe) -> Result<()> {
        let num_planes = 1 + probe.categories.len();
        let expected = [num_planes * width_of(probe)?, num_planes];
        let found = [self.planes.weights.len(), self.planes.biases.len()];
        if found != expected {
            return Err(Error::Data(format!(
                "a probe whose answer part has {} weights and {} biases; expected {} and {}",
                found[0], found[1], expected[0], expected[1]
            )));
        }
        Ok(())
    }
}

/// Features of an answer's row: those of the member on activations.
pub(super) fn width_of(probe: &Probe) -> Result<usize> {
    let input = probe.activation_input().ok_or_else(|| {
        let reason = "an answer part reads where the member on activations does, and the probe has none; train it with one";
        Error::Spec(reason.to_owned())
    })?;
    Ok(input.layers.len() * input.hidden_size)
}

impl Probe {
    /// The verdict on an answer so far: `activations` is the row of its last token, at the site and layers that
    /// [`Self::activation_input`] names, `[num_layers * hidden_size]`, layer by layer. Takes microseconds.
    ///
    /// # Errors
    /// [`Error::Data`] when the probe has no answer part, or the row has another length.
    pub fn answer_verdict(&self, activations: &[f32]) -> Result<Verdict> {
        let part = self.answer.as_ref().ok_or_else(|| {
            Error::Data("the probe has no answer part; train it with --answers".to_owned())
        })?;
        let width = width_of(self)?;
        if activations.len() != width {
            let found = activations.len();
            return Err(Error::Data(format!(
                "the probe's answer part reads {width} activations and was given {found}; capture what it asks for"
            )));
        }
        let scores = part.planes.score(activations);
        let [scale, bias] = part.calibration.map(f64::from);
        let shares = self.categories.iter().cloned().zip(softmax(&scores.categories));
        Ok(Verdict::new(sigmoid(scale * scores.harm + bias), shares))
    }
}

#[cfg(test)]
mod tests;
