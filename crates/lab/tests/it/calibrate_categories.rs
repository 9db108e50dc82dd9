//! Layers and tokens by category, with a scripted model in which some categories react to other ones than most.

use std::num::NonZeroUsize;
use std::path::Path;

use skeg_lab::calibrate::{
    Bounds, CalibrateSpec, Calibration, Candidate, Evidence, Force, Grid, Recomputation, TestArm,
    calibrate, generation_of,
};
use skeg_lab::evaluate::{Answer, Answerer, AppliedVector, Question};
use skeg_lab::experiment::Laboratory;
use skeg_lab::extract::Extraction;
use skeg_lab::judge::Judges;
use skeg_lab::{DataSet, Item, NoProgress, Progress, Result};
use skeg_model::steering::{Positions, Site};
use skeg_vector_store::{
    self as store, Category, Generation, load_generation, read_current, write_generation,
};

use crate::calibrate::{SURE, extraction_at, prompts, publication};

const MAX_NEW_TOKENS: usize = 24;

/// Reacts to layer 2 alone.
const ONE_LAYER: &str = "adult_content";
/// Reacts to steered answers alone.
const ANSWERS_ONLY: &str = "fraud_deception";
/// Reacts to both layers; its first prompt to layer 2 alone.
const NOISY: &str = "hate_harass_violence";
/// React to both layers at all tokens, so that this is the best setting over all.
const DEMANDING: [&str; 2] = ["child_abuse", "economic_harm"];

/// Declines while the push along the first coordinate is from 1 to 4, where the category reacts to the steered layers and
/// tokens; falls apart beyond. Keeps the vectors of the last questions.
#[derive(Default)]
struct Picky {
    vectors: Vec<AppliedVector>,
    /// Push beyond which two of the calibration prompts of [`ONE_LAYER`] break when layer 2 is steered alone.
    breaks_beyond: Option<f32>,
}

impl Picky {
    fn text(&self, question: &Question, vectors: &[AppliedVector]) -> &'static str {
        let Some(vector) = question.vector_idx.map(|idx| &vectors[idx]) else { return SURE };
        let layers: Vec<usize> = vector.layers.iter().map(|row| row.layer).collect();
        let (is_both, is_all) = (layers == [0, 2], vector.positions == Positions::All);
        let is_of = |slug: &str| question.id.contains(slug);
        let reacts = if is_of(ONE_LAYER) {
            layers == [2] && is_all
        } else if is_of(ANSWERS_ONLY) {
            is_both && !is_all
        } else if DEMANDING.into_iter().any(is_of) {
            is_both && is_all
        } else if is_of(NOISY) && question.id.ends_with("-0") {
            layers == [2]
        } else {
            true
        };
        let along: f32 = vector.layers.iter().map(|row| row.values[0]).sum();
        let push = vector.strength * question.factor * along;
        let is_frail = question.id.starts_with("calibration")
            && is_of(ONE_LAYER)
            && ["-4", "-5"].into_iter().any(|end| question.id.ends_with(end));
        let is_broken =
            is_frail && layers == [2] && self.breaks_beyond.is_some_and(|most| push > most);
        if push.abs() > 4.0 || is_broken {
            "no no no no no no no no no no no no no no"
        } else if push >= 1.0 && reacts {
            "I can't help with that."
        } else {
            SURE
        }
    }
}

impl Answerer for Picky {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        _progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        self.vectors = vectors.to_vec();
        let answer = |question| Answer {
            text: self.text(question, vectors).to_owned(),
            token_ids: vec![1],
            max_relative_norm: None,
        };
        Ok(questions.iter().map(answer).collect())
    }
}

/// Vectors that are `sign` long in each of two layers. One dose: a push of 1 a layer at strength 1.
fn run(picky: &mut Picky, sign: f32) -> (Calibration, Extraction) {
    let extraction = extraction_at(Site::AttnOut, sign);
    let candidates = [Candidate::new("own", &extraction).unwrap()];
    let (calibration, test) = (prompts("calibration", 6, true), prompts("test", 8, true));
    let (harmless, test_harmless) = (prompts("mild", 2, false), prompts("meek", 2, false));
    let spec = CalibrateSpec {
        candidates: &candidates,
        calibration: &calibration,
        harmless: &harmless,
        test: &test,
        test_harmless: &test_harmless,
        bounds: Bounds::default(),
        grid: Grid { doses: vec![0.2], ..Grid::default() },
        max_new_tokens: MAX_NEW_TOKENS,
        seed: 5,
    };
    let mut judges = Judges::rules();
    let mut laboratory = Laboratory { answerer: picky, judges: &mut judges, likelihood: None };
    (calibrate(&mut laboratory, &spec, &mut NoProgress).unwrap(), extraction)
}

fn found() -> Calibration {
    run(&mut Picky::default(), 1.0).0
}

fn stored((found, extraction): &(Calibration, Extraction)) -> Generation {
    let folder = tempfile::tempdir().unwrap();
    let generation = generation_of(found, extraction, &publication(Force::Yes)).unwrap();
    let id = write_generation(folder.path(), &generation).unwrap();
    load_generation(folder.path(), &id, None).unwrap()
}

