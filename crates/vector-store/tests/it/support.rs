//! A small generation and a store to keep it in.

use std::collections::BTreeMap;
use std::path::Path;

use skeg_vector_store::{
    Action, Category, CategoryPolicy, CategoryProvenance, CategoryVectors,
    DEFAULT_MAX_RELATIVE_NORM, DEFAULT_REFUSAL, GenerationId, GroupPolicy, Measurement,
    ModelBinding, NewGeneration, OnAbstain, Operator, Orientation, Policy, Positions, Provenance,
    SafeWindow, Site, Store, Strength, WhenMissing, set_current, write_generation,
};

pub(crate) const HIDDEN_SIZE: usize = 4;
pub(crate) const LAYERS: [usize; 2] = [1, 3];
/// Sorted.
pub(crate) const CATEGORIES: [&str; 2] = ["fraud_deception", "malware_viruses"];

pub(crate) fn category(slug: &str) -> Category {
    slug.parse().unwrap()
}

/// The model that [`new_generation`] is made for.
pub(crate) fn model() -> ModelBinding {
    ModelBinding {
        architecture_id: "arch".to_owned(),
        weights_id: "weights".to_owned(),
        hidden_size: HIDDEN_SIZE,
        num_hidden_layers: 6,
    }
}

pub(crate) fn policy() -> Policy {
    let rule = CategoryPolicy {
        auto: None,
        action: Action::Steer,
        strength: Strength { default: 0.7, floor: 0.4, ceiling: 1.0 },
        positions: Positions::All,
        refusal: DEFAULT_REFUSAL.to_owned(),
    };
    Policy {
        categories: CATEGORIES.map(|slug| (category(slug), rule.clone())).into(),
        when_missing: WhenMissing::Reject,
        on_abstain: OnAbstain::Reject,
        auto: skeg_vector_store::AutoPolicy::default(),
        max_combined_norm: 1.0,
        max_relative_norm: DEFAULT_MAX_RELATIVE_NORM,
        allow_other_quantisation: false,
        require_measured: false,
        groups: BTreeMap::from([("staff".to_owned(), GroupPolicy::default())]),
    }
}

/// A valid generation; another `mark` gives other vectors and another card.
pub(crate) fn new_generation(mark: u8) -> NewGeneration {
    let value = f32::from(mark) + 1.0;
    let vectors = CategoryVectors {
        layers: LAYERS.to_vec(),
        values: vec![value; LAYERS.len() * HIDDEN_SIZE],
    };
    let record =
        CategoryProvenance { num_safe: 20, num_unsafe: 21, split_half_cosine: vec![0.875, 0.5] };
    NewGeneration {
        model: model(),
        also_measured_on: vec!["other-weights".to_owned()],
        site: Site::AttnOut,
        operator: Operator::Add,
        orientation: Orientation::SafeMinusUnsafe,
        vectors: CATEGORIES.map(|slug| (category(slug), vectors.clone())).into(),
        activation_norms: CATEGORIES.map(|slug| (category(slug), vec![8.0, 16.0])).into(),
        safe_windows: CATEGORIES
            .map(|slug| (category(slug), SafeWindow { min: 0.4, max: 1.0 }))
            .into(),
        provenance: Provenance {
            method: "difference_of_means".to_owned(),
            tokens: "response".to_owned(),
            prompt_form: "chat_template".to_owned(),
            data_sha256: vec!["00".repeat(32)],
            inputs_sha256: "11".repeat(32),
            made_by: "tests".to_owned(),
            made_at: None,
            categories: CATEGORIES.map(|slug| (category(slug), record.clone())).into(),
        },
        measured: vec![Measurement {
            metric: "refusal_rate".to_owned(),
            condition: "steered".to_owned(),
            data: "held_out".to_owned(),
            category: None,
            value: 0.98,
            num_items: 110,
        }],
        policy: policy(),
        probe: None,
        card: card(mark),
        figures: None,
    }
}

pub(crate) fn card(mark: u8) -> String {
    format!("# Card {mark}\n")
}

/// Writes the generation of a mark.
pub(crate) fn write(root: &Path, mark: u8) -> GenerationId {
    write_generation(root, &new_generation(mark)).unwrap()
}

/// Writes the generation of a mark and makes it the one that serves.
pub(crate) fn publish(root: &Path, mark: u8) -> GenerationId {
    let id = write(root, mark);
    set_current(root, &id, None).unwrap();
    id
}

/// Opens a store that attaches a copy of the card.
pub(crate) fn open(root: &Path) -> Store<String> {
    Store::open(root, model(), |generation| Ok(generation.card.clone())).unwrap()
}

/// Replaces `CURRENT` in one step, whatever the text.
pub(crate) fn replace_current(root: &Path, text: &str) {
    let beside = root.join("CURRENT.test");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, root.join("CURRENT")).unwrap();
}
