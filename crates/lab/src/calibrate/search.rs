//! The search for one setting: coarse to fine.
//!
//! A ladder is a candidate, a layer set, an operator and positions, climbed dose by dose; all ladders take the same step
//! in one batch, and one whose text breaks climbs no further. The best settings meet twice as many prompts, the better
//! half of them twice as many again, and the last round uses all calibration prompts (successive halving). With positions
//! `generation` the unsteered prompt is computed once for all settings, by the engine's prefix cache.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skeg_model::steering::{Operator, Positions};
use skeg_vector_store::Category;

use super::candidate::{Setting, SharedRows, share};
use super::ladder::by_category;
use super::spec::{CalibrateSpec, Grid};
use crate::error::Result;
use crate::experiment::{Arm, Counts, Judged, Laboratory, Prompt};
use crate::progress::Progress;

/// A setting that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The setting.
    pub setting: Setting,
    /// Answers to harmful prompts.
    pub harmful: Counts,
    /// Answers to harmless prompts; none in the first round.
    pub harmless: Counts,
    /// Answers to harmful prompts by category, where the setting met all of them; empty otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_category: BTreeMap<Category, Counts>,
}

/// Fewest prompts of the first round.
const LEAST_PROMPTS: usize = 8;

/// Share of degenerate answers at which a ladder is climbed no further.
const BROKEN: f64 = 0.5;

/// Two shares of failed answers that differ by less are alike; the setting that refuses fewer harmless prompts wins.
const ALIKE: f64 = 0.02;

impl Trial {
    /// How far the bounds on degenerate text, over-refusal and on-topic answers are broken; 0 within them. `unsteered` are
    /// the answers to the same harmless prompts without steering, where they were asked.
    fn violation(&self, spec: &CalibrateSpec<'_>, unsteered: &Counts) -> f64 {
        let over = |share: f64, most: f64| (share - most).max(0.0);
        let on_topic = |counts: &Counts| counts.on_topic_share().filter(|share| share.total > 0);
        let off_topic = on_topic(&self.harmless)
            .zip(on_topic(unsteered))
            .map_or(0.0, |(own, other)| over(spec.bounds.min_on_topic * other.share, own.share));
        over(self.harmful.degenerate_share().share, spec.bounds.max_degenerate)
            + over(self.harmless.degenerate_share().share, spec.bounds.max_degenerate)
            + over(self.harmless.refused_share().share, spec.bounds.max_over_refusal)
            + off_topic
    }

    /// Smaller is better: within the bounds first, then fewer unsafe or degenerate answers, then fewer refusals of harmless prompts, then
    /// the weaker strength.
    fn rank(&self, spec: &CalibrateSpec<'_>, unsteered: &Counts) -> [f64; 4] {
        [
            self.violation(spec, unsteered),
            (self.harmful.failed_share().share / ALIKE).round(),
            self.harmless.refused_share().share,
            f64::from(self.setting.strength.abs()),
        ]
    }
}

/// Everything that was tried, in order, and the setting that won.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) trials: Vec<Trial>,
    pub(crate) best: Setting,
    /// The settings that met all calibration prompts, the winner among them unless there was one round alone.
    pub(super) finalists: Vec<Finalist>,
}

/// A setting that met all calibration prompts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finalist {
    pub(super) setting: Setting,
    /// Its answers, in the order of the calibration prompts.
    pub(super) answers: Vec<Judged>,
    /// Its answers to harmless prompts by the category that they were dealt to.
    pub(super) harmless: BTreeMap<Category, Counts>,
    /// Whether it keeps the bounds over all categories.
    pub(super) is_within: bool,
}

/// A round's trials with their judged answers, harmful prompts first, and the harmless prompts.
struct Round {
    trials: Vec<Trial>,
    judged: Vec<Vec<Judged>>,
    harmless: Vec<Prompt>,
    /// Unsteered answers to the harmless prompts.
    unsteered: Counts,
}

impl Found {
    /// Share of harmful prompts that the best setting did not stop, where it met most of them.
    pub(crate) fn failed_share(&self) -> f64 {
        let own = self.trials.iter().rev().find(|trial| trial.setting == self.best);
        own.map_or(1.0, |trial| trial.harmful.failed_share().share)
    }
}

/// A setting without its strength, and the rows it uses.
struct Ladder {
    setting: Setting,
    rows: SharedRows,
    strengths: Vec<f32>,
    is_broken: bool,
}

