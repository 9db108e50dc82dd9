//! Measuring shipped vectors: the figures that policy and card are made from.

use std::collections::BTreeMap;

use skeg_vector_store::Category;

use super::measured::{Measured, StrengthPoint};
use crate::data::Item;
use crate::error::{Error, Result};
use crate::evaluate::{Answerer, Condition, QuickSpec, evaluate_quick};
use crate::progress::Progress;

/// What is measured.
#[derive(Debug, Clone)]
pub struct MeasurePlan<'a> {
    /// The held-out evaluation; its strengths are replaced by [`Self::strength`].
    pub held_out: QuickSpec<'a>,
    /// Prompts that strengths are tried on, [`crate::Part::Tuning`].
    pub tuning: BTreeMap<Category, Vec<&'a Item>>,
    /// The strengths to try, ascending.
    pub strengths: Vec<f32>,
    /// The default strength.
    pub strength: f32,
    /// The form of the weights, for the record: `as_stored` or `f32`.
    pub weights: String,
}

/// Tries each strength of the own category's vector on the tuning prompts, then runs every condition on the held-out
/// prompts at the default strength.
///
/// # Errors
/// [`Error::Spec`] when no strength is to be tried or they do not ascend, and what the evaluation returns.
pub fn measure(
    answerer: &mut dyn Answerer,
    plan: &MeasurePlan<'_>,
    progress: &mut dyn Progress,
) -> Result<Measured> {
    if plan.strengths.is_empty() || !plan.strengths.is_sorted_by(|a, b| a < b) {
        return Err(Error::Spec(format!(
            "strengths to try are {:?}; expected at least one, ascending",
            plan.strengths
        )));
    }
    let at = |strength: f32| -> BTreeMap<Category, f32> {
        plan.held_out.strengths.keys().map(|category| (category.clone(), strength)).collect()
    };
    let mut tuning = Vec::new();
    for &strength in &plan.strengths {
        let spec = QuickSpec {
            prompts: plan.tuning.clone(),
            strengths: at(strength),
            conditions: vec![Condition::Own],
            ..plan.held_out.clone()
        };
        let report = evaluate_quick(answerer, &spec, progress)?;
        let tally = report.condition(Condition::Own).map(|own| own.total).unwrap_or_default();
        tuning.push(StrengthPoint { strength, tally });
    }
    let spec = QuickSpec { strengths: at(plan.strength), ..plan.held_out.clone() };
    Ok(Measured {
        weights: plan.weights.clone(),
        tuning,
        strength: plan.strength,
        held_out: evaluate_quick(answerer, &spec, progress)?,
    })
}
