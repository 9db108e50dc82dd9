//! Null-space projection and conditional strength: against `NumPy`, on a tiny random Llama, and on a real model.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use skeg_lab::extract::{
    ActivationSpec, Activations, PromptForm, RunOptions, Side, Text, TokenMode, activations,
    activations_encoded, extract_encoded,
};
use skeg_lab::improve::{ConditionalStrength, NullSpace, ProjectionStrength, StrengthFactor};
use skeg_lab::{Divided, Error, Item, NoProgress, ReadOptions, Shares, read_data};
use skeg_model::steering::Site;
use skeg_model::{LoadOptions, LoadedModel};

use crate::extraction::{StopAfter, identity, inputs, llama, options, spec};
use crate::judge::data_dir;

#[derive(Deserialize)]
struct Golden {
    benign: Vec<Vec<f32>>,
    harmful: Vec<Vec<f32>>,
    vector: Vec<f32>,
    variance_kept: f64,
    ridge: f64,
    rank: usize,
    projector: Vec<Vec<f64>>,
    projected: Vec<f64>,
    projected_keep_norm: Vec<f64>,
    weights: Vec<f64>,
    conditional_factors: Vec<f64>,
    projection_scores: Vec<f64>,
    projection_scores_along_vector: Vec<f64>,
}

fn slices(rows: &[Vec<f32>]) -> Vec<&[f32]> {
    rows.iter().map(Vec::as_slice).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Every number within a part of the largest.
fn close(what: &str, found: &[f64], expected: &[f64], part: f64) {
    let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= part * largest, "{what}: {found}, NumPy {expected}");
    }
}

#[test]
fn projector_and_strengths_are_numpys() {
    let golden = include_str!("../../../../tests/golden/null_space.json");
    let golden: Vec<Golden> = serde_json::from_str(golden).unwrap();
    assert_eq!(golden.len(), 3);
    for case in golden {
        let (benign, harmful) = (slices(&case.benign), slices(&case.harmful));
        let space = NullSpace::fit(&benign, case.variance_kept).unwrap();
        assert_eq!(space.rank(), case.rank);
        assert_eq!(NullSpace::fit_rank(&benign, case.rank).unwrap(), space);
        for (dimension, row) in case.projector.iter().enumerate() {
            let mut unit = vec![0.0; space.hidden_size()];
            unit[dimension] = 1.0;
            close("projector", &wide(&space.project(&unit)), row, 1e-6);
        }
        let keep_norm = space.project_keep_norm(&case.vector).unwrap();
        close("projected", &wide(&space.project(&case.vector)), &case.projected, 1e-6);
        close("norm kept", &wide(&keep_norm), &case.projected_keep_norm, 1e-6);

        let rows = || benign.iter().chain(&harmful);
        let conditional = ConditionalStrength::fit(&benign, &harmful, &space, case.ridge).unwrap();
        close("weights", &conditional.weights, &case.weights, 1e-9);
        let factors: Vec<f64> = rows().map(|row| conditional.factor(row)).collect();
        close("factors", &factors, &case.conditional_factors, 1e-9);
        let means = ProjectionStrength::fit(&benign, &harmful).unwrap();
        let scores: Vec<f64> = rows().map(|row| means.score(row)).collect();
        close("scores", &scores, &case.projection_scores, 1e-9);
        let along = ProjectionStrength::fit_along(&case.vector, &benign, &harmful).unwrap();
        let scores: Vec<f64> = rows().map(|row| along.score(row)).collect();
        close("scores along", &scores, &case.projection_scores_along_vector, 1e-9);
    }
}

