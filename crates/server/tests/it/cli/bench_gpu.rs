//! `skeg bench gpu` on a tiny model on the CPU: every part, what is left out, and the logits it writes.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::files::write_model;
use super::{run, skeg};

/// Runs it in `folder` on the model there and reads the JSON that it prints.
fn bench(folder: &Path, arguments: &[&str]) -> Value {
    let mut command = skeg(folder);
    // A budget that no machine exceeds: what is left out here is left out for another reason.
    command.args(["bench", "gpu", "--model", "model", "--json", "--budget", "1000000"]);
    let (code, stdout, stderr) = run(command.args(arguments));
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn rows<'a>(report: &'a Value, part: &str) -> &'a [Value] {
    report[part].as_array().unwrap()
}

fn positive(row: &Value, field: &str) -> f64 {
    let number = row[field].as_f64().unwrap_or(f64::NAN);
    assert!(number.is_finite() && number > 0.0, "{field} of {row}");
    number
}

#[test]
fn every_part_is_measured_beside_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let mut arguments = vec!["--batch", "1,2", "--context", "16,120", "--prefill", "32,512"];
    arguments.extend(["--pairs", "3", "--report", "report.json"]);
    let report = bench(folder.path(), &arguments);

    for limit in ["copies", "products"] {
        positive(&report[limit]["per_second"], "median");
    }
    let tokens = |row: &Value| row["timed_tokens"].as_u64().unwrap();
    assert_eq!(rows(&report, "prefill").iter().map(tokens).collect::<Vec<_>>(), [32]);
    let shape = |row: &Value| (row["num_seqs"].as_u64(), row["context_tokens"].as_u64());
    let shapes: Vec<_> = rows(&report, "decode").iter().map(shape).collect();
    assert_eq!(shapes, [(Some(1), Some(16)), (Some(2), Some(16))]);
    for row in rows(&report, "prefill").iter().chain(rows(&report, "decode")) {
        let [seconds, limit] = ["seconds", "limit_seconds"].map(|field| positive(row, field));
        let share = positive(row, "share_of_limit");
        assert!((share - limit / seconds).abs() < 1e-9 * share, "{row}");
        positive(row, "bytes");
        positive(row, "flops");
        assert!(["memory", "arithmetic"].contains(&row["limited_by"].as_str().unwrap()), "{row}");
    }
    // Five modes for each batch.
    assert_eq!(rows(&report, "steering").len(), 10);
    for row in rows(&report, "steering") {
        assert!(positive(row, "lower") <= positive(row, "upper"));
    }
    let swap = &report["swap"];
    assert_eq!((&swap["num_seqs"], &swap["vectors"]), (&json!(2), &json!(16)));
    // 16 vectors of 8 numbers for the one layer.
    assert_eq!(swap["bytes"], json!(16 * 8 * 4));
    positive(swap, "registrations");
    for times in ["step_seconds", "quiet_step_seconds", "register_seconds"] {
        assert!(positive(&swap[times], "p50") <= positive(&swap[times], "p99"));
    }
    let load = |row: &Value| (row["num_seqs"].as_u64(), row["vectors"].as_u64());
    let loads: Vec<_> = rows(&report, "served").iter().map(load).collect();
    assert_eq!(loads, [(Some(1), Some(0)), (Some(2), Some(0)), (Some(2), Some(16))]);
    for row in rows(&report, "served") {
        positive(row, "share_of_limit");
    }

    let left_out: Vec<&str> =
        rows(&report, "left_out").iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(left_out, ["prefill 512", "decode 1 at 120", "decode 2 at 120"]);
    assert!(report["left_out"][0]["reason"].as_str().unwrap().contains("context of 128"));
    assert_eq!(report["failed"], json!([]));
    let written = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), report);
}

#[test]
fn logits_are_written_and_what_was_not_asked_for_is_not_measured() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    std::fs::write(folder.path().join("tokens.json"), "[3, 1, 4, 1, 5]").unwrap();
    let arguments = ["--logits", "tokens.json", "--out", "logits", "--part", "prefill"];
    let report = bench(folder.path(), &[&arguments[..], &["--prefill", "8"]].concat());
    assert_eq!((rows(&report, "prefill").len(), rows(&report, "decode").len()), (1, 0));
    assert_eq!((&report["swap"], rows(&report, "served").len()), (&Value::Null, 0));
    let bytes = std::fs::read(folder.path().join("logits")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in ["prefill", "decode"] {
        assert_eq!(tensors.tensor(name).unwrap().shape(), [5, 32]);
    }
}

#[test]
fn without_time_nothing_is_measured_and_the_table_says_so() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let mut command = skeg(folder.path());
    command.args(["bench", "gpu", "--model", "model", "--budget", "0", "--part", "swap"]);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("GB/s") && stdout.contains("left out: swap under 128"), "{stdout}");
    assert!(stdout.contains("--budget"), "{stdout}");
}

#[test]
fn the_script_for_a_machine_with_a_gpu_runs_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/gpu/bench.py");
    let mut command = Command::new("python3");
    command.current_dir(folder.path()).arg(script).args(["--skeg", env!("CARGO_BIN_EXE_skeg")]);
    let (code, stdout, stderr) = run(command.args(["--tiny", "--no-torch", "--device", "cpu"]));
    assert_eq!(code, 0, "{stderr}");
    // Aims stand beside the figures that they are of.
    for row in ["| decode 1 at 16 |", "| decode 4 at 64 |", "| prefill 128 |"] {
        let line = stdout.lines().find(|line| line.starts_with(row)).unwrap();
        assert!(line.contains(": met") || line.contains(": missed"), "{line}");
    }
    let results = std::fs::read_to_string(folder.path().join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!((&results["failed"], &results["transformers"]), (&json!([]), &json!({})));
    assert_eq!(rows(&results["skeg"], "decode").len(), 4);
    assert_eq!(results["skeg"]["subject"]["weight_types"], json!({"BF16": 21}));
}
