//! Guided selection, Eq. 1 and pruning on top of it, against `NumPy`.

use serde::Deserialize;

use super::*;
use crate::evaluate::{Answer, AppliedVector, Question};
use crate::extract::derive::{Sides, derive};
use crate::extract::spec::Text;
use crate::extract::variant::{PruneCriterion, Pruning, Variant};
use crate::judge::{Exchange, Verdict};
use crate::progress::NoProgress;

#[derive(Deserialize)]
struct Golden {
    safe: GoldenSide,
    #[serde(rename = "unsafe")]
    not_safe: GoldenSide,
    cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
struct GoldenSide {
    activations: Vec<Vec<f32>>,
    scores: Vec<f64>,
    refused: Vec<bool>,
    degenerate: Vec<bool>,
}

#[derive(Deserialize)]
struct GoldenCase {
    min_score: Option<f64>,
    keep_refusals: bool,
    matched: bool,
    num_safe: usize,
    num_unsafe: usize,
    all: Vec<f64>,
    pruned: Vec<f64>,
}

impl Golden {
    /// The side and place that a text's id, which is also its prompt and its answer, stands for.
    fn place(&self, id: &str) -> (&GoldenSide, usize) {
        let (side, number) = id.split_once(' ').unwrap();
        let side = if side == "safe" { &self.safe } else { &self.not_safe };
        (side, number.parse().unwrap())
    }

    fn activations(&self, texts: &[Text]) -> Vec<&[f32]> {
        let places = texts.iter().map(|text| self.place(&text.id));
        places.map(|(side, number)| side.activations[number].as_slice()).collect()
    }
}

struct Echo;

impl Answerer for Echo {
    fn answer(
        &mut self,
        questions: &[Question],
        _vectors: &[AppliedVector],
        _progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        let answer = |question: &Question| Answer {
            text: question.prompt.clone(),
            token_ids: Vec::new(),
            max_relative_norm: None,
        };
        Ok(questions.iter().map(answer).collect())
    }
}

struct FromFile<'a>(&'a Golden, Property);

impl Judge for FromFile<'_> {
    fn name(&self) -> &str {
        "file"
    }

    fn property(&self) -> Property {
        self.1
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        let verdict = |answer: &Exchange<'_>| {
            let (side, number) = self.0.place(answer.response);
            match self.1 {
                Property::Refusal => Verdict::of_rule(side.refused[number]),
                Property::Degenerate => Verdict::of_rule(side.degenerate[number]),
                Property::Harm | Property::OnTopic => {
                    let score = side.scores[number];
                    Verdict { score, positive: score >= 0.5 }
                }
            }
        };
        Ok(answers.iter().map(verdict).collect())
    }
}

#[test]
fn guided_selection_is_numpys_and_so_are_the_vectors_made_of_it() {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../../../tests/golden/guided.json")).unwrap();
    assert_eq!(golden.cases.len(), 6);
    for case in &golden.cases {
        let pairing = if case.matched { Pairing::Matched } else { Pairing::SafeMean };
        let texts = |side: &str, len: usize| -> Vec<Text> {
            (0..len)
                .map(|number| format!("{side} {number}"))
                .map(|id| Text::prompt(&id, &id))
                .collect()
        };
        let inputs = vec![CategoryInputs {
            category: "adult_content".parse().unwrap(),
            unsafe_side: texts("unsafe", golden.not_safe.scores.len()),
            safe_side: texts("safe", golden.safe.scores.len()),
        }];
        let options = GuidedOptions {
            pairing,
            keep_refusals: case.keep_refusals,
            min_score: case.min_score,
            ..GuidedOptions::default()
        };
        let mut judges = GuidedJudges {
            harm: &mut FromFile(&golden, Property::Harm),
            refusal: &mut FromFile(&golden, Property::Refusal),
            degenerate: &mut FromFile(&golden, Property::Degenerate),
        };
        let guided =
            guided_inputs(&mut Echo, &mut judges, inputs, &options, &mut NoProgress).unwrap();
        let chosen = &guided.inputs[0];
        assert_eq!(chosen.safe_side.len(), case.num_safe);
        assert_eq!(chosen.unsafe_side.len(), case.num_unsafe);
        let sides = Sides {
            safe: golden.activations(&chosen.safe_side),
            not_safe: golden.activations(&chosen.unsafe_side),
        };
        let pruning = Some(Pruning { criterion: PruneCriterion::Norm, keep: 0.5 });
        for (pruning, expected) in [(None, &case.all), (pruning, &case.pruned)] {
            let variant = Variant { pairing, pruning, ..Variant::default() };
            let found = derive(&sides, &variant).unwrap().vector;
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{options:?} {variant}: {found} {expected}"
                );
            }
        }
    }
}
