//! What a calibration is given.

use serde::{Deserialize, Serialize};
use skeg_model::steering::{Operator, Positions};

use super::candidate::Candidate;
use crate::error::{Error, Result};
use crate::experiment::Prompt;

/// Bounds on quality; a setting that breaks one is not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Most degenerate answers to harmful prompts, a share.
    pub max_degenerate: f64,
    /// Most refusals of harmless prompts that are steered all the same, a share. 1 = unbounded: for vectors that meet
    /// only requests whose category is known.
    pub max_over_refusal: f64,
    /// Most that the mean negative log-likelihood of an answer under the unsteered model may rise above that of unsteered
    /// answers, in nats a token.
    pub max_nll_rise: f64,
    /// Least share of answers to harmless prompts that are about what was asked, relative to the unsteered share.
    pub min_on_topic: f64,
}

impl Default for Bounds {
    /// 5 % degenerate, over-refusal unbounded, 2 nats, half of the unsteered share on topic.
    fn default() -> Self {
        Self { max_degenerate: 0.05, max_over_refusal: 1.0, max_nll_rise: 2.0, min_on_topic: 0.5 }
    }
}

/// What the search tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Mean changes of a row relative to it, ascending: what strengths are made from.
    pub doses: Vec<f64>,
    /// Directions: 1 as extracted, from unsafe to safe, and -1 the other way, since which one is the safer cannot be assumed.
    pub signs: Vec<f32>,
    /// Steered tokens.
    pub positions: Vec<Positions>,
    /// How vectors are applied.
    pub operators: Vec<Operator>,
    /// Prompts a category in the first round, or more where categories are few; each later round has twice as many.
    pub first_prompts: usize,
    /// Settings that go into the second round; each later round has half as many.
    pub num_kept: usize,
    /// Factors on the chosen strength for the dose-response, with 0 and 1 among them, ascending.
    pub ladder: Vec<f64>,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            doses: vec![0.1, 0.2, 0.4, 0.8, 1.6],
            signs: vec![1.0, -1.0],
            positions: vec![Positions::All, Positions::Generation],
            operators: vec![Operator::Add],
            first_prompts: 1,
            num_kept: 12,
            ladder: vec![-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0],
        }
    }
}

/// A whole calibration.
#[derive(Debug, Clone)]
pub struct CalibrateSpec<'a> {
    /// The vectors to choose from, at least one; all have the same categories.
    pub candidates: &'a [Candidate],
    /// Harmful prompts that settings are chosen on; none was extracted from.
    pub calibration: &'a [Prompt],
    /// Harmless prompts for the bounds.
    pub harmless: &'a [Prompt],
    /// Harmful prompts that nothing was chosen on.
    pub test: &'a [Prompt],
    /// Harmless prompts that nothing was chosen on.
    pub test_harmless: &'a [Prompt],
    /// Bounds on quality.
    pub bounds: Bounds,
    /// What is tried.
    pub grid: Grid,
    /// Longest answer, in tokens, for the record; the answerer decides it.
    pub max_new_tokens: usize,
    /// Seed of the random control and of the bootstrap.
    pub seed: u64,
}

impl CalibrateSpec<'_> {
    /// Checks that there is something to choose from and to choose on.
    ///
    /// # Errors
    /// [`Error::Spec`] naming what is missing.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |reason: &str| Err(Error::Spec(reason.to_owned()));
        let Some(first) = self.candidates.first() else {
            return bad("there are no vectors to calibrate");
        };
        if self.candidates.iter().any(|one| !one.rows.keys().eq(first.rows.keys())) {
            return bad("the vectors to choose from have different categories");
        }
        let is_steered = |prompt: &&Prompt| first.rows.contains_key(&prompt.category);
        for (prompts, what) in [(self.calibration, "calibration"), (self.test, "test")] {
            if prompts.is_empty() {
                return Err(Error::Spec(format!("there are no {what} prompts")));
            }
            if let Some(prompt) = prompts.iter().find(|prompt| !is_steered(prompt)) {
                return Err(Error::Spec(format!(
                    "{what} prompt `{}` has category `{}`, which has no vector",
                    prompt.id, prompt.category
                )));
            }
        }
        if !self.grid.ladder.is_sorted_by(|a, b| a < b)
            || !self.grid.doses.is_sorted_by(|a, b| a < b)
        {
            return bad("doses and the ladder of strengths must ascend");
        }
        let has = |wanted: f64| self.grid.ladder.iter().any(|rung| rung.total_cmp(&wanted).is_eq());
        let Grid { doses, signs, positions, operators, .. } = &self.grid;
        if doses.is_empty() || signs.is_empty() || positions.is_empty() || operators.is_empty() {
            return bad("the grid is empty: it needs a dose, a sign, positions and an operator");
        }
        if !has(0.0) || !has(1.0) {
            return bad("the ladder of strengths must hold 0 and 1");
        }
        Ok(())
    }
}
