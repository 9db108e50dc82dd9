//! Publications under load: every answer is of one generation, and what the same request is answered alone.

use std::process::Command;

use serde_json::Value;

use super::process::{model, shipped_vectors};

#[test]
fn real_model_forty_requests_and_ten_publications_are_answered_as_alone() {
    let output = Command::new(env!("CARGO_BIN_EXE_skeg"))
        .args(["bench", "swaps", "--requests", "40", "--publications", "10", "--clients", "4"])
        .args(["--max-tokens", "3", "--generations", "2", "--bad-every", "5", "--json"])
        .arg("--model")
        .arg(model())
        .arg("--vectors")
        .arg(shipped_vectors())
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    let found = ["failed", "different", "bad_publications"].map(|name| report[name].clone());
    assert_eq!(found, [0, 0, 2]);
    // Eleven categories, none, and two at once, each streamed and not.
    assert_eq!(report["kinds"], 26);
}
