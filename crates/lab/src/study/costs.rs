//! What steering costs: constraints that are no longer followed, and the perplexity of plain text.

use std::sync::Arc;

use skeg_model::steering::LayerVector;
use skeg_vector_store::Category;

use super::figures::Followed;
use super::spec::StudySpec;
use crate::category::catqa_categories;
use crate::data::Item;
use crate::error::Result;
use crate::evaluate::{AppliedVector, IfEval};
use crate::experiment::{Arm, Laboratory, harmless_prompts};
use crate::likelihood::ModelLikelihood;
use crate::numbers::to_f32;
use crate::progress::Progress;

/// How many constraints of harmless prompts are followed by answers that are steered all the same; `None` for arms whose
/// strength depends on the prompt where these prompts have none.
pub(super) fn constraints(
    laboratory: &mut Laboratory<'_>,
    spec: &StudySpec<'_>,
    arm: &Arm,
    progress: &mut dyn Progress,
) -> Result<Option<Followed>> {
    let is_known = |item: &Item| arm.factors.is_empty() || arm.factors.contains_key(&item.id);
    if spec.constraints.is_empty() || !spec.constraints.iter().all(is_known) {
        return Ok(None);
    }
    let mut categories: Vec<Category> = acting(arm).map(|(category, _)| category.clone()).collect();
    if categories.is_empty() {
        // Nothing is steered, so any will do.
        categories = catqa_categories();
    }
    let prompts = harmless_prompts(spec.constraints, &categories);
    progress.start("answers with constraints", prompts.len());
    let answers = laboratory.answers(arm, &prompts, progress)?;
    progress.finish();
    let items: Vec<_> = spec.constraints.iter().collect();
    let texts: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
    let score = IfEval::score(&items, &texts)?;
    Ok(Some(Followed { count: score.num_followed, total: score.num_scored }))
}

/// Perplexity of the plain texts under the mean of the arm's vectors, each at its strength; unsteered for arms without, and
/// `None` for arms whose strength depends on the prompt, of which a text has none.
pub(super) fn perplexity(
    likelihood: &mut ModelLikelihood,
    spec: &StudySpec<'_>,
    arm: &Arm,
    progress: &mut dyn Progress,
) -> Result<Option<f64>> {
    if spec.texts.is_empty() || !arm.factors.is_empty() {
        return Ok(None);
    }
    let texts: Vec<&str> = spec.texts.iter().map(String::as_str).collect();
    progress.start("texts", texts.len());
    let perplexity = likelihood.perplexity(&texts, mean_vector(arm).as_ref(), progress)?;
    progress.finish();
    Ok(Some(perplexity))
}

/// The vectors that do something.
fn acting(arm: &Arm) -> impl Iterator<Item = (&Category, &AppliedVector)> {
    arm.vectors.iter().filter(|(_, vector)| vector.strength != 0.0)
}

fn mean_vector(arm: &Arm) -> Option<AppliedVector> {
    let vectors: Vec<&AppliedVector> = acting(arm).map(|(_, vector)| vector).collect();
    let first = *vectors.first()?;
    let count = vectors.len() as f64;
    let mut rows: Vec<LayerVector> = first.layers.as_ref().clone();
    for (row_idx, row) in rows.iter_mut().enumerate() {
        for (idx, value) in row.values.iter_mut().enumerate() {
            let of = |one: &AppliedVector| {
                f64::from(one.strength) * f64::from(one.layers[row_idx].values[idx])
            };
            *value = to_f32(vectors.iter().copied().map(of).sum::<f64>() / count);
        }
    }
    Some(AppliedVector { strength: 1.0, layers: Arc::new(rows), ..first.clone() })
}
