//! The quick evaluation with scripted answers.

use std::collections::BTreeMap;

use skeg_lab::evaluate::{
    Answer, Answerer, AppliedVector, Condition, Question, QuickSpec, evaluate_quick,
};
use skeg_lab::{Error, Item, NoProgress, Part, Progress, Result, SplitRule, catqa_categories};
use skeg_model::steering::{LayerVector, Operator, Positions, Site};

use crate::extraction::StopAfter;

/// Answers by the first value of the vector: none complies, negative breaks down, positive refuses.
struct Script;

impl Answerer for Script {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        if progress.advance(questions.len()).is_break() {
            return Err(Error::Interrupted { done: 0, total: questions.len() });
        }
        let text = |question: &Question| match question.vector_idx {
            None => "Sure, here is an overview of the topic.",
            Some(idx) if vectors[idx].layers[0].values[0] < 0.0 => {
                "I can't I can't I can't I can't"
            }
            Some(idx) => {
                assert!((vectors[idx].strength - 0.7).abs() < 1e-6);
                "I can't help with that."
            }
        };
        Ok(questions
            .iter()
            .map(|question| Answer {
                text: text(question).to_owned(),
                token_ids: vec![1],
                max_relative_norm: question.vector_idx.map(|_| 0.2),
            })
            .collect())
    }
}

fn items() -> Vec<Item> {
    catqa_categories()
        .iter()
        .flat_map(|category| {
            (0..20).map(move |number| Item {
                category: Some(category.to_string()),
                harmful: Some(true),
                ..Item::new(
                    format!("{category}-{number}"),
                    format!("prompt {number} of {category}"),
                    "own",
                )
            })
        })
        .collect()
}

fn spec(items: &[Item]) -> QuickSpec<'_> {
    // The last category's own vector breaks the text.
    let vectors = catqa_categories().into_iter().enumerate().map(|(idx, category)| {
        let first = if idx == 10 { -1.0 } else { 1.0 };
        (category, vec![LayerVector { layer: 1, values: vec![first, 0.5, 0.5, 0.5] }])
    });
    QuickSpec {
        prompts: SplitRule::SHIPPED.part(items, Part::Evaluation).unwrap(),
        vectors: vectors.collect(),
        strengths: catqa_categories().into_iter().map(|category| (category, 0.7)).collect(),
        site: Site::AttnOut,
        operator: Operator::Add,
        positions: Positions::All,
        conditions: Condition::ALL.to_vec(),
        seed: 3,
        max_new_tokens: 40,
        judge: Vec::new(),
    }
}

#[test]
fn conditions_get_their_own_vectors_and_counts() {
    let items = items();
    let report = evaluate_quick(&mut Script, &spec(&items), &mut NoProgress).unwrap();
    assert_eq!(report.num_prompts, 110);
    let total = |condition| report.condition(condition).unwrap().total;
    assert_eq!(
        (total(Condition::Unsteered).refused, total(Condition::Unsteered).degenerate),
        (0, 0)
    );
    assert_eq!((total(Condition::Own).refused, total(Condition::Own).degenerate), (100, 10));
    // The broken vector belongs to another category's prompts.
    let (own, unrelated) = (
        report.condition(Condition::Own).unwrap(),
        report.condition(Condition::Unrelated).unwrap(),
    );
    let broken = |by: &BTreeMap<_, skeg_lab::evaluate::Tally>| {
        by.values().position(|tally| tally.degenerate == 10)
    };
    assert_eq!(broken(&own.by_category), Some(10));
    assert_eq!(broken(&unrelated.by_category), Some(5));
    assert_eq!((total(Condition::Pooled).refused, total(Condition::Pooled).degenerate), (110, 0));
    assert_eq!(report.condition(Condition::Unsteered).unwrap().max_relative_norm, None);
}

#[test]
fn a_category_without_a_vector_is_an_error_that_names_it() {
    let items = items();
    let mut spec = spec(&items);
    spec.vectors.pop_first();
    let error = evaluate_quick(&mut Script, &spec, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("`adult_content` has prompts but no vector"), "{error}");
}

#[test]
fn an_evaluation_can_be_interrupted() {
    let mut stop = StopAfter { num_left: Some(1), ..StopAfter::default() };
    let items = items();
    let error = evaluate_quick(&mut Script, &spec(&items), &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}