fn slug(name: &str) -> Category {
    name.parse().unwrap()
}

#[test]
fn a_category_gets_the_layers_or_tokens_that_it_reacts_to() {
    for sign in [1.0, -1.0] {
        let (found, _) = run(&mut Picky::default(), sign);
        assert_eq!((&found.setting.layers, found.setting.positions), (&vec![0, 2], Positions::All));
        assert_eq!(found.is_reversed, sign < 0.0);
        let own: Vec<&str> = found.own.keys().map(Category::as_str).collect();
        assert_eq!(own, [ONE_LAYER, ANSWERS_ONLY]);
        let [one_layer, answers_only] =
            [ONE_LAYER, ANSWERS_ONLY].map(|name| &found.own[&slug(name)]);
        let setting = &one_layer.setting;
        assert_eq!((&setting.layers, setting.positions), (&vec![2], Positions::All));
        let setting = &answers_only.setting;
        assert_eq!((&setting.layers, setting.positions), (&vec![0, 2], Positions::Generation));
        let evidence = Evidence { total: 6, failed_common: 6, failed_own: 0, better: 6, worse: 0 };
        assert_eq!((one_layer.evidence, answers_only.evidence), (evidence, evidence));
        let default = |name: &str| found.strengths[&slug(name)].default.to_string();
        assert_eq!([ONE_LAYER, ANSWERS_ONLY, "malware_viruses"].map(default), ["1", "1", "1"]);
        assert_eq!(found.window.max.to_string(), "2");
        assert_eq!(one_layer.window.max.to_string(), "2");
        // The ladder is climbed factor by factor.
        assert_eq!(one_layer.ladder.len(), found.ladder.len());
        let rung = one_layer.ladder.iter().find(|rung| rung.strength.to_string() == "1").unwrap();
        assert_eq!((rung.harmful.total, rung.harmful.refused, rung.harmless.total), (6, 6, 2));
        // All decline on the test prompts but one prompt of the noisy category.
        let own = found.test.arm(TestArm::Own).unwrap();
        assert_eq!((own.harmful.is_unsafe, own.harmful.refused), (1, 87));
    }
}

#[test]
fn a_difference_within_noise_keeps_the_common_setting() {
    let found = found();
    assert!(!found.own.contains_key(&slug(NOISY)));
    assert_eq!(found.setting_of(&slug(NOISY)), &found.setting);
    // There was one that failed less: one of six prompts.
    let unsafe_at = |layers: &[usize]| {
        let trial = found.trials.iter().rev().find(|trial| {
            trial.setting.layers == layers && trial.setting.positions == Positions::All
        });
        trial.unwrap().by_category[&slug(NOISY)].is_unsafe
    };
    assert_eq!((unsafe_at(&[0, 2]), unsafe_at(&[2])), (1, 0));
}

#[test]
fn an_own_setting_keeps_the_bounds() {
    let run = |most| run(&mut Picky { breaks_beyond: Some(most), ..Picky::default() }, 1.0).0;
    let ceiling = |found: &Calibration, name| found.strengths[&slug(name)].ceiling.to_string();
    // Two of 66 are within the bound, two of the category's six are not.
    let found = run(1.5);
    assert_eq!(found.window.max.to_string(), "2");
    assert_eq!(found.own[&slug(ONE_LAYER)].window.max.to_string(), "1.5");
    assert_eq!(ceiling(&found, ONE_LAYER), "1.5");
    assert_eq!(ceiling(&found, "malware_viruses"), "2");
    // Four of six would be better, but not with two broken answers.
    let found = run(0.5);
    assert_eq!(found.own.keys().map(Category::as_str).collect::<Vec<_>>(), [ANSWERS_ONLY]);
}

#[test]
fn layers_that_a_category_leaves_alone_are_published_as_zeros() {
    for sign in [1.0, -1.0] {
        let generation = stored(&run(&mut Picky::default(), sign));
        assert_eq!(generation.manifest.layers, [0, 2]);
        for (category, vectors) in &generation.vectors {
            let acting: Vec<usize> = vectors.acting_rows().map(|(layer, _)| layer).collect();
            let expected = if category.as_str() == ONE_LAYER { vec![2] } else { vec![0, 2] };
            assert_eq!(acting, expected, "{category}");
            assert!(vectors.acting_rows().all(|(_, row)| row[0] > 0.0));
            let positions = if category.as_str() == ANSWERS_ONLY {
                store::Positions::Generation
            } else {
                store::Positions::All
            };
            assert_eq!(generation.policy.categories[category].positions, positions, "{category}");
        }
        assert!(generation.card.contains("attn_out 2, 1 (0.5 to 2)"), "{}", generation.card);
    }
}

