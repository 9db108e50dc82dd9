//! Figures of a calibration with the scripted model, measured again.

use std::num::NonZeroUsize;

use skeg_lab::calibrate::{Calibration, Force, Recomputation, Recomputed, TestArm, generation_of};
use skeg_lab::evaluate::{Answer, Answerer, AppliedVector, Question};
use skeg_lab::experiment::{Laboratory, Outcome};
use skeg_lab::judge::Judges;
use skeg_lab::{DataSet, Error, Item, NoProgress, Progress, Result};
use skeg_model::ModelIdentity;
use skeg_model::steering::Site;
use skeg_vector_store::{Generation, load_generation, write_generation};

use crate::calibrate::{SURE, Surface, extraction_at, prompts, publication, run};

/// Answers of at most so many tokens are on record.
const MAX_NEW_TOKENS: usize = 24;

/// A calibrated generation as it is read from disk, whose vectors point along `sign`.
fn generation(sign: f32) -> Generation {
    let extractions = [extraction_at(Site::AttnOut, sign)];
    let found = run(&extractions, &mut NoProgress).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let generation = generation_of(&found, &extractions[0], &publication(Force::No)).unwrap();
    let id = write_generation(folder.path(), &generation).unwrap();
    load_generation(folder.path(), &id, None).unwrap()
}

/// The test prompts and some more, as they stand in the data file that the manifest names.
fn data() -> DataSet {
    let prompts = [prompts("test", 8, true), prompts("calibration", 6, true)].concat();
    let items = prompts.into_iter().map(|prompt| Item {
        category: Some(prompt.category.to_string()),
        harmful: Some(true),
        ..Item::new(prompt.id, prompt.text, "own")
    });
    DataSet::of(items.collect(), "0".repeat(64))
}

fn model() -> ModelIdentity {
    extraction_at(Site::AttnOut, 1.0).model
}

/// The scripted model, whose steered answers to some prompts have changed; it keeps what it was given.
struct Altered {
    surface: Surface,
    complies_to: &'static str,
    questions: Vec<Question>,
    vectors: Vec<AppliedVector>,
}

impl Answerer for Altered {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        (self.questions, self.vectors) = (questions.to_vec(), vectors.to_vec());
        let mut answers = self.surface.answer(questions, vectors, progress)?;
        for (question, answer) in questions.iter().zip(&mut answers) {
            if question.vector_idx.is_some() && question.id.contains(self.complies_to) {
                SURE.clone_into(&mut answer.text);
            }
        }
        Ok(answers)
    }
}

/// Asks `num` prompts again; the steered ones whose id contains `complies_to` are answered otherwise than before.
fn recompute(
    generation: &Generation,
    data: &DataSet,
    num: usize,
    complies_to: &'static str,
) -> Result<(Recomputed, Altered)> {
    let num = NonZeroUsize::new(num).unwrap();
    let recomputation = Recomputation::new(generation, std::slice::from_ref(data), num, 1)?;
    let (questions, vectors) = (Vec::new(), Vec::new());
    let mut answerer = Altered { surface: Surface::default(), complies_to, questions, vectors };
    let mut judges = Judges::rules();
    let mut laboratory =
        Laboratory { answerer: &mut answerer, judges: &mut judges, likelihood: None };
    let with = (&model(), MAX_NEW_TOKENS);
    let recomputed = recomputation.run(&mut laboratory, with, &mut NoProgress)?;
    Ok((recomputed, answerer))
}

const NOBODY: &str = "no prompt has this id";

#[test]
fn an_unchanged_generation_gives_the_recorded_outcomes() {
    for sign in [1.0, -1.0] {
        let generation = generation(sign);
        let (all, answerer) = recompute(&generation, &data(), 1000, NOBODY).unwrap();
        let expected = Recomputed {
            num_asked: 88,
            num_missing_in_data: 0,
            is_recorded_data: true,
            num_same: 176,
            different: Vec::new(),
        };
        assert_eq!(all, expected, "{sign}");
        // Half of them unsteered, none of the calibration prompts.
        let (steered, unsteered): (Vec<&Question>, Vec<&Question>) =
            answerer.questions.iter().partition(|question| question.vector_idx.is_some());
        assert_eq!((steered.len(), unsteered.len()), (88, 88));
        assert!(answerer.questions.iter().all(|question| question.id.starts_with("test-")));
        // Turned-round vectors are stored turned round.
        let strengths = &Calibration::of_generation(&generation).unwrap().strengths;
        for (vector, strength) in answerer.vectors.iter().zip(strengths.values()) {
            assert_eq!(vector.strength.to_bits(), strength.default.to_bits());
            assert!(vector.strength > 0.0 && vector.layers[0].values[0] > 0.0);
        }
        let (few, _) = recompute(&generation, &data(), 11, NOBODY).unwrap();
        assert_eq!((few.num_asked, few.num_same, few.different.len()), (11, 22, 0));
    }
}

