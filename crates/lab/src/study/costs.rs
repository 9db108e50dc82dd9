//! What steering costs: constraints that are no longer followed, and the perplexity of plain text.

use skeg_vector_store::Category;

use super::figures::Followed;
use super::spec::StudySpec;
use crate::category::catqa_categories;
use crate::data::Item;
use crate::error::Result;
use crate::evaluate::{AppliedVector, IfEval};
use crate::experiment::{Arm, Laboratory, harmless_prompts};
use crate::likelihood::{Likelihood, SteeredText};
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

/// Perplexity of the plain texts, each with the vector of some category on every token, in turn; unsteered for arms without,
/// and `None` for arms whose strength depends on the prompt, of which a text has none.
pub(super) fn perplexity(
    likelihood: &mut dyn Likelihood,
    spec: &StudySpec<'_>,
    arm: &Arm,
    progress: &mut dyn Progress,
) -> Result<Option<f64>> {
    if spec.texts.is_empty() || !arm.factors.is_empty() {
        return Ok(None);
    }
    let vectors: Vec<&AppliedVector> = acting(arm).map(|(_, vector)| vector).collect();
    let texts = spec.texts.iter().enumerate().map(|(idx, text)| SteeredText {
        text,
        vector: (!vectors.is_empty()).then(|| vectors[idx % vectors.len()]),
    });
    let texts: Vec<SteeredText<'_>> = texts.collect();
    progress.start("texts", texts.len());
    let perplexity = likelihood.perplexity(&texts, progress)?;
    progress.finish();
    Ok(Some(perplexity))
}

/// The vectors that do something.
fn acting(arm: &Arm) -> impl Iterator<Item = (&Category, &AppliedVector)> {
    arm.vectors.iter().filter(|(_, vector)| vector.strength != 0.0)
}