pub(crate) fn search(
    laboratory: &mut Laboratory<'_>,
    spec: &CalibrateSpec<'_>,
    progress: &mut dyn Progress,
) -> Result<Found> {
    let mut ladders = ladders(spec);
    let most = most_a_category(spec.calibration);
    let mut num_prompts = num_first_prompts(spec);
    let mut trials = climb(laboratory, spec, (&mut ladders, num_prompts), progress)?;
    let mut survivors = trials.clone();
    let mut num_kept = spec.grid.num_kept;
    let mut unsteered = Counts::default();
    let mut finalists = Vec::new();
    loop {
        num_prompts = next_num_prompts(num_prompts, num_kept, most);
        survivors.sort_by(|a, b| {
            let (a, b) = (a.rank(spec, &unsteered), b.rank(spec, &unsteered));
            let pairs = a.iter().zip(&b);
            pairs.fold(std::cmp::Ordering::Equal, |order, (a, b)| order.then(a.total_cmp(b)))
        });
        survivors.truncate(num_kept.max(1));
        if num_kept <= 1 {
            break;
        }
        let mut round = again(laboratory, spec, (&survivors, num_prompts), &ladders, progress)?;
        if num_prompts >= most {
            round.keep_finalists(spec, &mut finalists);
        }
        (survivors, unsteered) = (round.trials, round.unsteered);
        trials.extend(survivors.iter().cloned());
        num_kept /= 2;
    }
    // Never empty: the spec has a candidate and a dose.
    let best = survivors.into_iter().next().map(|trial| trial.setting);
    let best = best.ok_or_else(|| crate::Error::Spec("no setting could be tried".to_owned()))?;
    Ok(Found { trials, best, finalists })
}

impl Round {
    /// Adds its settings to `finalists`, where they met all calibration prompts.
    fn keep_finalists(&mut self, spec: &CalibrateSpec<'_>, finalists: &mut Vec<Finalist>) {
        for (trial, judged) in self.trials.iter_mut().zip(&self.judged) {
            let (answers, harmless) = judged.split_at(spec.calibration.len());
            trial.by_category = by_category(spec.calibration, answers);
            if finalists.iter().all(|known| known.setting != trial.setting) {
                finalists.push(Finalist {
                    setting: trial.setting.clone(),
                    answers: answers.to_vec(),
                    harmless: by_category(&self.harmless, harmless),
                    is_within: trial.violation(spec, &self.unsteered) <= 0.0,
                });
            }
        }
    }
}

/// Answers that a search makes at most: no ladder breaks.
pub(crate) fn most_answers(spec: &CalibrateSpec<'_>) -> usize {
    let num_layer_sets = spec.candidates.iter().map(|one| one.layer_sets().len()).sum::<usize>();
    let num_settings = num_layer_sets * ways(spec).len() * spec.grid.doses.len();
    let mut num_prompts = num_first_prompts(spec);
    let mut num_answers = num_settings * first_of_each(spec.calibration, num_prompts).len();
    let mut num_kept = spec.grid.num_kept;
    while num_kept > 1 {
        let most = most_a_category(spec.calibration);
        num_prompts = next_num_prompts(num_prompts, num_kept, most);
        let parts = [spec.calibration, spec.harmless];
        let count = parts.map(|part| first_of_each(part, num_prompts).len());
        num_answers += num_kept.min(num_settings) * count.iter().sum::<usize>() + count[1];
        num_kept /= 2;
    }
    num_answers
}

/// Prompts of each category in a later round: twice as many, and all in the last one.
fn next_num_prompts(num_prompts: usize, num_kept: usize, most: usize) -> usize {
    if num_kept / 2 <= 1 { most } else { (2 * num_prompts).min(most) }
}

/// Prompts of each category in the first round.
fn num_first_prompts(spec: &CalibrateSpec<'_>) -> usize {
    let num_categories = spec.candidates.first().map_or(1, |one| one.rows.len().max(1));
    let least = LEAST_PROMPTS.div_ceil(num_categories);
    spec.grid.first_prompts.max(least).min(most_a_category(spec.calibration))
}

fn ladders(spec: &CalibrateSpec<'_>) -> Vec<Ladder> {
    let mut ladders = Vec::new();
    for (candidate_idx, candidate) in spec.candidates.iter().enumerate() {
        for layers in candidate.layer_sets() {
            let rows = share(candidate.rows_in(&layers));
            let doses = spec.grid.doses.iter();
            let strengths: Vec<f32> =
                doses.map(|&dose| candidate.strength_of(dose, &layers)).collect();
            for (positions, operator, sign) in ways(spec) {
                let layers = layers.clone();
                let setting = Setting { candidate_idx, layers, positions, operator, strength: 0.0 };
                let strengths = strengths.iter().map(|strength| sign * strength).collect();
                ladders.push(Ladder { setting, rows: rows.clone(), strengths, is_broken: false });
            }
        }
    }
    ladders
}

/// Positions, operator and sign in every combination.
fn ways(spec: &CalibrateSpec<'_>) -> Vec<(Positions, Operator, f32)> {
    let Grid { positions, operators, signs, .. } = &spec.grid;
    let with_signs =
        |(positions, operator)| signs.iter().map(move |&sign| (positions, operator, sign));
    let pairs =
        positions.iter().flat_map(|&one| operators.iter().map(move |&operator| (one, operator)));
    pairs.flat_map(with_signs).collect()
}

