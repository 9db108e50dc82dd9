//! A generation made by hand: what its manifest says, and what a study takes of it.

use std::collections::BTreeMap;

use skeg_lab::catqa_categories;
use skeg_lab::extract::{
    CategoryExtraction, Extraction, GuidedReport, LayerExtraction, PromptForm, PublishOptions,
    TokenMode, Variant, to_generation,
};
use skeg_lab::study::{Chosen, ChosenRule};
use skeg_model::ModelIdentity;
use skeg_model::steering::{Positions, Site};
use skeg_vector_store::{
    self as store, Action, CategoryPolicy, Generation, NewGeneration, OnAbstain, Operator,
    Orientation, Policy, SafeWindow, Strength, WhenMissing, load_generation, write_generation,
};

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
                activation_norm: 16.0,
                relative_norm: (idx as f64 + 1.0) / 16.0,
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

/// Every category steers every token at strength 1.5.
fn generation(extraction: &Extraction) -> NewGeneration {
    let rule = CategoryPolicy {
        auto: None,
        action: Action::Steer,
        strength: Strength { default: 1.5, floor: 0.5, ceiling: 2.0 },
        positions: store::Positions::All,
        refusal: "No.".to_owned(),
    };
    let all = || extraction.categories.keys().cloned();
    let options = PublishOptions {
        policy: Policy {
            categories: all().map(|category| (category, rule.clone())).collect(),
            when_missing: WhenMissing::None,
            on_abstain: OnAbstain::Reject,
            auto: skeg_vector_store::AutoPolicy::default(),
            max_combined_norm: 1.0,
            max_relative_norm: skeg_vector_store::DEFAULT_MAX_RELATIVE_NORM,
            require_measured: false,
            allow_other_quantisation: false,
            groups: BTreeMap::new(),
        },
        operator: Operator::Add,
        orientation: Orientation::SafeMinusUnsafe,
        safe_windows: all().map(|category| (category, SafeWindow { min: 0.0, max: 2.0 })).collect(),
        measured: Vec::new(),
        card: "# Made by hand\n".to_owned(),
        figures: None,
    };
    to_generation(extraction, options)
}

fn stored(generation: &NewGeneration) -> Generation {
    let root = tempfile::tempdir().unwrap();
    let id = write_generation(root.path(), generation).unwrap();
    assert_eq!(write_generation(root.path(), generation).unwrap(), id);
    load_generation(root.path(), &id, Some(&generation.model)).unwrap()
}

#[test]
fn a_manifest_says_who_chose_the_inputs() {
    let report = GuidedReport { harm_judge: "harm".to_owned(), ..GuidedReport::default() };
    let method = |guided| {
        let extraction = Extraction { guided, ..extraction() };
        stored(&generation(&extraction)).manifest.provenance.method
    };
    assert_eq!(method(None), "difference_of_means");
    assert_eq!(method(Some(report)), "difference_of_means, guided by harm");
}

#[test]
fn a_study_takes_what_the_policy_steers_and_as_it_steers_it() {
    let mut generation = generation(&extraction());
    let [logged, thin] =
        ["adult_content", "child_abuse"].map(|slug| slug.parse::<store::Category>().unwrap());
    let rules = &mut generation.policy.categories;
    rules.get_mut(&logged).unwrap().action = Action::Log;
    rules.get_mut(&thin).unwrap().strength.default = 0.5;
    rules.get_mut(&thin).unwrap().positions = store::Positions::Generation;
    generation.vectors.get_mut(&thin).unwrap().values[..4].fill(0.0);
    let stored = stored(&generation);

    let chosen = Chosen::of_generation(&stored).unwrap();
    assert_eq!(chosen.name, stored.id.to_string());
    assert_eq!(chosen.site, Site::AttnOut);
    assert_eq!(chosen.rows.len(), 10);
    assert!(chosen.rows.keys().eq(chosen.rules.keys()));
    assert!(!chosen.rows.contains_key(&logged));
    // The layer it leaves alone stays, so that all have the same.
    let rows = &chosen.rows[&thin];
    assert_eq!(rows.iter().map(|row| row.layer).collect::<Vec<_>>(), [0, 2]);
    assert_eq!((rows[0].values[0], rows[1].values[0]), (0.0, 2.0));
    let rule = |strength, positions| ChosenRule { strength, positions };
    let arm = chosen.arm("study");
    for (slug, expected) in [
        ("child_abuse", rule(0.5, Positions::Generation)),
        ("economic_harm", rule(1.5, Positions::All)),
    ] {
        let category: store::Category = slug.parse().unwrap();
        assert_eq!(chosen.rules[&category], expected);
        let applied = &arm.vectors[&category];
        assert_eq!(rule(applied.strength, applied.positions), expected);
    }
}

#[test]
fn a_study_cannot_be_made_of_nothing() {
    let mut silent = generation(&extraction());
    silent.policy.categories.values_mut().for_each(|rule| rule.action = Action::Refuse);
    let error = Chosen::of_generation(&stored(&silent)).unwrap_err().to_string();
    assert!(error.contains("steers no category"), "{error}");
}
