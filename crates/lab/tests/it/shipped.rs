//! The shipped recipe: from an extraction and figures to a generation in a store.

use std::collections::BTreeMap;

use skeg_lab::evaluate::{Condition, ConditionReport, QuickReport, QuickSpec, Tally};
use skeg_lab::extract::{
    CategoryExtraction, Extraction, LayerExtraction, PromptForm, TokenMode, Variant,
};
use skeg_lab::recipes::{Measured, StrengthPoint, shipped_generation};
use skeg_lab::{catqa_categories, select};
use skeg_model::ModelIdentity;
use skeg_model::steering::{Operator, Positions, Site};
use skeg_vector_store::{WhenMissing, load_generation, write_generation};

pub(crate) fn extraction() -> Extraction {
    let layers = vec![0, 2];
    let vectors = |idx: usize| CategoryExtraction {
        num_safe: 3,
        num_unsafe: 4,
        layers: layers
            .iter()
            .map(|&layer| LayerExtraction {
                layer,
                vector: vec![idx as f32 + 1.0, 0.0, 0.0, 0.0],
                norm: idx as f64 + 1.0,
                activation_norm: 8.0,
                relative_norm: (idx as f64 + 1.0) / 8.0,
                split_half_cosine: Some(0.9),
                num_kept: None,
            })
            .collect(),
    };
    Extraction {
        site: Site::AttnOut,
        layers: layers.clone(),
        tokens: TokenMode::Response,
        max_response_tokens: Some(8),
        prompt_form: PromptForm::ChatTemplate,
        variant: Variant::default(),
        guided: None,
        categories: catqa_categories()
            .into_iter()
            .enumerate()
            .map(|(idx, category)| (category, vectors(idx)))
            .collect(),
        data_sha256: vec!["0".repeat(64)],
        inputs_sha256: "1".repeat(64),
        model: ModelIdentity {
            architecture_id: "a".repeat(64),
            weights_id: "b".repeat(64),
            hidden_size: 4,
            num_hidden_layers: 3,
        },
    }
}

pub(crate) fn measured() -> Measured {
    let point = |strength, refused, degenerate| StrengthPoint {
        strength,
        tally: Tally { total: 100, refused, degenerate },
    };
    let total = Tally { total: 110, refused: 99, degenerate: 1 };
    Measured {
        weights: "as_stored".to_owned(),
        tuning: vec![point(0.5, 40, 0), point(1.0, 90, 5), point(1.5, 20, 30), point(2.0, 0, 1)],
        strength: 1.0,
        held_out: QuickReport {
            num_prompts: 110,
            max_new_tokens: 40,
            site: Site::AttnOut,
            operator: Operator::Add,
            positions: Positions::All,
            layers: vec![0, 2],
            strengths: BTreeMap::new(),
            seed: 1,
            conditions: vec![ConditionReport {
                condition: Condition::Own,
                total,
                by_category: BTreeMap::new(),
                max_relative_norm: Some(0.5),
            }],
            judge: Vec::new(),
        },
    }
}

#[test]
fn the_recipe_writes_a_generation_that_loads_and_the_same_bytes_twice() {
    let root = tempfile::tempdir().unwrap();
    let generation = shipped_generation(&extraction(), &measured());
    let id = write_generation(root.path(), &generation).unwrap();
    assert_eq!(write_generation(root.path(), &generation).unwrap(), id);
    let loaded = load_generation(root.path(), &id, Some(&generation.model)).unwrap();
    assert_eq!(loaded.policy.when_missing, WhenMissing::None);
    assert_eq!(loaded.vectors.len(), 11);
    assert!(loaded.card.contains("| own category | 0.90"), "{}", loaded.card);
    assert!(loaded.card.contains("mean over the 8 first response tokens"), "{}", loaded.card);

    let spec = QuickSpec::of_generation(&loaded, select(&[], 0, 0), 40).unwrap();
    assert_eq!(spec.positions, Positions::All);
    assert!(spec.strengths.values().all(|strength| (strength - 1.0).abs() < 1e-6));
    assert_eq!(spec.vectors.values().next().unwrap()[1].layer, 2);
}

#[test]
fn the_floor_is_the_weakest_strength_at_which_half_of_the_prompts_are_declined() {
    let mut measured = measured();
    measured.tuning[0].tally = Tally { total: 100, refused: 50, degenerate: 0 };
    assert!((measured.strength().floor - 0.5).abs() < 1e-6);
    measured.tuning[0].tally.refused = 49;
    assert!((measured.strength().floor - 1.0).abs() < 1e-6);
}

#[test]
fn the_safe_window_ends_before_the_first_strength_that_breaks_the_text() {
    let strength = measured().strength();
    assert_eq!((strength.floor, strength.default, strength.ceiling), (1.0, 1.0, 1.0));

    // Few loops, but the refusals are gone: broken in another way.
    let mut fallen = measured();
    fallen.tuning[2].tally = Tally { total: 100, refused: 84, degenerate: 0 };
    assert!((fallen.window().max - 1.0).abs() < 1e-6);
    fallen.tuning[2].tally = Tally { total: 100, refused: 85, degenerate: 0 };
    assert!((fallen.window().max - 1.5).abs() < 1e-6);
}

#[test]
fn figures_are_read_back_and_a_strength_outside_the_window_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("measured.json");
    let write = |measured: &Measured| {
        std::fs::write(&path, serde_json::to_string(measured).unwrap()).unwrap();
        Measured::read(&path)
    };
    assert_eq!(write(&measured()).unwrap(), measured());
    let error = write(&Measured { strength: 1.5, ..measured() }).unwrap_err().to_string();
    assert!(error.contains("1.5 is outside the safe strengths"), "{error}");
}
