//! What several test files share: where the model and the golden files are.

use std::path::PathBuf;

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
