//! How the paper's rows are tuned, and what a study costs.

use skeg_model::steering::Positions;

use super::dose::most_answers as most_of_dose;
use super::spec::{Method, PromptSet, StudySpec};
use crate::calibrate::{Bounds, CalibrateSpec, Grid, most_answers};
use crate::experiment::Prompt;

/// Answers and tokens that a study makes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Answers.
    pub num_answers: usize,
    /// Their tokens, if each is as long as it may be.
    pub num_tokens: usize,
}

/// Rows that the calibrated vectors give at most, controls among them.
const NUM_CHOSEN: usize = 5;

/// What a study will cost at most, before it starts.
#[must_use]
pub fn budget(spec: &StudySpec<'_>) -> Budget {
    let count = |sets: &[PromptSet]| sets.iter().map(|set| set.prompts.len()).sum::<usize>();
    let each = count(spec.harmful) + count(spec.harmless) + spec.constraints.len();
    let num_chosen = if spec.chosen.is_some() { NUM_CHOSEN } else { 0 };
    let num_arms = 2 + 2 * spec.methods.len() + num_chosen + spec.more_arms.len();
    let tuning = spec.methods.iter().map(|method| {
        let prompts = prompts_of(spec, method);
        most_answers(&tuning(spec, method, &prompts))
    });
    let num_answers = num_arms * each + tuning.sum::<usize>() + most_of_dose(spec);
    Budget { num_answers, num_tokens: num_answers * spec.max_new_tokens }
}

/// The search that tunes a row of the paper: in the paper's direction, at every token.
fn tuning_grid() -> Grid {
    Grid {
        doses: vec![0.1, 0.2, 0.4, 0.8, 1.6],
        signs: vec![1.0],
        positions: vec![Positions::All],
        num_kept: 4,
        ..Grid::default()
    }
}

/// The tuning prompts that a method has a vector for.
pub(super) fn prompts_of(spec: &StudySpec<'_>, method: &Method) -> Vec<Prompt> {
    let is_steered = |prompt: &&Prompt| method.candidate.rows.contains_key(&prompt.category);
    spec.tuning.iter().filter(is_steered).cloned().collect()
}

/// The search for a method's best setting on `prompts`.
pub(super) fn tuning<'a>(
    spec: &StudySpec<'_>,
    method: &'a Method,
    prompts: &'a [Prompt],
) -> CalibrateSpec<'a> {
    CalibrateSpec {
        candidates: std::slice::from_ref(&method.candidate),
        calibration: prompts,
        harmless: &[],
        test: prompts,
        test_harmless: &[],
        bounds: Bounds::default(),
        grid: tuning_grid(),
        max_new_tokens: spec.max_new_tokens,
        seed: spec.seed,
    }
}
