//! `skeg bench` on a tiny model.

use serde_json::{Value, json};

use super::files::write_model;
use super::{run, skeg};

/// Runs `skeg bench` in `folder` and reads the JSON that it prints.
fn bench(folder: &std::path::Path, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(skeg(folder).arg("bench").args(arguments).arg("--json"));
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn numbers(rows: &Value, field: &str) -> Vec<u64> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).collect()
}

#[test]
fn a_quick_model_bench_measures_what_fits_the_context_and_names_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let report =
        bench(folder.path(), &["model", "--model", "model", "--quick", "--chart", "chart.svg"]);
    assert_eq!(numbers(&report["prefill"], "timed_tokens"), [128]);
    assert_eq!(numbers(&report["decode"], "context_tokens"), [0]);
    assert_eq!(numbers(&report["batch"], "num_seqs"), [1, 4]);
    assert_eq!(numbers(&report["batch"], "timed_tokens"), [8, 32]);
    assert_eq!(report["left_out"], json!(["context 512"]));
    for part in ["prefill", "decode", "batch"] {
        for row in report[part].as_array().unwrap() {
            let rate = |name: &str| row["tokens_per_second"][name].as_f64().unwrap();
            assert!(0.0 < rate("min") && rate("min") <= rate("median"), "{row}");
            assert!(rate("median") <= rate("max"), "{row}");
        }
    }
    let chart = std::fs::read_to_string(folder.path().join("chart.svg")).unwrap();
    assert_eq!(chart.matches("<circle").count(), 2);
}

#[test]
fn a_size_that_was_asked_for_and_does_not_fit_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    for (flag, size) in [("--prefill", "129"), ("--context", "128"), ("--batch-context", "121")] {
        let mut command = skeg(folder.path());
        command.args(["bench", "model", "--model", "model", "--quick", flag, size]);
        let (code, _, stderr) = run(&mut command);
        assert_eq!(code, 1);
        assert!(stderr.contains(&format!("{flag} {size}")) && stderr.contains("128"), "{stderr}");
    }
}

#[test]
fn a_steering_bench_has_a_bounded_ratio_for_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let arguments = ["steering", "--model", "model", "--pairs", "6", "--batch", "1,3"];
    let report = bench(folder.path(), &arguments);
    let costs = report["costs"].as_array().unwrap();
    let modes: Vec<&str> = costs.iter().map(|cost| cost["mode"].as_str().unwrap()).collect();
    let once =
        ["disabled", "enabled_idle", "all_steered_shared", "per_request_4", "per_request_16"];
    // The model has one layer, so one, twelve and all layers are the same setting.
    assert_eq!(modes, [once, once].concat());
    for cost in costs {
        let value = |name: &str| cost[name].as_f64().unwrap();
        assert_eq!((&cost["pairs"], &cost["num_layers"]), (&json!(6), &json!(1)));
        assert!(0.0 < value("lower") && value("lower") <= value("ratio"), "{cost}");
        assert!(value("ratio") <= value("upper"), "{cost}");
    }
}