#[test]
fn answers_that_changed_are_named() {
    let (found, _) = recompute(&generation(1.0), &data(), 1000, "adult_content").unwrap();
    assert_eq!((found.num_same, found.different.len()), (168, 8));
    assert_eq!(
        (found.num_different(TestArm::Unsteered), found.num_different(TestArm::Own)),
        (0, 8)
    );
    for one in &found.different {
        assert!(one.id.starts_with("test-adult_content-"), "{one:?}");
        assert_eq!((one.recorded, one.found), (Outcome::Refused, Outcome::Unsafe));
    }
    // One of each category: one of them is of this one.
    let (few, _) = recompute(&generation(1.0), &data(), 11, "adult_content").unwrap();
    assert_eq!((few.num_same, few.different.len()), (21, 1));
}

#[test]
fn a_changed_record_is_noticed() {
    let mut generation = generation(1.0);
    let mut record = Calibration::of_generation(&generation).unwrap();
    for arm in &mut record.test.arms {
        let outcome = arm.outcomes.get_mut("test-child_abuse-3").unwrap();
        *outcome = Outcome::Answered;
    }
    generation.figures = Some(figures(&record));
    let (found, _) = recompute(&generation, &data(), 1000, NOBODY).unwrap();
    let different: Vec<(TestArm, Outcome)> =
        found.different.iter().map(|one| (one.arm, one.found)).collect();
    let expected = [(TestArm::Unsteered, Outcome::Unsafe), (TestArm::Own, Outcome::Refused)];
    assert_eq!(different, expected);
}

fn figures(record: &Calibration) -> String {
    serde_json::json!({"format_version": 1, "calibration": record}).to_string()
}

#[test]
fn rows_of_zeros_are_left_out() {
    let mut generation = generation(1.0);
    let (category, vectors) = generation.vectors.first_key_value().unwrap();
    let (category, layers) = (category.clone(), vectors.layers.clone());
    let hidden_size = vectors.hidden_size();
    assert!(layers.len() > 1);
    generation.vectors.get_mut(&category).unwrap().values[..hidden_size].fill(0.0);
    let (_, answerer) = recompute(&generation, &data(), 1000, NOBODY).unwrap();
    let layers_of = |vector: &AppliedVector| -> Vec<usize> {
        vector.layers.iter().map(|row| row.layer).collect()
    };
    assert_eq!(layers_of(&answerer.vectors[0]), layers[1..]);
    assert!(answerer.vectors[1..].iter().all(|vector| layers_of(vector) == layers));
}

#[test]
fn a_category_without_a_safe_strength_is_asked_at_none() {
    let mut generation = generation(1.0);
    let mut record = Calibration::of_generation(&generation).unwrap();
    let category = record.strengths.keys().next().unwrap().clone();
    record.strengths.remove(&category);
    generation.figures = Some(figures(&record));
    let (found, answerer) = recompute(&generation, &data(), 1000, NOBODY).unwrap();
    assert_eq!(answerer.vectors[0].strength.to_bits(), 0.0_f32.to_bits());
    assert_eq!(found.num_different(TestArm::Own), 8);
}

fn error_of(change: impl FnOnce(&mut Generation, &mut DataSet)) -> String {
    let (mut generation, mut data) = (generation(1.0), data());
    change(&mut generation, &mut data);
    let error = recompute(&generation, &data, 5, NOBODY).map(|(found, _)| found).unwrap_err();
    assert!(matches!(error, Error::Data(_) | Error::Spec(_)), "{error}");
    error.to_string()
}

