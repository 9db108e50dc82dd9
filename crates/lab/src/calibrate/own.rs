//! Layers and tokens of a category's own: chosen among the settings that met all calibration prompts, without another
//! answer.
//!
//! A generation has one site, one operator and one orientation, so only settings of the chosen vectors with the same
//! operator and sign can stand beside the chosen one. A category has few prompts, about ten, and takes the best of several
//! settings on them, so that chance alone would often prefer another one. The choice is therefore drawn to the one that
//! all prompts made: a category leaves it only for a setting that fails less by more than one standard error of the
//! paired difference.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skeg_vector_store::{Category, SafeWindow, Strength};

use super::candidate::Setting;
use super::ladder::{Rung, strength_of};
use super::search::Finalist;
use super::spec::{Bounds, CalibrateSpec};
use crate::experiment::{Counts, Judged, Outcome};

/// Layers, tokens and strength of one category, where they are not those of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSetting {
    /// The setting; vectors and operator are those of all, and its strength is positive.
    pub setting: Setting,
    /// The choice, on the category's calibration prompts.
    pub evidence: Evidence,
    /// The dose-response on the category's prompts, harmful and harmless ones, at the factors of the dose-response of all.
    pub ladder: Vec<Rung>,
    /// The strengths that act and keep the text whole; not beyond the factor at which that of all ends.
    pub window: SafeWindow,
}

/// Calibration prompts of a category under the setting of all and under its own: an answer fails that is unsafe or degenerate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Prompts.
    pub total: usize,
    /// Failed under the setting of all.
    pub failed_common: usize,
    /// Failed under its own setting.
    pub failed_own: usize,
    /// Failed under the setting of all alone.
    pub better: usize,
    /// Failed under its own setting alone.
    pub worse: usize,
}

impl Evidence {
    fn of(common: &[Judged], own: &[Judged]) -> Self {
        let failed = |one: &Judged| matches!(one.outcome, Outcome::Unsafe | Outcome::Degenerate);
        let pairs = || common.iter().zip(own).map(|(common, own)| (failed(common), failed(own)));
        let count = |wanted: fn((bool, bool)) -> bool| pairs().filter(|&pair| wanted(pair)).count();
        Self {
            total: common.len(),
            failed_common: count(|(common, _)| common),
            failed_own: count(|(_, own)| own),
            better: count(|(common, own)| common && !own),
            worse: count(|(common, own)| !common && own),
        }
    }

    /// Whether the own setting fails less by more than one standard error of the paired difference. With `b` prompts
    /// better, `c` worse and `n` in all, the difference is `(b - c) / n` and its squared standard error `(b + c - (b - c)^2 / n)
    /// / (n (n - 1))`; the one exceeds the other where `(b - c)^2 > b + c`: the statistic of
    /// `McNemar` (1947) is above 1.
    fn is_better(&self) -> bool {
        let net = self.better.saturating_sub(self.worse);
        net * net > self.better + self.worse
    }
}

/// Each category's best setting of its own, signed as the search had it, where one is better than `best`.
pub(super) fn choose(
    spec: &CalibrateSpec<'_>,
    best: &Setting,
    finalists: &[Finalist],
) -> BTreeMap<Category, (Setting, Evidence)> {
    let Some(common) = finalists.iter().find(|one| one.setting == *best) else {
        return BTreeMap::new();
    };
    let others: Vec<&Finalist> = finalists
        .iter()
        .filter(|one| one.is_within && can_stand_beside(&one.setting, best))
        .collect();
    let mut places: BTreeMap<&Category, Vec<usize>> = BTreeMap::new();
    for (idx, prompt) in spec.calibration.iter().enumerate() {
        places.entry(&prompt.category).or_default().push(idx);
    }
    let chosen = places.into_iter().filter_map(|(category, places)| {
        let answers = |one: &Finalist| -> Vec<Judged> {
            places.iter().map(|&idx| one.answers[idx]).collect()
        };
        let common = answers(common);
        let better = others.iter().filter_map(|other| {
            let own = answers(other);
            let harmless = other.harmless.get(category).copied().unwrap_or_default();
            let evidence = Evidence::of(&common, &own);
            let is_whole = !breaks(&Counts::of(&own), &harmless, &spec.bounds);
            (is_whole && evidence.is_better()).then_some((*other, evidence))
        });
        // Of equals the one that fails least over all categories.
        let best = better.min_by_key(|(other, evidence)| {
            let all = Counts::of(&other.answers);
            (evidence.failed_own, all.is_unsafe + all.degenerate)
        });
        best.map(|(other, evidence)| (category.clone(), (other.setting.clone(), evidence)))
    });
    chosen.collect()
}

/// Whether one generation can hold both, and they differ in more than their strength, which the dose-response decides.
fn can_stand_beside(other: &Setting, best: &Setting) -> bool {
    let is_same_kind = other.candidate_idx == best.candidate_idx
        && other.operator == best.operator
        && other.strength.is_sign_negative() == best.strength.is_sign_negative();
    is_same_kind && (other.layers != best.layers || other.positions != best.positions)
}

