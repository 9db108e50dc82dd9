//! What is written is what is read, and equal content has equal bytes.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use skeg_vector_store::{
    Action, Category, CategoryPolicy, CategoryProvenance, GroupPolicy, LayerNorm, Manifest,
    Measurement, OnAbstain, Operator, Orientation, Policy, Positions, Provenance, SafeWindow, Site,
    Strength, WhenMissing, load_generation, write_generation,
};

use crate::support::{model, new_generation};

fn slug() -> impl Strategy<Value = Category> {
    proptest::sample::select(Category::CATQA.to_vec()).prop_map(|slug| slug.parse().unwrap())
}

/// Any text that TOML and JSON can hold and that is not blank.
fn text() -> impl Strategy<Value = String> {
    "[a-z]\\PC{0,20}"
}

fn strength() -> impl Strategy<Value = Strength> {
    vec(0.0_f32..8.0, 3).prop_map(|mut values| {
        values.sort_by(f32::total_cmp);
        Strength { floor: values[0], default: values[1], ceiling: values[2] }
    })
}

fn rule() -> impl Strategy<Value = CategoryPolicy> {
    let action = prop_oneof![Just(Action::Steer), Just(Action::Refuse), Just(Action::Log)];
    let positions =
        prop_oneof![Just(Positions::All), Just(Positions::Prompt), Just(Positions::Generation)];
    (action, strength(), positions, text()).prop_map(|(action, strength, positions, refusal)| {
        CategoryPolicy { action, strength, positions, refusal, auto: None }
    })
}