#[test]
fn figures_that_are_missing_or_others_are_refused() {
    let error = error_of(|generation, _| generation.figures = None);
    assert!(error.contains("has no figures.json"), "{error}");
    let text = "{\"format_version\": 1, \"share\": 0.5}".to_owned();
    let error = error_of(|generation, _| generation.figures = Some(text));
    assert!(error.contains("holds no calibration") && error.contains("`calibration`"), "{error}");
    let error = error_of(|generation, _| {
        let mut record = Calibration::of_generation(generation).unwrap();
        record.site = Site::ResidPost;
        generation.figures = Some(figures(&record));
    });
    assert!(error.contains("ResidPost") && error.contains("AttnOut"), "{error}");
    let error = error_of(|generation, _| {
        let mut record = Calibration::of_generation(generation).unwrap();
        record.setting.layers.push(7);
        generation.figures = Some(figures(&record));
    });
    assert!(error.contains("its figures are of"), "{error}");
    let error = error_of(|generation, _| {
        let mut record = Calibration::of_generation(generation).unwrap();
        record.test.arms.retain(|one| one.arm != TestArm::Own);
        generation.figures = Some(figures(&record));
    });
    assert!(error.contains("lack the test"), "{error}");
    let error = error_of(|generation, _| {
        let mut record = Calibration::of_generation(generation).unwrap();
        record.test.arms[0].outcomes.remove("test-adult_content-0");
        generation.figures = Some(figures(&record));
    });
    assert!(error.contains("109 outcomes of 110 test prompts"), "{error}");
}

#[test]
fn other_means_than_the_recorded_are_refused() {
    let generation = generation(1.0);
    let num = NonZeroUsize::new(5).unwrap();
    let recomputation = Recomputation::new(&generation, &[data()], num, 1).unwrap();
    let error = |judges: &mut Judges, model: &ModelIdentity, max_new_tokens: usize| {
        let mut answerer = Surface::default();
        let mut laboratory = Laboratory { answerer: &mut answerer, judges, likelihood: None };
        let with = (model, max_new_tokens);
        let error = recomputation.run(&mut laboratory, with, &mut NoProgress).unwrap_err();
        assert!(matches!(error, Error::Spec(_)), "{error}");
        error.to_string()
    };
    let mut judges = Judges::rules();
    judges.harm = Some(Judges::rules().refusal);
    let found = error(&mut judges, &model(), MAX_NEW_TOKENS);
    assert!(found.contains("on record are refusal phrases, repetition measure"), "{found}");
    let found = error(&mut Judges::rules(), &model(), 25);
    assert!(found.contains("25 tokens, on record are 24"), "{found}");
    let other = ModelIdentity { weights_id: "c".repeat(64), ..model() };
    let found = error(&mut Judges::rules(), &other, MAX_NEW_TOKENS);
    assert!(found.contains(&format!("weights are {}", "c".repeat(64))), "{found}");
    let other = ModelIdentity { architecture_id: "c".repeat(64), ..model() };
    let found = error(&mut Judges::rules(), &other, MAX_NEW_TOKENS);
    assert!(found.contains("architecture"), "{found}");
}

#[test]
fn prompts_that_are_not_in_the_data_are_counted() {
    let generation = generation(1.0);
    let mut data = data();
    data.items.retain(|item| item.id == "test-adult_content-3" || item.id.starts_with("calib"));
    data.sha256 = "9".repeat(64);
    let (found, _) = recompute(&generation, &data, 5, NOBODY).unwrap();
    assert_eq!((found.num_asked, found.num_missing_in_data), (1, 87));
    assert!(!found.is_recorded_data);
    let error = error_of(|_, data| data.items.retain(|item| !item.id.starts_with("test")));
    assert!(error.contains("none of the 88 harmful test prompts"), "{error}");
    // Harmless prompts met vectors by turns, which the record does not say.
    let error =
        error_of(|_, data| data.items.iter_mut().for_each(|item| item.harmful = Some(false)));
    assert!(error.contains("none of the 88"), "{error}");
}

#[test]
fn ids_that_may_be_anothers_are_refused() {
    let error = error_of(|_, data| {
        let first = data.items[0].clone();
        data.items.push(Item { text: "another".to_owned(), ..first });
    });
    assert!(error.contains("stands for two different prompts"), "{error}");
    assert!(!error.contains("another"), "{error}");
    let error = error_of(|_, data| {
        let meek = prompts("meek", 2, true).into_iter().map(|prompt| Item {
            category: Some(prompt.category.to_string()),
            harmful: Some(true),
            ..Item::new(prompt.id, prompt.text, "own")
        });
        data.items.extend(meek);
    });
    assert!(error.contains("has 10 harmful prompts") && error.contains("8 were tested"), "{error}");
}
