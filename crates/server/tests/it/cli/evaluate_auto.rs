//! `skeg evaluate auto` and `skeg bench gate`, with probes that are trained here, on a tiny model and its server.

use std::path::Path;

use serde_json::{Value, json};
use skeg_model::{LoadOptions, LoadedModel};
use skeg_vector_store::ModelBinding;

use super::files::{generation, write_model, write_store};
use super::serve::Server;
use super::{run, skeg};

const HARMFUL: &str = "swindle a customer";
const HARMLESS: &str = "bake some bread";

/// Writes four rows that begin with `words`.
fn write_set(folder: &Path, name: &str, words: &str, category: Option<&str>) {
    let row = |idx: usize| {
        let mut row = json!({
            "id": format!("{name}{idx}"), "text": format!("{words} {}", "abcd".get(idx..=idx).unwrap().repeat(3)),
            "harmful": category.is_some(), "source": name,
        });
        if let Some(category) = category {
            row["category"] = json!(category);
        }
        row.to_string() + "\n"
    };
    let rows: String = (0..4).map(row).collect();
    std::fs::write(folder.join(format!("{name}.jsonl")), rows).unwrap();
}

/// Trains a probe on two sources, of these members.
fn train(folder: &Path, members: &[&str]) {
    for set in ["a", "b"] {
        write_set(
            folder,
            &format!("{set}_fraud"),
            &format!("{set} {HARMFUL}"),
            Some("fraud_deception"),
        );
        write_set(
            folder,
            &format!("{set}_malware"),
            &format!("{set} write a virus"),
            Some("malware_viruses"),
        );
        write_set(folder, &format!("{set}_plain"), &format!("{set} {HARMLESS}"), None);
    }
    let mut command = skeg(folder);
    command.args(["probe", "train", "--categories", "fraud_deception,malware_viruses"]);
    for set in ["a", "b"] {
        let files = ["fraud", "malware", "plain"].map(|kind| format!("{set}_{kind}.jsonl"));
        command.args(["--train", &format!("{set}={}", files.join(","))]);
    }
    command.args(["--model", "model", "--out", "probe.safetensors"]).args(members);
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 0, "{stderr}");
}

/// A server whose live generation has a probe of n-grams.
fn serve(folder: &Path) -> Server {
    let model = write_model(folder);
    write_store(folder, &model);
    train(folder, &["--members", "ngrams"]);
    let identity = LoadedModel::load(&model, &LoadOptions::default()).unwrap().identity;
    let mut probed = generation(ModelBinding {
        architecture_id: identity.architecture_id,
        weights_id: identity.weights_id,
        hidden_size: identity.hidden_size,
        num_hidden_layers: identity.num_hidden_layers,
    });
    probed.probe = Some(std::fs::read(folder.join("probe.safetensors")).unwrap());
    let root = folder.join("vectors");
    let sequence = skeg_vector_store::read_current(&root).unwrap().sequence;
    let id = skeg_vector_store::write_generation(&root, &probed).unwrap();
    skeg_vector_store::set_current(&root, &id, Some(sequence)).unwrap();
    Server::launch(skeg(folder).args(["serve", "--vectors", "vectors"]))
}

#[test]
fn a_server_is_asked_under_every_arm_and_its_answers_are_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    write_set(folder.path(), "attacks", HARMFUL, Some("fraud_deception"));
    write_set(folder.path(), "plain", HARMLESS, None);
    let mut command = skeg(folder.path());
    command.args(["evaluate", "auto", "--url", &format!("http://{}", server.address)]);
    command.args(["--set", "attacks=attacks.jsonl", "--set", "plain=plain.jsonl", "--limit", "3"]);
    command.args(["--arms", "none,auto,one:malware_viruses,oracle", "--tokens", "3"]);
    command.args(["--api-key-env", "KEY"]).env("KEY", "unused");
    let (code, stdout, stderr) = run(command.args(["--json", "--out", "auto.md"]));
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let found: Vec<(&str, &str, &Value)> = rows
        .iter()
        .map(|row| {
            let name = |field: &str| row[field].as_str().unwrap();
            (name("set"), name("arm"), &row["alarms"]["share"]["count"])
        })
        .collect();
    let arms = ["none", "auto", "one:malware_viruses", "oracle"];
    let expected = |set, arm| {
        let alarms = if set == "attacks" { json!(3) } else { json!(0) };
        (set, arm, if arm == "auto" { alarms } else { Value::Null })
    };
    let attacks = arms.map(|arm| expected("attacks", arm));
    let plain = arms.into_iter().filter(|&arm| arm != "oracle").map(|arm| expected("plain", arm));
    let expected: Vec<_> = attacks.into_iter().chain(plain).collect();
    assert_eq!(found, expected.iter().map(|(a, b, c)| (*a, *b, c)).collect::<Vec<_>>());
    assert_eq!(rows[1]["alarms"]["by_category"], json!({"fraud_deception": 3}));
    let equal = &report["equality"][1];
    let numbers = ["without_alarm", "same_text", "with_first_token", "same_first_token"];
    assert_eq!(numbers.map(|name| &equal[name]), [3, 3, 3, 3], "{equal}");
    let written = std::fs::read_to_string(folder.path().join("auto.md")).unwrap();
    assert!(written.contains("| plain | harmless | 3 | auto |"), "{written}");
    for text in [&stdout, &stderr, &written] {
        assert!(!text.contains("bread") && !text.contains("swindle"), "{text}");
    }
    assert_eq!(server.end("-TERM"), Some(0));
}

