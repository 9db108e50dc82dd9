//! The quick evaluation: held-out prompts, five conditions, short greedy answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use skeg_model::steering::{LayerVector, Operator, Positions, Site};
use skeg_vector_store::Category;

use super::answer::{Answer, Answerer, AppliedVector, Question};
use super::controls::{Condition, rows_of};
use super::degenerate::is_degenerate;
use super::refusal::is_refusal;
use super::report::{ConditionReport, QuickReport};
use super::tally::Tally;
use crate::data::Item;
use crate::error::{Error, Result};
use crate::judge::Agreement;
use crate::progress::Progress;

/// What is asked, and what it is steered with.
#[derive(Debug, Clone)]
pub struct QuickSpec<'a> {
    /// Prompts by category, for example the evaluation part of [`crate::SplitRule::SHIPPED`].
    pub prompts: BTreeMap<Category, Vec<&'a Item>>,
    /// The vectors, for every category of `prompts`; all for the same layers.
    pub vectors: BTreeMap<Category, Vec<LayerVector>>,
    /// Strength of each category.
    pub strengths: BTreeMap<Category, f32>,
    /// Where.
    pub site: Site,
    /// How.
    pub operator: Operator,
    /// On which tokens.
    pub positions: Positions,
    /// The conditions to run, in the report's order.
    pub conditions: Vec<Condition>,
    /// Seed of the random control.
    pub seed: u64,
    /// Length of an answer, for the report; the answerer decides it.
    pub max_new_tokens: usize,
    /// What is known of the judge, for the report.
    pub judge: Vec<Agreement>,
}

/// Asks every prompt under every condition and counts refusals and degenerate texts.
///
/// The answers are judged and dropped: the report holds figures only.
///
/// # Errors
/// [`Error::Spec`] when a category has no vector or strength, and whatever `answerer` returns.
pub fn evaluate_quick(
    answerer: &mut dyn Answerer,
    spec: &QuickSpec<'_>,
    progress: &mut dyn Progress,
) -> Result<QuickReport> {
    let num_prompts: usize = spec.prompts.values().map(Vec::len).sum();
    if num_prompts == 0 {
        return Err(Error::Spec("there is no prompt to evaluate on".to_owned()));
    }
    progress.start("answers", num_prompts * spec.conditions.len());
    let conditions = spec
        .conditions
        .iter()
        .map(|&condition| run_condition(answerer, spec, condition, progress))
        .collect::<Result<Vec<_>>>()?;
    progress.finish();
    Ok(QuickReport {
        num_prompts,
        max_new_tokens: spec.max_new_tokens,
        site: spec.site,
        operator: spec.operator,
        positions: spec.positions,
        layers: spec
            .vectors
            .values()
            .next()
            .map(|rows| rows.iter().map(|row| row.layer).collect())
            .unwrap_or_default(),
        strengths: spec.strengths.clone(),
        seed: spec.seed,
        conditions,
        judge: spec.judge.clone(),
    })
}

fn run_condition(
    answerer: &mut dyn Answerer,
    spec: &QuickSpec<'_>,
    condition: Condition,
    progress: &mut dyn Progress,
) -> Result<ConditionReport> {
    let rows = rows_of(condition, &spec.vectors, spec.seed);
    let mut vectors = Vec::new();
    let mut questions = Vec::new();
    for (category, items) in &spec.prompts {
        let vector_idx = match &rows {
            None => None,
            Some(rows) => {
                vectors.push(applied(spec, category, rows)?);
                Some(vectors.len() - 1)
            }
        };
        questions.extend(
            items.iter().map(|item| Question { vector_idx, ..Question::new(&item.id, &item.text) }),
        );
    }
    let answers = answerer.answer(&questions, &vectors, progress)?;
    if answers.len() != questions.len() {
        return Err(Error::Spec(format!(
            "{} answers to {} questions",
            answers.len(),
            questions.len()
        )));
    }
    Ok(count(spec, condition, &answers))
}

fn applied(
    spec: &QuickSpec<'_>,
    category: &Category,
    rows: &BTreeMap<Category, Vec<LayerVector>>,
) -> Result<AppliedVector> {
    let rows = rows.get(category);
    let (Some(layers), Some(&strength)) = (rows, spec.strengths.get(category)) else {
        return Err(Error::Spec(format!(
            "category `{category}` has prompts but no vector or no strength"
        )));
    };
    Ok(AppliedVector {
        site: spec.site,
        operator: spec.operator,
        positions: spec.positions,
        strength,
        layers: Arc::new(layers.clone()),
    })
}

/// Judges the answers, which stand in the order of the categories' prompts.
fn count(spec: &QuickSpec<'_>, condition: Condition, answers: &[Answer]) -> ConditionReport {
    let mut answers = answers.iter();
    let mut total = Tally::default();
    let mut by_category = BTreeMap::new();
    let mut max_relative_norm: Option<f32> = None;
    for (category, items) in &spec.prompts {
        let mut tally = Tally::default();
        for answer in answers.by_ref().take(items.len()) {
            tally.add(is_refusal(&answer.text), is_degenerate(&answer.text));
            max_relative_norm = match (max_relative_norm, answer.max_relative_norm) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
        }
        total.merge(tally);
        by_category.insert(category.clone(), tally);
    }
    ConditionReport { condition, total, by_category, max_relative_norm }
}
