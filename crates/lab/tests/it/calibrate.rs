//! Calibration with a scripted model whose answers follow a known dose-response.

use skeg_lab::calibrate::{
    Bounds, CalibrateSpec, Calibration, Candidate, Force, Grid, Publication, TestArm, Trial,
    calibrate, generation_of,
};
use skeg_lab::evaluate::{Answer, Answerer, AppliedVector, Question};
use skeg_lab::experiment::{Laboratory, Outcome, Prompt};
use skeg_lab::extract::Extraction;
use skeg_lab::judge::Judges;
use skeg_lab::{Error, NoProgress, Progress, Result, catqa_categories};
use skeg_model::steering::{Positions, Site};
use skeg_vector_store::{Action, Orientation, load_generation, write_generation};

use crate::extraction::StopAfter;

/// Declines while the push along the first coordinate at the attention output lies in a window, falls apart beyond it and
/// below its mirror, and complies otherwise; some prompts are never moved.
#[derive(Default)]
pub(crate) struct Surface {
    pub(crate) num_answers: usize,
}

pub(crate) const SURE: &str = "Sure, here is an overview of the topic that was asked about.";

impl Answerer for Surface {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        if progress.advance(questions.len()).is_break() {
            return Err(Error::Interrupted { done: 0, total: questions.len() });
        }
        self.num_answers += questions.len();
        let text = |question: &Question| {
            let push = question.vector_idx.map_or(0.0, |idx| {
                let vector = &vectors[idx];
                let along: f32 = vector.layers.iter().map(|row| row.values[0]).sum();
                let acts = vector.site == Site::AttnOut && vector.positions == Positions::All;
                if acts { vector.strength * question.factor * along } else { 0.0 }
            });
            let is_stubborn = question.prompt.contains("stubborn");
            if !(-4.0..=4.0).contains(&push) {
                "no no no no no no no no no no no no no no"
            } else if push >= 1.0 && !is_stubborn {
                "I can't help with that."
            } else {
                SURE
            }
        };
        let answer = |question| Answer {
            text: text(question).to_owned(),
            token_ids: vec![1],
            max_relative_norm: question.vector_idx.map(|_| 0.3),
        };
        Ok(questions.iter().map(answer).collect())
    }
}

/// Vectors along the first coordinate, `sign` long in each of two layers.
pub(crate) fn extraction_at(site: Site, sign: f32) -> Extraction {
    let mut extraction = crate::generation::extraction();
    extraction.site = site;
    for category in extraction.categories.values_mut() {
        for layer in &mut category.layers {
            (layer.vector, layer.norm, layer.relative_norm) = (vec![sign, 0.0, 0.0, 0.0], 1.0, 0.2);
        }
    }
    extraction
}

pub(crate) fn prompts(part: &str, per_category: usize, is_harmful: bool) -> Vec<Prompt> {
    let prompt = |category: &skeg_vector_store::Category, number: usize| Prompt {
        id: format!("{part}-{category}-{number}"),
        // One category cannot be moved.
        text: if category.as_str() == "political_campaigning" && is_harmful {
            format!("stubborn {part} {number}")
        } else {
            format!("{part} {number}")
        },
        category: category.clone(),
        is_harmful,
    };
    let of = |category| (0..per_category).map(move |number| prompt(category, number));
    catqa_categories().iter().flat_map(of).collect()
}

pub(crate) fn run(extractions: &[Extraction], progress: &mut dyn Progress) -> Result<Calibration> {
    let candidates: Vec<Candidate> = extractions
        .iter()
        .map(|one| Candidate::new(format!("{:?}", one.site), one).unwrap())
        .collect();
    let (calibration, test) = (prompts("calibration", 6, true), prompts("test", 8, true));
    let (harmless, test_harmless) = (prompts("mild", 2, false), prompts("meek", 2, false));
    let spec = CalibrateSpec {
        candidates: &candidates,
        calibration: &calibration,
        harmless: &harmless,
        test: &test,
        test_harmless: &test_harmless,
        bounds: Bounds { max_degenerate: 0.05, ..Bounds::default() },
        grid: Grid::default(),
        max_new_tokens: 24,
        seed: 5,
    };
    let (mut surface, mut judges) = (Surface::default(), Judges::rules());
    let mut laboratory =
        Laboratory { answerer: &mut surface, judges: &mut judges, likelihood: None };
    calibrate(&mut laboratory, &spec, progress)
}

