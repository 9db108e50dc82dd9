//! What several test files share: where the model and the golden files are, and a plain plan.

use std::path::PathBuf;

use skeg_model::Llama;
use skeg_model::steering::{Operator, Positions, Site, SteeringPlan};

/// The small real model's GGUF file.
#[expect(
    clippy::disallowed_methods,
    reason = "tests are told by the environment where the model is"
)]
pub(crate) fn test_model() -> PathBuf {
    std::env::var_os("SKEG_TEST_MODEL").map(PathBuf::from).expect(
        "SKEG_TEST_MODEL must be the path of SmolLM2-135M-Instruct.Q4_1.gguf; `cargo xtask` sets it",
    )
}

/// A file under `tests/golden` at the top of the repository.
pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// A golden JSON file, read.
pub(crate) fn golden_json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let bytes = std::fs::read(golden(name)).expect("golden file");
    serde_json::from_slice(&bytes).expect("golden JSON")
}

/// A plan that adds `slot` in each of `layers` to every token.
pub(crate) fn plan(
    llama: &Llama,
    site: Site,
    layers: &[usize],
    slot: u32,
    strength: f32,
) -> SteeringPlan {
    let mut slot_by_layer = vec![0; llama.config().num_hidden_layers];
    for &layer in layers {
        slot_by_layer[layer] = slot;
    }
    SteeringPlan {
        site,
        operator: Operator::Add,
        positions: Positions::All,
        strength,
        slot_by_layer,
    }
}
