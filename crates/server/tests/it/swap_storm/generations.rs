//! Generations that differ in everything a request can meet: vectors, site, layers, strengths, positions, actions, texts.

use std::path::Path;

use skeg_vector_store::{
    Category, CategoryVectors, GenerationId, ModelBinding, NewGeneration, Policy, SafeWindow, Site,
    write_generation,
};

use crate::store::{self, TestPolicy};

pub(super) const HIDDEN_SIZE: usize = 16;
pub(super) const NUM_LAYERS: usize = 2;
/// Generations that are published again and again.
pub(super) const NUM_GOOD: usize = 12;
/// Refused by every generation, each in words of its own.
pub(super) const REFUSED: &str = "adult_content";
/// In shadow mode in every generation.
pub(super) const LOGGED: &str = "political_campaigning";
/// Steered, refused or logged, by generation.
pub(super) const CHANGING: &str = "tailored_financial_advice";

pub(super) fn binding() -> ModelBinding {
    ModelBinding { hidden_size: HIDDEN_SIZE, num_hidden_layers: NUM_LAYERS, ..store::binding() }
}

/// Writes the good generations and makes none of them live.
pub(super) fn write_good(root: &Path) -> Vec<GenerationId> {
    (0..NUM_GOOD).map(|nth| write_generation(root, &generation(nth)).unwrap()).collect()
}

/// Generation number `nth`: valid, and like no other.
pub(super) fn generation(nth: usize) -> NewGeneration {
    let categories = || Category::CATQA.iter().map(|slug| Category::parse(slug).unwrap());
    let layers = [vec![0], vec![1], vec![0, 1]][nth % 3].clone();
    let vectors = categories().enumerate().map(|(idx, category)| {
        let seed = nth * Category::CATQA.len() + idx;
        let values = values(seed, layers.len() * HIDDEN_SIZE);
        (category, CategoryVectors { layers: layers.clone(), values })
    });
    NewGeneration {
        model: binding(),
        site: [Site::AttnOut, Site::ResidPost][nth % 2],
        vectors: vectors.collect(),
        activation_norms: categories().map(|one| (one, vec![4.0; layers.len()])).collect(),
        safe_windows: categories().map(|one| (one, SafeWindow { min: 0.0, max: 2.0 })).collect(),
        policy: policy(nth),
        card: format!("# Generation {nth}\n"),
        ..store::generation(&TestPolicy::default())
    }
}

fn policy(nth: usize) -> Policy {
    let positions = ["all", "generation", "prompt"][nth / 2 % 3];
    let default = 0.8 + 0.05 * nth as f32;
    let when_missing = ["fraud_deception", "privacy_violation"][nth % 2];
    let mut text = format!("when_missing = \"{when_missing}\"\n");
    for slug in Category::CATQA {
        let action = match slug {
            REFUSED => "refuse",
            LOGGED => "log",
            CHANGING => ["steer", "log", "refuse"][nth % 3],
            _ => "steer",
        };
        text += &format!(
            "[categories.{slug}]\naction = \"{action}\"\npositions = \"{positions}\"\n\
             strength = {{ default = {default}, floor = 0.5, ceiling = 1.5 }}\n\
             refusal = \"Policy {nth} refuses this.\"\n"
        );
    }
    text += "[groups.anonymous]\nmay_none = true\nmay_raise = true\nmay_lower = true\n\
             may_compare = true\n";
    Policy::parse(&text).unwrap()
}

/// Numbers from -0.5 to 0.5, by a generator of its own for each seed.
fn values(seed: usize, len: usize) -> Vec<f32> {
    let mut state = u32::try_from(seed).unwrap().wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 65536.0 - 0.5
    };
    std::iter::repeat_with(next).take(len).collect()
}