#[test]
fn a_server_without_a_probe_is_told_what_it_lacks() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), "plain", HARMLESS, None);
    let mut command = skeg(folder.path());
    command.args(["evaluate", "auto", "--url", &format!("http://{}/v1", server.address)]);
    let (code, _, stderr) = run(command.args(["--set", "plain=plain.jsonl", "--arms", "auto"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("question `plain/plain"), "{stderr}");
    assert!(
        stderr.contains("400 Bad Request (auto_unavailable): it has nobody to find categories"),
        "{stderr}"
    );
    assert_eq!(server.end("-TERM"), Some(0));
}

#[test]
fn what_cannot_be_asked_is_said_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), "plain", HARMLESS, None);
    for (flags, code, expected) in [
        (&["--set", "plain.jsonl"][..], 1, "expected NAME=FILE"),
        (
            &["--set", "plain=plain.jsonl", "--api-key-env", "NO_SUCH"],
            1,
            "--api-key-env names a variable",
        ),
        (&["--set", "plain=plain.jsonl", "--timeout", "0"], 1, "--timeout 0"),
        (&["--set", "plain=plain.jsonl", "--arms", "one"], 2, "one:CATEGORY"),
        (&["--set", "plain=plain.jsonl", "--limit", "0"], 1, "a limit of at least 1"),
    ] {
        let mut command = skeg(folder.path());
        command.args(["evaluate", "auto", "--url", "http://127.0.0.1:9"]);
        let (found, _, stderr) = run(command.args(flags));
        assert_eq!(found, code, "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
}

/// Runs `skeg bench gate` on the tiny model.
fn bench_gate(folder: &Path, flags: &[&str]) -> (i32, String, String) {
    let mut command = skeg(folder);
    command.args(["bench", "gate", "--model", "model", "--pairs", "5", "--prompt-tokens", "20"]);
    run(command.args(["--batch", "1,3"]).args(flags))
}

#[test]
fn a_gate_costs_a_bounded_ratio_and_its_probe_microseconds() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    train(folder.path(), &["--members", "activations,mean", "--layers", "0"]);
    for (flags, has_probe) in [
        (&["--json"][..], false),
        (&["--json", "--probe", "probe.safetensors", "--chunk", "7"], true),
    ] {
        let (code, stdout, stderr) = bench_gate(folder.path(), flags);
        assert_eq!(code, 0, "{stderr}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        let reads = json!({"site": "resid_post", "layers": [0], "mean": has_probe});
        assert_eq!(report["reads"], reads);
        let costs = report["costs"].as_array().unwrap();
        let sizes: Vec<_> = costs.iter().map(|cost| (&cost["num_seqs"], &cost["pairs"])).collect();
        assert_eq!(sizes, [(&json!(1), &json!(5)), (&json!(3), &json!(5))]);
        for cost in costs {
            let value = |name: &str| cost[name].as_f64().unwrap();
            assert!(0.0 < value("lower") && value("lower") <= value("ratio"), "{cost}");
            assert!(value("ratio") <= value("upper"), "{cost}");
            assert!(0.0 < value("gated_tokens_per_second"), "{cost}");
        }
        assert_eq!(report["probe"].is_object(), has_probe);
        if has_probe {
            let probe = &report["probe"];
            assert_eq!(probe["members"], json!(["activations", "mean activations"]));
            assert_eq!((&probe["words"], &probe["repetitions"]), (&json!(20), &json!(200)));
            for part in ["verdict_microseconds", "text_scores_microseconds"] {
                assert!(0.0 < probe[part]["median"].as_f64().unwrap(), "{probe}");
            }
        }
    }
    let (code, stdout, stderr) = bench_gate(folder.path(), &["--probe", "probe.safetensors"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("the gate reads resid_post of layers 0, and the mean of the prompt's rows"),
        "{stdout}"
    );
    assert!(stdout.contains("probe of activations and mean activations: verdict "), "{stdout}");
}

#[test]
fn a_gate_that_the_model_has_no_place_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    for (flags, expected) in [
        (&["--layers", "1", "--prompt-tokens", "8"][..], "this model has 1, counted from 0"),
        (&["--prompt-tokens", "128"], "do not fit the model's 128"),
        (&["--pairs", "0"], "numbers of at least 1"),
        (&["--probe", "model/config.json"], "is not a probe"),
    ] {
        let mut command = skeg(folder.path());
        command.args(["bench", "gate", "--model", "model"]);
        let (code, _, stderr) = run(command.args(flags));
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
}