/// Rows of small whole numbers, `[rows, 6]`.
fn some_rows(num_rows: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<f32>>> {
    let row = prop::collection::vec((-9_i8..9).prop_map(f32::from), 6);
    prop::collection::vec(row, num_rows)
}

proptest! {
    #[test]
    fn what_is_left_of_harmless_rows_is_what_was_not_asked_for(
        rows in some_rows(1..12), share in 0.5_f64..0.99
    ) {
        let rows = slices(&rows);
        prop_assume!(rows.iter().any(|row| row.iter().any(|&value| value != 0.0)));
        // With many rows of all directions, too much can be asked for.
        let Ok(space) = NullSpace::fit(&rows, share) else { return Ok(()) };
        let square = |row: &[f32]| wide(row).iter().map(|value| value * value).sum::<f64>();
        let before: f64 = rows.iter().map(|row| square(row)).sum();
        let left: f64 = rows.iter().map(|row| square(&space.project(row))).sum();
        prop_assert!((left / before - (1.0 - space.variance_held())).abs() < 1e-6);
        prop_assert!(space.variance_held() >= share - 1e-12);
        // Idempotent: what is projected twice is projected once.
        let once = space.project(rows[0]);
        let twice = space.project(&once);
        for (once, twice) in once.iter().zip(&twice) {
            prop_assert!((once - twice).abs() < 1e-5);
        }
    }
}

#[test]
fn harmless_rows_of_a_subspace_get_nothing_and_what_lies_beside_it_gets_its_share() {
    let benign: [&[f32]; 3] =
        [&[5.0, 1.0, 0.0, 0.0], &[4.0, -1.0, 0.0, 0.0], &[6.0, 2.0, 0.0, 0.0]];
    let harmful: [&[f32]; 2] = [&[5.0, 1.0, 2.0, 0.0], &[4.0, 2.0, 2.0, 0.0]];
    let space = NullSpace::fit(&benign, 1.0).unwrap();
    assert_eq!(space.rank(), 2);
    let strength = ConditionalStrength::fit(&benign, &harmful, &space, 1e-9).unwrap();
    let fitted = strength.fitted;
    assert!(fitted.benign_mean < 1e-9 && (fitted.harmful_mean - 1.0).abs() < 1e-6, "{fitted:?}");
    assert!((fitted.auc.value - 1.0).abs() < 1e-12);
    // Halfway, and beyond what was measured.
    assert!((strength.factor(&[-7.0, 3.0, 1.0, 9.0]) - 0.5).abs() < 1e-6);
    assert!((strength.factor(&[0.0, 0.0, 4.0, 0.0]) - 1.0).abs() < 1e-12);
    assert_eq!(strength.factor(&[0.0, 0.0, -4.0, 0.0]).to_bits(), 0.0_f64.to_bits());
    assert!((strength.factor(&[f32::NAN; 4]) - 1.0).abs() < 1e-12);
    let doubled = strength.clone().with_max_factor(2.0).unwrap();
    assert!((doubled.factor(&[0.0, 0.0, 4.0, 0.0]) - 2.0).abs() < 1e-6);
    // A ridge of as much as the rows hold halves the weights.
    let ridge = ConditionalStrength::ridge_of(2.0, &harmful, &space).unwrap();
    assert!((ridge - 8.0).abs() < 1e-9);
    let half = ConditionalStrength::fit(&benign, &harmful, &space, ridge).unwrap();
    assert!((half.fitted.harmful_mean - 0.5).abs() < 1e-9);

    close("project", &wide(&space.project(&[1.0, 2.0, 3.0, 4.0])), &[0.0, 0.0, 3.0, 4.0], 1e-9);
    let kept = space.project_keep_norm(&[0.0, 5.0, 0.0, 12.0]).unwrap();
    assert!((kept[3] - 13.0).abs() < 1e-5, "{kept:?}");
    assert_eq!(space.project_keep_norm(&[1.0, 2.0, 0.0, 0.0]), None);
}

#[test]
fn the_mean_harmless_prompt_projects_to_0_and_the_mean_harmful_one_to_1() {
    let benign: [&[f32]; 2] = [&[1.0, 100.0], &[3.0, 100.0]];
    let harmful: [&[f32]; 2] = [&[5.0, 100.0], &[9.0, 100.0]];
    let strength = ProjectionStrength::fit(&benign, &harmful).unwrap();
    for (place, score) in [(2.0, 0.0), (7.0, 1.0), (4.5, 0.5), (12.0, 2.0)] {
        assert!((strength.score(&[place, 100.0]) - score).abs() < 1e-9);
    }
    // Cut at 0 and at 1: (0 + 0.2) / 2 and (0.6 + 1) / 2.
    assert!((strength.fitted.benign_mean - 0.1).abs() < 1e-9);
    assert!((strength.fitted.harmful_mean - 0.8).abs() < 1e-9);
    let held_out = strength.figures(&[&[6.0, 0.0]], &[&[5.0, 0.0], &[9.0, 0.0]]).unwrap();
    assert!((held_out.auc.value - 0.5).abs() < 1e-12, "{held_out:?}");
}

#[test]
fn strengths_are_read_back_as_they_were_written() {
    let benign: [&[f32]; 2] = [&[1.0, 0.0, 0.0], &[2.0, 0.0, 0.5]];
    let harmful: [&[f32]; 2] = [&[1.0, 3.0, 0.0], &[2.0, 5.0, 0.0]];
    let space = NullSpace::fit(&benign, 0.9).unwrap();
    let conditional = ConditionalStrength::fit(&benign, &harmful, &space, 0.1).unwrap();
    let projection = ProjectionStrength::fit(&benign, &harmful).unwrap();
    let read: ConditionalStrength =
        serde_json::from_str(&serde_json::to_string(&conditional).unwrap()).unwrap();
    // JSON keeps all but the last bit of a number.
    close("weights", &read.weights, &conditional.weights, 1e-15);
    assert_eq!((read.rank, read.fitted.num_harmful), (1, 2));
    assert!((read.factor(harmful[0]) - conditional.factor(harmful[0])).abs() < 1e-12);
    let read: ProjectionStrength =
        serde_json::from_str(&serde_json::to_string(&projection).unwrap()).unwrap();
    assert!((read.score(benign[1]) - projection.score(benign[1])).abs() < 1e-12);
    assert!((read.score(harmful[0]) - projection.score(harmful[0])).abs() < 1e-12);
    let size = serde_json::to_value(&space).unwrap();
    assert_eq!((&size["rank"], &size["hidden_size"]), (&1.into(), &3.into()));
    assert!(size.get("basis").is_none());
}

#[test]
fn what_cannot_be_fitted_is_refused_with_the_reason() {
    let rows: [&[f32]; 2] = [&[1.0, 0.0], &[0.0, 1.0]];
    let one = &rows[..1];
    let space = NullSpace::fit(one, 0.9).unwrap();
    let reason = |error: Error| error.to_string();
    for (error, part) in [
        (NullSpace::fit(&[], 0.9).unwrap_err(), "no benign activations"),
        (NullSpace::fit(one, 0.0).unwrap_err(), "variance_kept is 0"),
        (NullSpace::fit(one, f64::NAN).unwrap_err(), "variance_kept is NaN"),
        (NullSpace::fit(&[&[0.0, 0.0]], 0.9).unwrap_err(), "is zero"),
        (NullSpace::fit(&rows, 0.9).unwrap_err(), "nothing is left"),
        (NullSpace::fit_rank(&rows, 0).unwrap_err(), "rank 0 of 2"),
        (NullSpace::fit_rank(&rows, 2).unwrap_err(), "expected 1 to 1"),
        (NullSpace::fit(&[&[1.0], &[1.0, 2.0]], 0.9).unwrap_err(), "expected 1"),
        (NullSpace::fit(&[&[1.0, f32::NAN]], 0.9).unwrap_err(), "is NaN in dimension 1"),
        (ConditionalStrength::fit(&rows, &rows, &space, 0.0).unwrap_err(), "ridge is 0"),
        (ConditionalStrength::fit(&rows, &[&[1.0]], &space, 1.0).unwrap_err(), "expected 2"),
        (ConditionalStrength::fit(&[], &rows, &space, 1.0).unwrap_err(), "0 benign"),
        (ProjectionStrength::fit(&rows, &[]).unwrap_err(), "no harmful activations"),
        (ProjectionStrength::fit(&rows, &rows).unwrap_err(), "at one place"),
        (
            ProjectionStrength::fit_along(&[0.0, 1.0], one, &[&[5.0, 0.0]]).unwrap_err(),
            "at one place",
        ),
        (
            ProjectionStrength::fit_along(&[1.0], one, &rows).unwrap_err(),
            "direction's activation 0",
        ),
        (
            ProjectionStrength::fit(one, &rows[1..]).unwrap().with_max_factor(-1.0).unwrap_err(),
            "largest factor is -1",
        ),
    ] {
        let reason = reason(error);
        assert!(reason.contains(part), "{reason}");
    }
}

fn activation_spec(tokens: TokenMode) -> ActivationSpec {
    let prompt_form = PromptForm::ChatTemplate;
    ActivationSpec { site: Site::AttnOut, layers: vec![0, 2], tokens, prompt_form }
}

fn read_tiny(tokens: TokenMode, max_batch_tokens: usize) -> Activations {
    let (spec, inputs) = (activation_spec(tokens), inputs(tokens));
    let options = options(max_batch_tokens, None);
    activations_encoded(&llama(), &inputs, &spec, &options, &mut NoProgress).unwrap()
}

/// The difference of the rows' means is the vector that extraction makes of the same inputs.
#[test]
fn rows_are_the_activations_that_vectors_are_made_of() {
    for tokens in [TokenMode::Prompt, TokenMode::Last] {
        let (spec, inputs) = (spec(Site::AttnOut, tokens), inputs(tokens));
        let options = options(64, None);
        let run = (&options, &mut NoProgress as &mut dyn skeg_lab::Progress);
        let extraction = extract_encoded(&llama(), &identity(), &spec, &inputs, run).unwrap();
        let found = read_tiny(tokens, 64);
        assert_eq!((found.num_texts(), found.hidden_size), (inputs.len(), 64));
        for (category_idx, category) in extraction.categories.values().enumerate() {
            for (layer_idx, layer) in category.layers.iter().enumerate() {
                assert_eq!(layer.layer, found.layers[layer_idx]);
                for (dimension, &expected) in layer.vector.iter().enumerate() {
                    let sum = |side| -> f32 {
                        let inputs = inputs.iter().enumerate();
                        let chosen = inputs.filter(|(_, input)| {
                            (input.category_idx, input.side) == (category_idx, side)
                        });
                        chosen.map(|(idx, _)| found.row(idx, layer_idx)[dimension]).sum()
                    };
                    let difference = (sum(Side::Safe) - sum(Side::Unsafe)) / 5.0;
                    assert!((difference - expected).abs() < 1e-5, "{difference} {expected}");
                }
            }
        }
    }
    assert_ne!(read_tiny(TokenMode::Last, 64), read_tiny(TokenMode::Prompt, 64));
}

#[test]
fn the_size_of_a_batch_changes_no_bit() {
    let bits = |found: &Activations| -> Vec<u32> {
        found.values.iter().map(|value| value.to_bits()).collect()
    };
    let alone = bits(&read_tiny(TokenMode::All, 1));
    assert_eq!(alone.len(), 20 * 2 * 64);
    for max_batch_tokens in [40, 4096] {
        assert_eq!(bits(&read_tiny(TokenMode::All, max_batch_tokens)), alone);
    }
}

#[test]
fn reading_stops_when_asked_and_refuses_layers_that_are_not_there() {
    let mut stop = StopAfter { num_left: Some(7), ..StopAfter::default() };
    let (inputs, options) = (inputs(TokenMode::All), options(1, None));
    let spec = activation_spec(TokenMode::All);
    let error = activations_encoded(&llama(), &inputs, &spec, &options, &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { done: 7, total: 20 }), "{error}");
    for (layers, part) in
        [(vec![], "at least one"), (vec![2, 0], "ascending"), (vec![3], "layer 3")]
    {
        let spec = ActivationSpec { layers, ..activation_spec(TokenMode::All) };
        let found = activations_encoded(&llama(), &inputs, &spec, &options, &mut NoProgress);
        let error = found.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// A part of CatQA's questions in two categories and their harmless twins, in one order.
fn questions_and_twins(
    dir: &str,
    part: for<'p, 'd> fn(&'p Divided<'d>) -> &'p Vec<&'d Item>,
    count: usize,
) -> [Vec<Text>; 2] {
    let read = |path: &Path| read_data(path, &ReadOptions::default()).unwrap();
    let catqa = read(&Path::new(dir).join("catqa.jsonl"));
    let twins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/data/catqa_twins.jsonl");
    let twins = read(&twins);
    let twin_of: BTreeMap<&str, &Item> =
        twins.items.iter().map(|twin| (twin.twin_of.as_deref().unwrap(), twin)).collect();
    let divided = Shares::default().divide(&catqa.items).unwrap();
    let questions = || divided.values().take(2).flat_map(|parts| part(parts).iter().take(count));
    let text = |item: &Item| Text::prompt(&item.id, &item.text);
    let harmful = questions().map(|item| text(item)).collect();
    [questions().map(|item| text(twin_of[item.id.as_str()])).collect(), harmful]
}

#[test]
#[expect(clippy::disallowed_methods, reason = "tests find the model by the environment alone")]
fn both_strengths_tell_questions_from_their_harmless_twins() {
    let (Ok(model), Some(dir)) = (std::env::var("SKEG_TEST_MODEL"), data_dir()) else {
        println!("skipped: no model or no data");
        return;
    };
    let model = LoadedModel::load(Path::new(&model), &LoadOptions::default()).unwrap();
    let spec = ActivationSpec {
        site: Site::ResidPost,
        layers: vec![14],
        tokens: TokenMode::Last,
        prompt_form: PromptForm::ChatTemplate,
    };
    let read = |texts: [Vec<Text>; 2]| {
        texts.map(|texts| {
            activations(&model, &texts, &spec, &RunOptions::default(), &mut NoProgress).unwrap()
        })
    };
    let [benign, harmful] = read(questions_and_twins(&dir, |parts| &parts.extraction, 10));
    let [other_benign, other_harmful] = read(questions_and_twins(&dir, |parts| &parts.test, 8));
    let (benign, harmful) = (benign.rows(0), harmful.rows(0));
    let (other_benign, other_harmful) = (other_benign.rows(0), other_harmful.rows(0));
    let space = NullSpace::fit(&benign, 0.95).unwrap();
    let ridge = ConditionalStrength::ridge_of(1.0, &harmful, &space).unwrap();
    let conditional = ConditionalStrength::fit(&benign, &harmful, &space, ridge).unwrap();
    let projection = ProjectionStrength::fit(&benign, &harmful).unwrap();
    let strengths: [&dyn StrengthFactor; 2] = [&conditional, &projection];
    for strength in strengths {
        let figures = strength.figures(&other_benign, &other_harmful).unwrap();
        println!("{figures:?}");
        assert!(figures.auc.low > 0.5 && figures.harmful_mean > figures.benign_mean, "{figures:?}");
    }
}
