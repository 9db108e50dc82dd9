//! `skeg bench swaps` on a tiny model: servers of its own, publications of which one is bad, answers as alone.

use serde_json::{Value, json};

use super::files::{write_model, write_store};
use super::{run, skeg};

#[test]
fn twenty_requests_and_four_publications_are_counted_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    write_store(folder.path(), &model);
    let mut command = skeg(folder.path());
    command.args(["bench", "swaps", "--model", "model", "--vectors", "vectors", "--json"]);
    command.args(["--requests", "20", "--publications", "4", "--bad-every", "3"]);
    command.args(["--clients", "3", "--max-tokens", "2", "--generations", "2"]);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let of = |names: &[&str]| names.iter().map(|&name| report[name].clone()).collect::<Vec<_>>();
    assert_eq!(of(&["requests", "failed", "different", "bad_publications"]), [20, 0, 0, 1]);
    assert_eq!(of(&["swaps", "failed_swaps"]), [json!(3.0), json!(1.0)]);
    // Two categories and none, each streamed and not.
    assert_eq!(of(&["kinds", "generations"]), [6, 2]);
    let p50 = |name: &str| report[name]["p50"].as_f64().unwrap();
    assert!(0.0 < p50("publish_seconds"), "{report}");
    assert!(p50("publish_seconds") < p50("to_first_request_seconds"), "{report}");
    if cfg!(target_os = "linux") {
        assert_eq!(report["resident_bytes"].as_array().unwrap().len(), 5);
    }
}

#[test]
fn a_store_with_one_category_has_nothing_to_refuse_beside_what_is_steered() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    let root = write_store(folder.path(), &model);
    let current = skeg_vector_store::read_current(&root).unwrap();
    let generation = skeg_vector_store::load_generation(&root, &current.generation, None).unwrap();
    let binding = skeg_vector_store::ModelBinding {
        architecture_id: generation.manifest.architecture_id,
        weights_id: generation.manifest.weights_id,
        hidden_size: generation.manifest.hidden_size,
        num_hidden_layers: generation.manifest.num_hidden_layers,
    };
    let mut one = super::files::generation(binding);
    one.vectors.pop_last();
    one.activation_norms.pop_last();
    one.safe_windows.pop_last();
    one.policy.categories.pop_last();
    let id = skeg_vector_store::write_generation(&root, &one).unwrap();
    skeg_vector_store::set_current(&root, &id, None).unwrap();
    let mut command = skeg(folder.path());
    command.args(["bench", "swaps", "--model", "model", "--vectors", "vectors"]);
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 1);
    assert!(stderr.contains("too few categories"), "{stderr}");
}