/// Whether the answers of one category break a bound even at the lower end of their intervals, since they are few.
fn breaks(harmful: &Counts, harmless: &Counts, bounds: &Bounds) -> bool {
    harmful.degenerate_share().low > bounds.max_degenerate
        || harmless.degenerate_share().low > bounds.max_degenerate
        || harmless.refused_share().low > bounds.max_over_refusal
}

/// The safe window of a category's own setting: to the strongest before the first that breaks a bound on the category's
/// own answers or lies beyond the window of all, whose rungs are `ladder`, factor by factor.
pub(super) fn own_window(
    own: &[Rung],
    (ladder, window): (&[Rung], SafeWindow),
    bounds: &Bounds,
) -> SafeWindow {
    let unsteered = own.iter().find(|rung| rung.strength == 0.0);
    let pairs = own.iter().zip(ladder).filter(|(own, _)| own.strength > 0.0);
    let safe = pairs.take_while(|(own, all)| {
        all.strength <= window.max
            && !breaks(&own.harmful, &own.harmless, bounds)
            && !is_unlikely_or_off_topic(own, unsteered, bounds)
    });
    SafeWindow { min: 0.0, max: safe.last().map_or(0.0, |(own, _)| own.strength) }
}

fn is_unlikely_or_off_topic(own: &Rung, unsteered: Option<&Rung>, bounds: &Bounds) -> bool {
    let Some(unsteered) = unsteered else { return false };
    let nll = own.harmful.nll.zip(unsteered.harmful.nll);
    let on_topic = own.harmless.on_topic_share().zip(unsteered.harmless.on_topic_share());
    nll.is_some_and(|(own, unsteered)| own - unsteered > bounds.max_nll_rise)
        || on_topic.is_some_and(|(own, unsteered)| own.high < bounds.min_on_topic * unsteered.share)
}

/// A category's strengths under its own setting, as [`strength_of`] finds them; the share of all categories at the same
/// factor stands beside its own.
pub(super) fn own_strength(
    category: &Category,
    own: &[Rung],
    (ladder, window): (&[Rung], SafeWindow),
) -> Option<Strength> {
    let at_own_strength =
        |(own, all): (&Rung, &Rung)| Rung { strength: own.strength, ..all.clone() };
    let rungs: Vec<Rung> = own.iter().zip(ladder).map(at_own_strength).collect();
    strength_of(category, &rungs, window)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(better: usize, worse: usize) -> Evidence {
        Evidence { total: 10, failed_common: better, failed_own: worse, better, worse }
    }

    /// The difference and its standard error with the variance over `n - 1`, by hand.
    #[test]
    fn a_difference_of_more_than_a_standard_error_decides() {
        for better in 0..=10_u32 {
            for worse in 0..=10 - better {
                let (b, c, n) = (f64::from(better), f64::from(worse), 10.0);
                let mean = (b - c) / n;
                let error = ((b + c - n * mean * mean) / (n - 1.0) / n).sqrt();
                // 1 of 10 is one standard error exactly, and 3 against 1.
                let expected = mean > error + 1e-9;
                let found = evidence(better as usize, worse as usize).is_better();
                assert_eq!(found, expected, "{better} better, {worse} worse");
            }
        }
    }

    fn rung(strength: f32, degenerate: usize) -> Rung {
        let harmful = Counts { total: 10, degenerate, nll: Some(0.7), ..Counts::default() };
        let harmless = Counts { total: 6, on_topic: Some(6), ..Counts::default() };
        Rung { strength, harmful, by_category: BTreeMap::new(), harmless }
    }

    #[test]
    fn an_own_window_ends_where_its_text_breaks_or_with_that_of_all() {
        let ladder = [0.0, 0.5, 1.0, 2.0].map(|strength| rung(strength, 0));
        let max = |own: &[Rung], max: f32, bounds: Bounds| {
            own_window(own, (&ladder, SafeWindow { min: 0.0, max }), &bounds).max.to_string()
        };
        let own = |change: fn(&mut Rung)| {
            let mut own = [0.0, 3.0, 6.0, 12.0].map(|strength| rung(strength, 0));
            change(&mut own[2]);
            own
        };
        let bounds = Bounds { max_over_refusal: 0.2, ..Bounds::default() };
        assert_eq!(max(&own(|_| ()), 2.0, bounds), "12");
        assert_eq!(max(&own(|_| ()), 1.0, bounds), "6");
        assert_eq!(max(&own(|_| ()), 0.0, bounds), "0");
        // One of ten may be chance, two are not.
        assert_eq!(max(&own(|one| one.harmful.degenerate = 1), 2.0, bounds), "12");
        assert_eq!(max(&own(|one| one.harmful.degenerate = 2), 2.0, bounds), "3");
        assert_eq!(max(&own(|one| one.harmless.degenerate = 2), 2.0, bounds), "3");
        assert_eq!(max(&own(|one| one.harmless.refused = 2), 2.0, bounds), "12");
        assert_eq!(max(&own(|one| one.harmless.refused = 4), 2.0, bounds), "3");
        assert_eq!(max(&own(|one| one.harmful.nll = Some(2.8)), 2.0, bounds), "3");
        assert_eq!(max(&own(|one| one.harmless.on_topic = Some(0)), 2.0, bounds), "3");
    }
}
