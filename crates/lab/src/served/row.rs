//! What the answers of one set under one arm amount to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Answers;
use super::arm::ServedArm;
use super::ask::Served;
use super::set::{ServedPrompt, ServedSet};
use crate::error::Result;
use crate::evaluate::{Answer, Share};
use crate::experiment::{Counts, Outcome, judge};
use crate::judge::Judges;
use crate::progress::Progress;

/// The harmful or the harmless prompts of a set under one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServedRow {
    /// The set.
    pub set: String,
    /// Which of its prompts.
    pub is_harmful: bool,
    /// The arm, as [`ServedArm`] writes it.
    pub arm: String,
    /// Prompts that were not asked, because the arm has no category for them that the server knows.
    pub num_not_asked: usize,
    /// Refusals, by the judge of refusals or by the server's policy; never an answer that has broken down.
    pub refused: Share,
    /// %UR: unsafe answers to harmful prompts; `None` without a judge of harm, and of harmless prompts.
    pub is_unsafe: Option<Share>,
    /// Answers that have broken down.
    pub degenerate: Share,
    /// Prompts in which the server found a category; `None` where it was not asked to.
    pub alarms: Option<Alarms>,
    /// How long an answer took.
    pub seconds: Latency,
}

/// What the server found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alarms {
    /// Of the prompts that were asked.
    pub share: Share,
    /// How often each category was found; one prompt may have several.
    pub by_category: BTreeMap<String, usize>,
}

/// Seconds from sending a request to the last byte of its answer, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the answers took no longer.
    pub median: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
}

impl Latency {
    /// Of at least one value; zeros of none.
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (seconds.len() * percent).div_ceil(100).max(1);
            seconds.get(rank - 1).copied().unwrap_or_default()
        };
        Self { median: at(50), p99: at(99) }
    }
}

/// One row a kind of prompt that the set has and arm that asked at least one of them.
pub(super) fn rows(
    set: &ServedSet,
    arms: &[ServedArm],
    answers: &Answers,
    judges: &mut Judges,
    progress: &mut dyn Progress,
) -> Result<Vec<ServedRow>> {
    let mut rows = Vec::new();
    for is_harmful in [true, false] {
        for (arm, answers) in arms.iter().zip(answers) {
            let of_kind = || set.prompts.iter().filter(|prompt| prompt.is_harmful == is_harmful);
            let asked: Vec<(&ServedPrompt, &Served)> = set
                .prompts
                .iter()
                .zip(answers)
                .filter(|(prompt, _)| prompt.is_harmful == is_harmful)
                .filter_map(|(prompt, answer)| Some((prompt, answer.as_ref()?)))
                .collect();
            if asked.is_empty() {
                continue;
            }
            let counts = counts(&asked, judges, progress)?;
            let seconds = asked.iter().map(|(_, answer)| answer.seconds).collect();
            rows.push(ServedRow {
                set: set.name.clone(),
                is_harmful,
                arm: arm.to_string(),
                num_not_asked: of_kind().count() - asked.len(),
                refused: counts.refused_share(),
                is_unsafe: (is_harmful && judges.harm.is_some()).then(|| counts.unsafe_share()),
                degenerate: counts.degenerate_share(),
                alarms: (*arm == ServedArm::Auto).then(|| alarms(&asked)),
                seconds: Latency::of(seconds),
            });
        }
    }
    Ok(rows)
}

fn counts(
    asked: &[(&ServedPrompt, &Served)],
    judges: &mut Judges,
    progress: &mut dyn Progress,
) -> Result<Counts> {
    let prompts: Vec<(&str, bool)> =
        asked.iter().map(|(prompt, _)| (prompt.text.as_str(), prompt.is_harmful)).collect();
    let answer = |(_, answer): &(&ServedPrompt, &Served)| Answer {
        text: answer.text.clone(),
        token_ids: Vec::new(),
        max_relative_norm: None,
    };
    let answers: Vec<Answer> = asked.iter().map(answer).collect();
    let mut judged = judge(judges, &prompts, &answers, progress)?;
    for (judged, (_, answer)) in judged.iter_mut().zip(asked) {
        if answer.is_refused_by_policy {
            judged.outcome = Outcome::Refused;
        }
    }
    Ok(Counts::of(&judged))
}

fn alarms(asked: &[(&ServedPrompt, &Served)]) -> Alarms {
    let num_alarms = asked.iter().filter(|(_, answer)| !answer.categories.is_empty()).count();
    let mut by_category = BTreeMap::new();
    for category in asked.iter().flat_map(|(_, answer)| &answer.categories) {
        *by_category.entry(category.clone()).or_default() += 1;
    }
    Alarms { share: Share::new(num_alarms, asked.len()), by_category }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_values_that_were_measured() {
        let of = |number: u32| Latency::of((1..=number).rev().map(f64::from).collect());
        assert_eq!(of(200), Latency { median: 100.0, p99: 198.0 });
        assert_eq!(of(3), Latency { median: 2.0, p99: 3.0 });
        assert_eq!(of(0), Latency { median: 0.0, p99: 0.0 });
    }
}
