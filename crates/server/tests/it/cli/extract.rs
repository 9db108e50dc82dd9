//! `skeg extract`: the recipe `contrast` on a model of a few kilobytes, and flags that do not go together.

use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};
use skeg_vector_store::{Site, load_generation, read_current};

use super::files::write_model;
use super::judges::answer;
use super::{run, skeg};

/// Ten harmful prompts in each of two categories.
fn write_prompts(folder: &Path) {
    let row = |category: &str, number: usize| {
        json!({
            "id": format!("{category}-{number}"), "text": format!("{category} question {number}"),
            "category": category, "harmful": true, "source": "own",
        })
    };
    let rows = ["fraud_deception", "malware_viruses"]
        .iter()
        .flat_map(|category| (0..10).map(move |number| format!("{}\n", row(category, number))));
    std::fs::write(folder.join("prompts.jsonl"), rows.collect::<String>()).unwrap();
}

fn extract(folder: &Path, flags: &[&str]) -> (i32, String, String) {
    let mut command = skeg(folder);
    command.args(["extract", "--data", "prompts.jsonl", "--out", "made", "--model", "model"]);
    run(command.args(flags))
}

#[test]
fn contrast_texts_stand_behind_the_prompts_that_a_calibration_extracts_from() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    write_prompts(folder.path());
    let flags = ["--recipe", "contrast", "--site", "resid_post", "--layers", "0", "--json"];
    let (code, stdout, stderr) = extract(folder.path(), &flags);
    assert_eq!(code, 0, "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["live"], true);

    let store = folder.path().join("made");
    let id = read_current(&store).unwrap().generation;
    let manifest = load_generation(&store, &id, None).unwrap().manifest;
    assert_eq!((manifest.site, manifest.layers), (Site::ResidPost, vec![0]));
    let made = manifest.provenance;
    assert_eq!(made.tokens, "response (first 8 of a response)");
    // The prompts' hash and the texts'.
    assert_eq!(made.data_sha256.len(), 2);
    let counts: Vec<(u64, u64)> =
        made.categories.values().map(|one| (one.num_safe, one.num_unsafe)).collect();
    assert_eq!(counts, [(6, 6), (6, 6)]);
}

#[test]
fn a_guided_extraction_counts_what_an_endpoint_confirms() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let rows = [
        ("bad one of all", "unsafe"),
        ("bad two of all", "unsafe"),
        ("good three of all", "unsafe"),
        ("good one to have", "safe"),
        ("good two to have", "safe"),
    ];
    let line = |(idx, (response, label)): (usize, &(&str, &str))| {
        let row = json!({
            "id": idx.to_string(), "text": format!("question {idx}"), "source": "own",
            "category": "fraud_deception", "response": response, "response_label": label,
        });
        format!("{row}\n")
    };
    let rows = rows.iter().enumerate().map(line).collect::<String>();
    std::fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&stream.unwrap());
        }
    });
    let guard = ["--guided", "--judge-url", &url, "--judge-model", "guard"];
    let (code, stdout, stderr) =
        extract(folder.path(), &[&guard[..], &["--layers", "0", "--json"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["guided"]["harm_judge"], "guard (llama-guard)");
    let made = &told["categories"]["fraud_deception"];
    assert_eq!((&made["num_unsafe"], &made["num_safe"]), (&json!(2), &json!(2)));
}

#[test]
fn flags_that_do_not_go_together_are_said_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    write_prompts(folder.path());
    let heads = ["--embedder", "nowhere", "--heads", "nowhere.json"];
    let contrast = [&["--recipe", "contrast", "--guided"][..], &heads].concat();
    let url = "http://127.0.0.1:9/v1";
    let reward = ["--judge-url", url, "--judge-model", "guard", "--reward-url", url];
    let reward = [&["--guided", "--reward-model", "steer"][..], &reward].concat();
    for (flags, exit, expected) in [
        (&["--guided"][..], 2, "--judge-url"),
        (&["--guided", "--embedder", "nowhere"], 2, "--heads"),
        (&heads, 2, "--guided"),
        (&["--judge-url", url, "--judge-model", "guard"], 2, "--guided"),
        (&["--contrast", "texts"], 1, "name that recipe, or leave it out"),
        (&contrast, 1, "leave --guided out"),
        (&reward, 1, "--reward-url: no answer is chosen by helpfulness"),
    ] {
        let (code, _, stderr) = extract(folder.path(), flags);
        assert_eq!(code, exit, "{flags:?}: {stderr}");
        assert!(stderr.contains(expected), "{flags:?}: {stderr}");
    }
}

#[test]
fn evaluate_alone_says_what_it_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(skeg(folder.path()).arg("evaluate"));
    assert_eq!((code, stdout.as_str()), (2, ""));
    for part in ["judges", "study", "skeg evaluate judges --test labelled.jsonl"] {
        assert!(stderr.contains(part), "{stderr}");
    }
}