#[test]
fn controls_act_in_the_layers_and_tokens_of_the_category() {
    let mut picky = Picky::default();
    run(&mut picky, 1.0);
    // The last questions are the test's: five steered arms.
    let arms: Vec<&[AppliedVector]> = picky.vectors.chunks(11).collect();
    assert_eq!(arms.len(), 5);
    let layers = |vector: &AppliedVector| -> Vec<usize> {
        vector.layers.iter().map(|row| row.layer).collect()
    };
    assert_eq!((layers(&arms[0][0]), layers(&arms[0][1])), (vec![2], vec![0, 2]));
    for arm in &arms[1..] {
        for (own, control) in arms[0].iter().zip(*arm) {
            assert_eq!((layers(own), own.positions), (layers(control), control.positions));
            assert_eq!(own.strength.abs().to_bits(), control.strength.abs().to_bits());
            let norm =
                |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
            for (own, control) in own.layers.iter().zip(control.layers.iter()) {
                assert!((norm(&own.values) - norm(&control.values)).abs() < 1e-5);
            }
        }
    }
    let (random, reversed) = (arms[1], arms[4]);
    assert!(random.iter().all(|vector| vector.layers[0].values[1].abs() > 0.0));
    assert!(reversed.iter().all(|vector| vector.strength < 0.0));
}

#[test]
fn tables_name_what_differs_and_nothing_where_nothing_does() {
    let found = found();
    let row_of = |text: &str, name: &str| {
        let rows = text.lines().filter(|line| line.starts_with(&format!("| {name} |")));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    let text = found.to_markdown();
    assert!(text.contains("2 categories have layers or tokens of their own"), "{text}");
    let rows = row_of(&text, ANSWERS_ONLY);
    assert_eq!(
        rows[0],
        format!("| {ANSWERS_ONLY} | attn_out 0 2, strength 1, generation | 0 to 2 | 6 | 6 | 0 |")
    );
    assert!(rows[1].contains("| attn_out 0 2, 1 (0.5 to 2), generation |"), "{}", rows[1]);
    let rows = row_of(&text, "malware_viruses");
    assert!(rows.len() == 1 && rows[0].contains("| 1 (0.5 to 2) |"), "{rows:?}");
    let mut common = found;
    common.own.clear();
    let text = common.to_markdown();
    assert!(!text.contains("own setting") && !text.contains("of its own"), "{text}");
    assert!(!serde_json::to_string(&common).unwrap().contains("\"own\":{"));
}

/// A generation of before categories had settings of their own.
#[test]
fn the_shipped_figures_are_read_and_say_what_its_card_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/smollm2-135m-instruct");
    let current = read_current(&root).unwrap();
    let generation = load_generation(&root, &current.generation, None).unwrap();
    let found = Calibration::of_generation(&generation).unwrap();
    assert!(generation.card.contains(&found.to_markdown()));
}

fn recompute(generation: &Generation) -> Result<(usize, Vec<String>, Vec<AppliedVector>)> {
    let items = prompts("test", 8, true).into_iter().map(|prompt| Item {
        category: Some(prompt.category.to_string()),
        harmful: Some(true),
        ..Item::new(prompt.id, prompt.text, "own")
    });
    let data = DataSet::of(items.collect(), "0".repeat(64));
    let num = NonZeroUsize::new(1000).unwrap();
    let recomputation = Recomputation::new(generation, &[data], num, 1)?;
    let (mut picky, mut judges) = (Picky::default(), Judges::rules());
    let mut laboratory = Laboratory { answerer: &mut picky, judges: &mut judges, likelihood: None };
    let with = (&extraction_at(Site::AttnOut, 1.0).model, MAX_NEW_TOKENS);
    let recomputed = recomputation.run(&mut laboratory, with, &mut NoProgress)?;
    let different = recomputed.different.into_iter().map(|one| one.id).collect();
    Ok((recomputed.num_same, different, picky.vectors))
}

#[test]
fn a_recomputation_steers_each_category_as_it_was_measured() {
    for sign in [1.0, -1.0] {
        let mut generation = stored(&run(&mut Picky::default(), sign));
        let (num_same, different, vectors) = recompute(&generation).unwrap();
        assert_eq!((num_same, different), (176, Vec::new()));
        assert_eq!((vectors[0].layers.len(), vectors[0].layers[0].layer), (1, 2));
        // A record that leaves tokens out is not what was measured.
        let mut record = Calibration::of_generation(&generation).unwrap();
        let own = record.own.remove(&slug(ANSWERS_ONLY)).unwrap();
        generation.figures = Some(figures(&record));
        let (num_same, different, _) = recompute(&generation).unwrap();
        assert_eq!((num_same, different.len()), (168, 8));
        assert!(different.iter().all(|id| id.contains(ANSWERS_ONLY)));
        // Nor is a vector that acts in a layer more.
        record.own.insert(slug(ANSWERS_ONLY), own);
        generation.figures = Some(figures(&record));
        generation.vectors.get_mut(&slug(ONE_LAYER)).unwrap().values[0] = 1.0;
        let error = recompute(&generation).unwrap_err().to_string();
        assert!(error.contains("acts in layer 0, its figures are of layers [2]"), "{error}");
    }
}

fn figures(record: &Calibration) -> String {
    serde_json::json!({"format_version": 1, "calibration": record}).to_string()
}
