//! Calibration: where, how strongly and on which tokens vectors act best, and the proof on prompts nothing was chosen on.
//!
//! 1. `search`: site, variant, layer set, positions, operator and sign, coarse to fine, by the fewest answers that are unsafe or broken,
//!    within the [`Bounds`]. One setting serves all categories at first, because a generation has one site and because
//!    directions that make a model decline hardly differ by category. Then `own`: a category that clearly does better with
//!    other layers or tokens of the same vectors gets them.
//! 2. `ladder`: the dose-response of what was chosen through zero and beyond the break, both signs; from it the safe
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
mod own;
mod plan;
mod publish;
mod recompute;
mod report;
mod sample;
mod search;
mod spec;
mod steering;
mod trial;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use skeg_model::steering::Site;
use skeg_vector_store::{Category, SafeWindow, Strength};

pub(crate) use candidate::words;
pub use candidate::{Candidate, Setting};
pub(crate) use compare::difference;
pub use gate::Gate;
pub use ladder::Rung;
pub(crate) use ladder::{by_category, safe_window};
pub use own::{Evidence, OwnSetting};
pub use plan::{CONTRAST_RESPONSE_TOKENS, Plan, Recipe};
pub use publish::{Force, Publication, generation_of};
pub use recompute::{Difference, Recomputation, Recomputed};
pub(crate) use sample::shuffle;
pub use search::Trial;
pub(crate) use search::{first_of_each, most_answers, search};
pub use spec::{Bounds, CalibrateSpec, Grid};
pub use trial::{ArmReport, Comparison, SAFETY_SYSTEM_PROMPT, TestArm, TestReport};

use own::{choose, own_strength, own_window};
use steering::Steering;

use crate::error::Result;
use crate::experiment::Laboratory;
use crate::judge::JudgeAgreement;
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
    /// The categories with layers or tokens of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own: BTreeMap<Category, OwnSetting>,
    /// Whether the safer direction is the one from safe to unsafe: the vectors are turned round.
    pub is_reversed: bool,
    /// Bounds on quality.
    pub bounds: Bounds,
    /// Judges, by name.
    pub judges: Vec<String>,
    /// How far they agree with people, where that was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<JudgeAgreement>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Every setting that was tried, in order.
    pub trials: Vec<Trial>,
    /// The dose-response on the calibration prompts, ascending. Strengths are those of the chosen setting; a category with
    /// its own met that at the same multiple of its strength.
    pub ladder: Vec<Rung>,
    /// The strengths of the chosen setting that act and keep the text whole.
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

impl Calibration {
    /// What a category is steered with.
    #[must_use]
    pub fn setting_of(&self, category: &Category) -> &Setting {
        self.own.get(category).map_or(&self.setting, |own| &own.setting)
    }

    /// The strengths of a category's setting that act and keep the text whole.
    #[must_use]
    pub fn window_of(&self, category: &Category) -> SafeWindow {
        self.own.get(category).map_or(self.window, |own| own.window)
    }

    /// The layers of any category, ascending.
    #[must_use]
    pub fn layers(&self) -> Vec<usize> {
        let settings = self.gates.keys().map(|category| self.setting_of(category));
        let layers = settings.flat_map(|setting| &setting.layers).copied();
        layers.collect::<BTreeSet<usize>>().into_iter().collect()
    }
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
    let own = choose(spec, &found.best, &found.finalists);
    let steering = steering_of(spec, &found.best, &own);
    let ladder::Measured { all: ladder, own: own_ladders } =
        ladder::measure(laboratory, spec, &steering, progress)?;
    let window = safe_window(&ladder, &spec.bounds);
    let own = own_settings(own, own_ladders, (&ladder, window), &spec.bounds);
    let strengths: BTreeMap<Category, Strength> = steering
        .categories()
        .filter_map(|category| {
            let strength = match own.get(category) {
                Some(own) => own_strength(category, &own.ladder, (&ladder, own.window)),
                None => ladder::strength_of(category, &ladder, window),
            };
            Some((category.clone(), strength?))
        })
        .collect();
    // One that is never safe is tested at no strength, and fails.
    let defaults = strengths.iter().map(|(category, one)| (category.clone(), one.default));
    let test = trial::test(laboratory, spec, &steering, &defaults.collect(), progress)?;
    let gates = steering
        .categories()
        .map(|category| (category.clone(), gate::gate(category, &test, &spec.bounds)))
        .collect();
    Ok(Calibration {
        candidates: spec.candidates.iter().map(|one| one.name.clone()).collect(),
        site: spec.candidates[found.best.candidate_idx].site,
        setting: steering.setting().clone(),
        own,
        is_reversed,
        bounds: spec.bounds,
        judges: laboratory.judges.names().into_iter().map(str::to_owned).collect(),
        agreement: laboratory.judges.agreement_in_use().cloned().collect(),
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

/// The settings with positive strengths, and the rows turned round where the search preferred the other direction.
fn steering_of(
    spec: &CalibrateSpec<'_>,
    best: &Setting,
    own: &BTreeMap<Category, (Setting, Evidence)>,
) -> Steering {
    let candidate = &spec.candidates[best.candidate_idx];
    let positive = |one: &Setting| Setting { strength: one.strength.abs(), ..one.clone() };
    let own: BTreeMap<Category, Setting> =
        own.iter().map(|(category, (setting, _))| (category.clone(), positive(setting))).collect();
    let mut rows = candidate.rows.clone();
    if best.strength < 0.0 {
        let values = rows.values_mut().flatten().flat_map(|row| &mut row.values);
        values.for_each(|value| *value = -*value);
    }
    Steering::new((candidate.site, positive(best)), own, rows)
}

/// What is recorded of the categories with a setting of their own.
fn own_settings(
    chosen: BTreeMap<Category, (Setting, Evidence)>,
    mut ladders: BTreeMap<Category, Vec<Rung>>,
    all: (&[Rung], SafeWindow),
    bounds: &Bounds,
) -> BTreeMap<Category, OwnSetting> {
    let own = chosen.into_iter().map(|(category, (setting, evidence))| {
        let setting = Setting { strength: setting.strength.abs(), ..setting };
        let ladder = ladders.remove(&category).unwrap_or_default();
        let window = own_window(&ladder, all, bounds);
        (category, OwnSetting { setting, evidence, ladder, window })
    });
    own.collect()
}