fn group(known: Vec<Category>) -> impl Strategy<Value = GroupPolicy> {
    let allowed = option::of(btree_set(proptest::sample::select(known), 0..3));
    (allowed, any::<[bool; 4]>()).prop_map(|(categories, may)| GroupPolicy {
        categories,
        may_none: may[0],
        may_raise: may[1],
        may_lower: may[2],
        may_compare: may[3],
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    btree_map(slug(), rule(), 1..5).prop_flat_map(|categories| {
        let known: Vec<Category> = categories.keys().cloned().collect();
        let one = proptest::sample::select(known.clone());
        let when_missing = prop_oneof![
            Just(WhenMissing::Auto),
            Just(WhenMissing::None),
            Just(WhenMissing::Reject),
            one.clone().prop_map(WhenMissing::Category),
        ];
        let on_abstain = prop_oneof![
            Just(OnAbstain::None),
            Just(OnAbstain::Reject),
            one.prop_map(OnAbstain::Category),
        ];
        let groups = btree_map(text(), group(known), 0..3);
        let bounds = (1.0_f32..9.0, prop_oneof![Just(2.0_f32), 0.1_f32..9.0]);
        (Just(categories), when_missing, on_abstain, bounds, any::<[bool; 2]>(), groups).prop_map(
            |(categories, when_missing, on_abstain, bounds, flags, groups)| Policy {
                categories,
                when_missing,
                on_abstain,
                auto: skeg_vector_store::AutoPolicy::default(),
                max_combined_norm: bounds.0,
                max_relative_norm: bounds.1,
                allow_other_quantisation: flags[0],
                require_measured: flags[1],
                groups,
            },
        )
    })
}

/// What a manifest has of one category: window, one norm and cosine a layer.
type OfCategory = (Option<(f32, f32)>, Vec<(f32, f32)>, Vec<f32>);

fn of_category(num_layers: usize) -> impl Strategy<Value = OfCategory> {
    (
        option::of((0.0_f32..2.0, 0.0_f32..2.0)),
        vec((1e-6_f32..1e6, 1e-6_f32..1e6), num_layers),
        vec(-1.0_f32..1.0, num_layers),
    )
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let layers = btree_set(0_usize..80, 1..6);
    layers.prop_flat_map(|layers| {
        let categories = btree_map(slug(), of_category(layers.len()), 1..5);
        let words = (
            prop_oneof![Just(Site::AttnOut), Just(Site::ResidPost)],
            prop_oneof![
                Just(Operator::Add),
                Just(Operator::AddNormRestored),
                Just(Operator::ProjectOut)
            ],
            prop_oneof![Just(Orientation::SafeMinusUnsafe), Just(Orientation::Reversed)],
        );
        let figure = (text(), any::<u64>(), -1e3_f32..1e3);
        let texts = (text(), option::of(text()));
        (Just(layers), categories, words, figure, texts).prop_map(
            |(layers, categories, words, figure, texts)| {
                build_manifest(layers.into_iter().collect(), categories, words, figure, texts)
            },
        )
    })
}

fn build_manifest(
    layers: Vec<usize>,
    of: BTreeMap<Category, OfCategory>,
    (site, operator, orientation): (Site, Operator, Orientation),
    (metric, num_items, value): (String, u64, f32),
    (made_by, made_at): (String, Option<String>),
) -> Manifest {
    let window = |(a, b): (f32, f32)| SafeWindow { min: a.min(b), max: a.max(b) };
    let norm = |&(vector, activation): &(f32, f32)| LayerNorm { vector, activation };
    let digest = |name: &str| (name.to_owned(), "0f".repeat(32));
    Manifest {
        format_version: 1,
        architecture_id: "a".repeat(64),
        weights_id: "b".repeat(64),
        also_measured_on: Vec::new(),
        hidden_size: 16,
        num_hidden_layers: 80,
        categories: of.keys().cloned().collect(),
        layers,
        site,
        operator,
        orientation,
        safe_windows: of.iter().filter_map(|(c, v)| Some((c.clone(), window(v.0?)))).collect(),
        norms: of.iter().map(|(c, v)| (c.clone(), v.1.iter().map(norm).collect())).collect(),
        files: ["CARD.md", "policy.toml", "vectors.safetensors"].map(digest).into(),
        measured: vec![Measurement {
            metric,
            condition: "steered".to_owned(),
            data: "held_out".to_owned(),
            category: of.keys().next().cloned(),
            value,
            num_items,
        }],
        provenance: Provenance {
            made_by,
            made_at,
            categories: of
                .into_iter()
                .map(|(category, (_, _, split_half_cosine))| {
                    (category, CategoryProvenance { num_safe: 1, num_unsafe: 2, split_half_cosine })
                })
                .collect(),
            ..Provenance::default()
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn a_manifest_is_read_as_it_was_written(manifest in manifest()) {
        let json = manifest.to_json().unwrap();
        let read = Manifest::parse(&json, Path::new("manifest.json")).unwrap();
        prop_assert_eq!(&read, &manifest);
        prop_assert_eq!(read.to_json().unwrap(), json);
    }

    #[test]
    fn a_policy_is_read_as_it_was_written(policy in policy()) {
        let text = policy.to_toml().unwrap();
        let read = Policy::parse(&text).unwrap();
        prop_assert_eq!(&read, &policy);
        prop_assert_eq!(read.to_toml().unwrap(), text);
    }
}

#[test]
fn a_generation_is_read_as_it_was_written() {
    let root = tempfile::tempdir().unwrap();
    let mut new = new_generation(3);
    new.probe = Some(crate::probes::probe(&["fraud_deception", "malware_viruses", "none"]));
    let figures = "{\"shares\": [0.25],\n \"format_version\": 1}\n";
    new.figures = Some(figures.as_bytes().to_vec());
    let id = write_generation(root.path(), &new).unwrap();
    let read = load_generation(root.path(), &id, Some(&model())).unwrap();
    assert_eq!(read.id, id);
    assert!(read.root_hash.starts_with(id.as_str()) && read.has_probe());
    assert_eq!(read.vectors, new.vectors);
    assert_eq!(read.policy, new.policy);
    assert_eq!(read.card, new.card);
    assert!(read.has_figures());
    assert_eq!(read.figures.as_deref(), Some(figures));
    assert_eq!(read.manifest.safe_windows, new.safe_windows);
    assert_eq!(read.manifest.provenance, new.provenance);
    assert_eq!(read.manifest.measured, new.measured);
    // Every row of mark 3 is [4, 4, 4, 4].
    for norms in read.manifest.norms.values() {
        assert_eq!(norms[1], LayerNorm { vector: 8.0, activation: 16.0 });
    }
}

#[test]
fn equal_content_has_an_equal_id_in_any_store_and_other_content_another() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = write_generation(here.path(), &new_generation(1)).unwrap();
    let again = write_generation(here.path(), &new_generation(1)).unwrap();
    let elsewhere = write_generation(there.path(), &new_generation(1)).unwrap();
    assert_eq!((&first, &first), (&again, &elsewhere));
    let mut dated = new_generation(1);
    dated.provenance.made_at = Some("2026-01-01T00:00:00Z".to_owned());
    assert_ne!(write_generation(here.path(), &dated).unwrap(), first);
    let mut measured = new_generation(1);
    measured.figures = Some(b"{\"format_version\": 1}".to_vec());
    assert_ne!(write_generation(here.path(), &measured).unwrap(), first);
    assert_eq!(skeg_vector_store::list_generations(here.path()).unwrap().len(), 3);
}
