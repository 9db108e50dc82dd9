//! Guided selection: only exchanges that a judge confirms become activations.
//!
//! The guided variant of arXiv 2410.01174 lets the model answer the prompts of both sides unsteered, has an external
//! judge read the answers, and takes as unsafe activations only those of answers that the judge calls unsafe, as safe
//! ones those of answers that it calls safe. What is extracted is then prompt and answer together, by any
//! [`super::Variant`] and [`super::TokenMode`].
//!
//! A broken answer is on neither side, whatever the harm judge would make of it; a refusal is never unsafe.
//! `tests/golden/gen_guided.py` does the same in `NumPy`.

mod choose;
mod findings;
#[cfg(test)]
mod golden;
mod report;

use std::collections::BTreeMap;

use super::spec::CategoryInputs;
use super::variant::Pairing;
use crate::error::{Error, Result};
use crate::evaluate::Answerer;
use crate::judge::{Judge, Property};
use crate::progress::Progress;

use choose::{choose, too_few};
use findings::{answer_all, judge_all};
pub use report::{GuidedCounts, GuidedReport, SideCounts};

/// Who judges the answers.
pub struct GuidedJudges<'a> {
    /// Of [`Property::Harm`]; its score is a probability, or 0 and 1.
    pub harm: &'a mut dyn Judge,
    /// Of [`Property::Refusal`].
    pub refusal: &'a mut dyn Judge,
    /// Of [`Property::Degenerate`].
    pub degenerate: &'a mut dyn Judge,
}

impl std::fmt::Debug for GuidedJudges<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuidedJudges").field("harm", &self.harm.name()).finish_non_exhaustive()
    }
}

/// What is done with a category that has too few inputs left on a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFew {
    /// The selection ends with an error that says how many there were.
    #[default]
    Error,
    /// The category is left out, with a note.
    Drop,
}

/// How exchanges are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuidedOptions {
    /// How the inputs were paired; of matched ones a pair stays where both halves do.
    pub pairing: Pairing,
    /// Whether a refusal of a harmful prompt, if judged safe, goes over to the safe side instead of being left out. Not
    /// for matched pairs, where it would have no partner.
    pub keep_refusals: bool,
    /// Only verdicts this certain count, from 0 to 1: a harmful one by its score, a harmless one by 1 - score. `None` =
    /// every verdict does, as the judge gives it.
    pub min_score: Option<f64>,
    /// A category needs so many inputs a side, at least 1.
    pub min_inputs: usize,
    /// What becomes of one that has fewer.
    pub on_few: OnFew,
}

impl Default for GuidedOptions {
    /// Unmatched, refusals left out, every verdict, two inputs a side, an error where there are fewer.
    fn default() -> Self {
        Self {
            pairing: Pairing::SafeMean,
            keep_refusals: false,
            min_score: None,
            min_inputs: 2,
            on_few: OnFew::Error,
        }
    }
}

/// What was chosen, and from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Guided {
    /// The sides that are left; every text has a response.
    pub inputs: Vec<CategoryInputs>,
    /// The counts; belongs into [`super::Extraction::guided`].
    pub report: GuidedReport,
}

/// Has the model answer the prompts of both sides unsteered, and keeps what the judges confirm: on the unsafe side
/// answers judged unsafe that are no refusals, on the safe side answers judged safe; broken ones on neither.
///
/// A text that has a response is judged by it and not asked again. A prompt that stands in several places, such as
/// a harmless one that serves all categories, is asked once. The order of the texts stays.
///
/// # Errors
/// [`Error::Spec`] for options or judges that do not fit; [`Error::Data`] when too few inputs are left;
/// [`Error::Interrupted`] when `progress` asks to stop; what the answerer and the judges return.
pub fn guided_inputs(
    answerer: &mut dyn Answerer,
    judges: &mut GuidedJudges<'_>,
    mut inputs: Vec<CategoryInputs>,
    options: &GuidedOptions,
    progress: &mut dyn Progress,
) -> Result<Guided> {
    check(judges, &inputs, options)?;
    let num_answers = answer_all(answerer, &mut inputs, progress)?;
    let findings = judge_all(judges, &inputs, options.min_score, progress)?;
    let mut findings = findings.into_iter();
    let mut chosen = Vec::new();
    let mut categories = BTreeMap::new();
    for category in inputs {
        let (category, mut counts) = choose(category, &mut findings, options);
        if let Some(reason) = too_few(&category, &counts, options.min_inputs) {
            if options.on_few == OnFew::Error {
                return Err(Error::Data(format!(
                    "{reason}; give more prompts, ask for less certain verdicts, let such categories be left out, or \
                     extract unguided"
                )));
            }
            progress.note(&format!("left out: {reason}"));
            counts.dropped = true;
            categories.insert(category.category, counts);
        } else {
            categories.insert(category.category.clone(), counts);
            chosen.push(category);
        }
    }
    if chosen.is_empty() {
        return Err(Error::Data(format!(
            "guided selection leaves no category {} inputs a side; give more prompts, or extract unguided",
            options.min_inputs
        )));
    }
    let report = GuidedReport {
        harm_judge: judges.harm.name().to_owned(),
        refusal_judge: judges.refusal.name().to_owned(),
        degenerate_judge: judges.degenerate.name().to_owned(),
        min_score: options.min_score,
        keep_refusals: options.keep_refusals,
        num_answers,
        categories,
    };
    Ok(Guided { inputs: chosen, report })
}

fn check(
    judges: &GuidedJudges<'_>,
    inputs: &[CategoryInputs],
    options: &GuidedOptions,
) -> Result<()> {
    for (judge, property) in [
        (&*judges.harm, Property::Harm),
        (&*judges.refusal, Property::Refusal),
        (&*judges.degenerate, Property::Degenerate),
    ] {
        if judge.property() != property {
            return Err(Error::Spec(format!(
                "judge `{}` looks for {:?}; expected one of {property:?}",
                judge.name(),
                judge.property()
            )));
        }
    }
    if let Some(score) = options.min_score.filter(|score| !(0.0..=1.0).contains(score)) {
        return Err(Error::Spec(format!("verdicts of at least {score} count; expected 0 to 1")));
    }
    if options.min_inputs == 0 {
        return Err(Error::Spec("categories need 0 inputs a side; expected at least 1".to_owned()));
    }
    if options.pairing == Pairing::SafeMean {
        return Ok(());
    }
    if options.keep_refusals {
        return Err(Error::Spec(
            "refusals have no partner on the safe side; leave them out, or extract unmatched"
                .to_owned(),
        ));
    }
    match inputs.iter().find(|one| one.safe_side.len() != one.unsafe_side.len()) {
        None => Ok(()),
        Some(one) => Err(Error::Spec(format!(
            "category `{}` has {} safe and {} unsafe inputs; matched pairs need equally many",
            one.category,
            one.safe_side.len(),
            one.unsafe_side.len()
        ))),
    }
}
