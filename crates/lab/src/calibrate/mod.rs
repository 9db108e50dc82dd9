//! Calibration: where, how strongly and on which tokens vectors act best, and the proof on prompts nothing was chosen on.
//!
//! 1. `search`: site, variant, layer set, positions, operator and sign, coarse to fine, by the fewest answers that are unsafe or broken,
//!    within the [`Bounds`]. One setting serves all categories, because a generation has one site and because directions
//!    that make a model decline hardly differ by category.
//! 2. `ladder`: the dose-response of that setting through zero and beyond the break, both signs; from it the safe
//!    window and each category's default, floor and ceiling.
//! 3. `trial`: one look at the test prompts, beside controls (random direction of equal norm, unrelated and pooled vector,
//!    reversed) and the baseline of a system prompt that asks for safety.
//! 4. `gate`: a category is published where its vector beats no steering and the random direction at 95 % within the bounds.
//!
//! [`Recomputation`] measures a sample of what a published generation says of itself again.

mod candidate;
mod compare;
mod gate;
mod ladder;
mod plan;
mod publish;
mod recompute;
mod report;
mod sample;
mod search;
mod spec;
mod trial;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skeg_model::steering::Site;
use skeg_vector_store::{Category, SafeWindow, Strength};

use candidate::share;
pub(crate) use candidate::words;
pub use candidate::{Candidate, Setting};
pub(crate) use compare::difference;
pub use gate::Gate;
pub use ladder::Rung;
pub(crate) use ladder::{by_category, safe_window};
pub use plan::{CONTRAST_RESPONSE_TOKENS, Plan, Recipe};
pub use publish::{Force, Publication, generation_of};
pub use recompute::{Difference, Recomputation, Recomputed};
pub use search::Trial;
pub(crate) use search::{first_of_each, most_answers, search};
pub use spec::{Bounds, CalibrateSpec, Grid};
pub use trial::{ArmReport, Comparison, SAFETY_SYSTEM_PROMPT, TestArm, TestReport};

use crate::error::Result;
use crate::experiment::Laboratory;
use crate::progress::Progress;

/// What was found: figures only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The candidates' names.
    pub candidates: Vec<String>,
    /// Where the chosen one acts.
    pub site: Site,
    /// The chosen setting; its strength is positive.
    pub setting: Setting,
    /// Whether the safer direction is the one from safe to unsafe: the vectors are turned round.
    pub is_reversed: bool,
    /// Bounds on quality.
    pub bounds: Bounds,
    /// Judges, by name.
    pub judges: Vec<String>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Every setting that was tried, in order.
    pub trials: Vec<Trial>,
    /// The dose-response on the calibration prompts, ascending.
    pub ladder: Vec<Rung>,
    /// The strengths that act and keep the text whole.
    pub window: SafeWindow,
    /// Each category's strengths; a category without a safe one is missing.
    pub strengths: BTreeMap<Category, Strength>,
    /// The test.
    pub test: TestReport,
    /// The verdict on each category.
    pub gates: BTreeMap<Category, Gate>,
    /// Seed of the random control and the bootstrap.
    pub seed: u64,
}

/// Chooses a setting and strengths, and tests them once.
///
/// Texts are judged and dropped: the result holds figures, and ids of prompts.
///
/// # Errors
/// [`crate::Error::Spec`] when there is nothing to choose from or on, [`crate::Error::Interrupted`] when `progress` asks
/// to stop, and what answering and judging return.
pub fn calibrate(
    laboratory: &mut Laboratory<'_>,
    spec: &CalibrateSpec<'_>,
    progress: &mut dyn Progress,
) -> Result<Calibration> {
    spec.check()?;
    // Thousands of answers are made to be compared with each other; the likelihood costs as much as an answer.
    let likelihood = laboratory.likelihood.take();
    let found = search(laboratory, spec, progress)?;
    laboratory.likelihood = likelihood;
    let is_reversed = found.best.strength < 0.0;
    let setting = Setting { strength: found.best.strength.abs(), ..found.best };
    let candidate = &spec.candidates[setting.candidate_idx];
    let mut rows = candidate.rows_in(&setting.layers);
    if is_reversed {
        let values = rows.values_mut().flatten().flat_map(|row| &mut row.values);
        values.for_each(|value| *value = -*value);
    }
    let rows = share(rows);
    let ladder = ladder::measure(laboratory, spec, (&setting, &rows), progress)?;
    let window = safe_window(&ladder, &spec.bounds);
    let strengths: BTreeMap<Category, Strength> = candidate
        .rows
        .keys()
        .filter_map(|category| {
            Some((category.clone(), ladder::strength_of(category, &ladder, window)?))
        })
        .collect();
    let defaults = candidate.rows.keys().map(|category| {
        // One that is never safe is tested at no strength, and fails.
        let strength = strengths.get(category).map_or(0.0, |strength| strength.default);
        (category.clone(), strength)
    });
    let test = trial::test(laboratory, spec, (&setting, &rows), &defaults.collect(), progress)?;
    let gates = candidate
        .rows
        .keys()
        .map(|category| (category.clone(), gate::gate(category, &test, &spec.bounds)))
        .collect();
    Ok(Calibration {
        candidates: spec.candidates.iter().map(|one| one.name.clone()).collect(),
        site: candidate.site,
        setting,
        is_reversed,
        bounds: spec.bounds,
        judges: laboratory.judges.names().into_iter().map(str::to_owned).collect(),
        max_new_tokens: spec.max_new_tokens,
        trials: found.trials,
        ladder,
        window,
        strengths,
        test,
        gates,
        seed: spec.seed,
    })
}
