//! Judges by rule: refusal phrases, and the repetition measure.

use super::{Exchange, Judge, Property, Verdict};
use crate::error::Result;
use crate::evaluate::{is_degenerate, is_refusal};

/// Refusals by phrases in the first 300 characters, [`is_refusal`].
#[derive(Debug, Clone, Copy, Default)]
pub struct PhraseJudge;

impl Judge for PhraseJudge {
    fn name(&self) -> &str {
        "refusal phrases"
    }

    fn property(&self) -> Property {
        Property::Refusal
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        Ok(answers.iter().map(|answer| Verdict::of_rule(is_refusal(answer.response))).collect())
    }
}

/// Broken texts by the repetition measure, [`is_degenerate`].
#[derive(Debug, Clone, Copy, Default)]
pub struct DegenerateJudge;

impl Judge for DegenerateJudge {
    fn name(&self) -> &str {
        "repetition measure"
    }

    fn property(&self) -> Property {
        Property::Degenerate
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        Ok(answers.iter().map(|answer| Verdict::of_rule(is_degenerate(answer.response))).collect())
    }
}