#[test]
fn the_setting_that_acts_is_found_and_proven() {
    let extractions = [extraction_at(Site::ResidPost, 1.0), extraction_at(Site::AttnOut, 1.0)];
    let found = run(&extractions, &mut NoProgress).unwrap();
    assert_eq!((found.setting.candidate_idx, found.site), (1, Site::AttnOut));
    assert_eq!(found.setting.positions, Positions::All);
    assert!(!found.is_reversed);
    // The push is strength times the number of layers: declines from 1 to 4.
    let push = |strength: f32| strength * found.setting.layers.len() as f32;
    assert!((1.0..=4.0).contains(&push(found.setting.strength)), "{:?}", found.setting);
    assert!(push(found.window.max) <= 4.0 && found.window.max >= found.setting.strength);
    let at = |arm| found.test.arm(arm).unwrap();
    assert_eq!(at(TestArm::Unsteered).harmful.is_unsafe, 88);
    assert_eq!((at(TestArm::Own).harmful.is_unsafe, at(TestArm::Own).harmful.refused), (8, 80));
    // Harmless prompts are steered as well, and there is no judge that would tell them apart.
    assert_eq!(
        (at(TestArm::Unsteered).harmless.refused, at(TestArm::Own).harmless.refused),
        (0, 22)
    );
    assert_eq!(at(TestArm::SystemPrompt).harmful.is_unsafe, 88);
    assert_eq!(at(TestArm::Own).outcomes["test-adult_content-0"], Outcome::Refused);
    let failed: Vec<&str> = found
        .gates
        .iter()
        .filter(|(_, gate)| !gate.passed)
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(failed, ["political_campaigning"]);
    // Both signs, through zero, beyond the break.
    let strengths: Vec<f32> = found.ladder.iter().map(|rung| rung.strength).collect();
    assert!(strengths.is_sorted() && strengths[0] < 0.0 && strengths.contains(&0.0));
    assert!(found.ladder.last().unwrap().strength > 2.5 * found.setting.strength);
    let json = serde_json::to_string(&found).unwrap();
    let read: Calibration = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (read.setting, read.gates, read.trials.len()),
        (found.setting, found.gates, found.trials.len())
    );
    assert!(!json.contains(SURE));
}

#[test]
fn a_ladder_whose_text_breaks_is_climbed_no_further() {
    let found = run(&[extraction_at(Site::AttnOut, 4.0)], &mut NoProgress).unwrap();
    let first_round = || found.trials.iter().filter(|trial| trial.harmless.total == 0);
    let (mut num_broken, mut num_ended) = (0, 0);
    for broken in first_round().filter(|trial| trial.harmful.degenerate > 0) {
        let is_further = |other: &&Trial| {
            let (own, other) = (&broken.setting, &other.setting);
            (&own.layers, own.positions, own.operator)
                == (&other.layers, other.positions, other.operator)
                && own.strength.is_sign_negative() == other.strength.is_sign_negative()
                && other.strength.abs() > own.strength.abs()
        };
        num_broken += 1;
        num_ended += usize::from(!first_round().any(|other| is_further(&other)));
    }
    assert!(num_broken > 0);
    assert_eq!(num_ended, num_broken);
}

#[test]
fn vectors_that_point_the_wrong_way_are_turned_round() {
    let extractions = [extraction_at(Site::AttnOut, -1.0)];
    let found = run(&extractions, &mut NoProgress).unwrap();
    assert!(found.is_reversed && found.setting.strength > 0.0);
    assert_eq!(found.test.arm(TestArm::Own).unwrap().harmful.refused, 80);
    let generation = generation_of(&found, &extractions[0], &publication(Force::No)).unwrap();
    assert_eq!(generation.orientation, Orientation::Reversed);
    assert!(generation.vectors.values().all(|vectors| vectors.values[0] > 0.0));
}

pub(crate) fn publication(force: Force) -> Publication {
    Publication {
        model: "tiny".to_owned(),
        data: "own prompts".to_owned(),
        split: "by hand.".to_owned(),
        force,
    }
}

#[test]
fn what_passed_steers_and_what_failed_is_logged_or_forced() {
    let extractions = [extraction_at(Site::AttnOut, 1.0)];
    let found = run(&extractions, &mut NoProgress).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let load = |force| {
        let generation = generation_of(&found, &extractions[0], &publication(force)).unwrap();
        let id = write_generation(folder.path(), &generation).unwrap();
        load_generation(folder.path(), &id, None).unwrap()
    };
    let generation = load(Force::No);
    for (category, rule) in &generation.policy.categories {
        let expected =
            if category.as_str() == "political_campaigning" { Action::Log } else { Action::Steer };
        assert_eq!(rule.action, expected, "{category}");
        assert_eq!(rule.strength, found.strengths[category]);
    }
    assert_eq!(generation.manifest.layers, found.setting.layers);
    assert!(generation.card.contains("not better than `unsteered` at 95 %"));
    let own = generation.manifest.measured.iter().find(|one| {
        one.metric == "unsafe_rate" && one.condition == "own category" && one.category.is_none()
    });
    assert!((own.unwrap().value - 8.0 / 88.0).abs() < 1e-6);
    let forced = load(Force::Yes);
    assert!(forced.policy.categories.values().all(|rule| rule.action == Action::Steer));
}

#[test]
fn vectors_that_do_nothing_are_not_published() {
    let extractions = [extraction_at(Site::ResidPost, 1.0)];
    let found = run(&extractions, &mut NoProgress).unwrap();
    assert!(found.gates.values().all(|gate| !gate.passed));
    let error = generation_of(&found, &extractions[0], &publication(Force::No)).unwrap_err();
    assert!(error.to_string().contains("no category passed the gate"), "{error}");
}

#[test]
fn a_calibration_can_be_interrupted() {
    let mut stop = StopAfter { num_left: Some(100), ..StopAfter::default() };
    let error = run(&[extraction_at(Site::AttnOut, 1.0)], &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}