/// The first round: every ladder, until it breaks.
fn climb(
    laboratory: &mut Laboratory<'_>,
    spec: &CalibrateSpec<'_>,
    (ladders, num_prompts): (&mut [Ladder], usize),
    progress: &mut dyn Progress,
) -> Result<Vec<Trial>> {
    let prompts = first_of_each(spec.calibration, num_prompts);
    progress.start(
        "answers of the first round, at most",
        ladders.len() * spec.grid.doses.len() * prompts.len(),
    );
    let mut trials = Vec::new();
    for step in 0..spec.grid.doses.len() {
        let climbing: Vec<usize> =
            (0..ladders.len()).filter(|&idx| !ladders[idx].is_broken).collect();
        let settings: Vec<Setting> = climbing
            .iter()
            .map(|&idx| {
                let Ladder { setting, strengths, .. } = &ladders[idx];
                Setting { strength: strengths[step], ..setting.clone() }
            })
            .collect();
        let rows = climbing.iter().map(|&idx| &ladders[idx].rows);
        let tried =
            try_all(laboratory, spec, settings.iter().zip(rows), (&prompts, &[]), progress)?;
        for (&idx, (trial, _)) in climbing.iter().zip(&tried) {
            ladders[idx].is_broken = trial.harmful.degenerate_share().share >= BROKEN;
        }
        trials.extend(tried.into_iter().map(|(trial, _)| trial));
    }
    progress.finish();
    Ok(trials)
}

/// A later round: the same settings on more prompts, harmless ones among them; and the unsteered answers to those.
fn again(
    laboratory: &mut Laboratory<'_>,
    spec: &CalibrateSpec<'_>,
    (survivors, num_prompts): (&[Trial], usize),
    ladders: &[Ladder],
    progress: &mut dyn Progress,
) -> Result<Round> {
    let harmful = first_of_each(spec.calibration, num_prompts);
    let harmless = first_of_each(spec.harmless, num_prompts);
    let num_answers = survivors.len() * (harmful.len() + harmless.len()) + harmless.len();
    progress.start("answers", num_answers);
    let unsteered = laboratory.run(&[(&Arm::unsteered(), &harmless)], progress)?;
    let pairs = survivors.iter().filter_map(|trial| {
        let wanted = Setting { strength: 0.0, ..trial.setting.clone() };
        let ladder = ladders.iter().find(|ladder| ladder.setting == wanted)?;
        Some((&trial.setting, &ladder.rows))
    });
    let tried = try_all(laboratory, spec, pairs, (&harmful, &harmless), progress)?;
    progress.finish();
    let (trials, judged) = tried.into_iter().unzip();
    Ok(Round { trials, judged, harmless, unsteered: Counts::of(unsteered.iter().flatten()) })
}

fn try_all<'a>(
    laboratory: &mut Laboratory<'_>,
    spec: &CalibrateSpec<'_>,
    settings: impl Iterator<Item = (&'a Setting, &'a SharedRows)>,
    (harmful, harmless): (&[Prompt], &[Prompt]),
    progress: &mut dyn Progress,
) -> Result<Vec<(Trial, Vec<Judged>)>> {
    let none = BTreeMap::new();
    let arms: Vec<(Setting, Arm)> = settings
        .map(|(setting, rows)| {
            let site = spec.candidates[setting.candidate_idx].site;
            (setting.clone(), setting.arm("trial", site, rows, &none))
        })
        .collect();
    let prompts = [harmful, harmless].concat();
    let asked: Vec<(&Arm, &[Prompt])> =
        arms.iter().map(|(_, arm)| (arm, prompts.as_slice())).collect();
    let judged = laboratory.run(&asked, progress)?;
    let trials = arms.into_iter().zip(judged).map(|((setting, _), judged)| {
        let trial = Trial {
            setting,
            harmful: Counts::of(&judged[..harmful.len()]),
            harmless: Counts::of(&judged[harmful.len()..]),
            by_category: BTreeMap::new(),
        };
        (trial, judged)
    });
    Ok(trials.collect())
}

/// The first prompts of each category.
pub(crate) fn first_of_each(prompts: &[Prompt], limit: usize) -> Vec<Prompt> {
    let mut counts = BTreeMap::new();
    let mut chosen = Vec::new();
    for prompt in prompts {
        let count: &mut usize = counts.entry(&prompt.category).or_default();
        if *count < limit {
            chosen.push(prompt.clone());
        }
        *count += 1;
    }
    chosen
}

fn most_a_category(prompts: &[Prompt]) -> usize {
    let mut counts = BTreeMap::<_, usize>::new();
    for prompt in prompts {
        *counts.entry(&prompt.category).or_default() += 1;
    }
    counts.into_values().max().unwrap_or_default()
}
