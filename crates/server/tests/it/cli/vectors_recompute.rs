//! `skeg vectors verify --recompute`, with a tiny model and figures that are made here.

use std::path::Path;

use serde_json::{Value, json};
use skeg_model::{LoadOptions, LoadedModel};
use skeg_vector_store::{ModelBinding, set_current, write_generation};
use tempfile::TempDir;

use super::files::{generation, write_model, write_store};
use super::{run, skeg};

const CATEGORIES: [&str; 2] = ["fraud_deception", "malware_viruses"];
const NUM_PROMPTS: usize = 6;

fn fixture() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    write_store(folder.path(), &model);
    let row = |number: usize| {
        let row = json!({"id": id(number), "text": format!("hidden words {number}"), "source": "own",
                         "category": CATEGORIES[number % 2], "harmful": true});
        format!("{row}\n")
    };
    std::fs::write(folder.path().join("own.jsonl"), (0..NUM_PROMPTS).map(row).collect::<String>())
        .unwrap();
    folder
}

fn id(number: usize) -> String {
    format!("own-{number}")
}

/// A record with one outcome for each arm and prompt.
fn figures(outcome: impl Fn(&str, usize) -> Value) -> Value {
    let counts =
        |total: usize| json!({"total": total, "unsafe": total, "refused": 0, "degenerate": 0});
    let by_category = |value: Value| -> Value {
        CATEGORIES.iter().map(|name| ((*name).to_owned(), value.clone())).collect()
    };
    let arm = |name: &str| {
        let outcomes: Value =
            (0..NUM_PROMPTS).map(|number| (id(number), outcome(name, number))).collect();
        json!({"arm": name, "harmful": counts(NUM_PROMPTS), "harmless": counts(0),
               "by_category": by_category(counts(NUM_PROMPTS / 2)), "outcomes": outcomes})
    };
    json!({"format_version": 1, "calibration": {
        "candidates": ["own"], "site": "attn_out", "is_reversed": false,
        "setting": {"candidate_idx": 0, "layers": [0], "positions": "all", "operator": "add", "strength": 1.0},
        "bounds": {"max_degenerate": 0.05, "max_over_refusal": 1.0, "max_nll_rise": 2.0, "min_on_topic": 0.5},
        "judges": ["refusal phrases", "repetition measure"], "max_new_tokens": 6,
        "trials": [], "ladder": [], "window": {"min": 0.0, "max": 2.0},
        "strengths": by_category(json!({"default": 1.0, "floor": 0.0, "ceiling": 2.0})),
        "test": {"arms": [arm("unsteered"), arm("own")], "comparisons": []},
        "gates": by_category(json!({"passed": true, "reasons": []})), "seed": 1,
    }})
}

/// Writes a generation with these figures and makes it the live one.
fn publish(folder: &Path, figures: &Value) {
    let identity =
        LoadedModel::load(&folder.join("model"), &LoadOptions::default()).unwrap().identity;
    let mut measured = generation(ModelBinding {
        architecture_id: identity.architecture_id,
        weights_id: identity.weights_id,
        hidden_size: identity.hidden_size,
        num_hidden_layers: identity.num_hidden_layers,
    });
    measured.figures = Some(figures.to_string().into_bytes());
    let root = folder.join("vectors");
    let id = write_generation(&root, &measured).unwrap();
    let current = skeg_vector_store::read_current(&root).unwrap();
    set_current(&root, &id, Some(current.sequence)).unwrap();
}

fn verify(folder: &TempDir, flags: &[&str]) -> (i32, String, String) {
    let mut command = skeg(folder.path());
    command.args(["vectors", "verify", "--vectors", "vectors", "--model", "model"]).args(flags);
    run(&mut command)
}

const RECOMPUTE: [&str; 4] = ["--recompute", "4", "--data", "own.jsonl"];

#[test]
fn recorded_outcomes_are_found_again_and_others_are_named() {
    let folder = fixture();
    // Random weights neither decline nor answer a harmful prompt without harm.
    publish(folder.path(), &figures(|_, _| json!("refused")));
    let all = ["--recompute", "100", "--data", "own.jsonl"];
    let (code, stdout, stderr) = verify(&folder, &[&all[..], &["--json"]].concat());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("12 of 12 outcomes differ from the record"), "{stderr}");
    // The manifest names no data.
    assert!(stderr.contains("not one that the manifest names"), "{stderr}");
    let found: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(found["generations"][0]["sound"], true);
    let different = found["recomputed"]["different"].as_array().unwrap();
    let outcome = |arm: &str, number: usize| {
        let one =
            different.iter().find(|one| one["arm"] == arm && one["id"] == id(number)).unwrap();
        one["found"].clone()
    };
    publish(folder.path(), &figures(outcome));
    let (code, stdout, stderr) = verify(&folder, &RECOMPUTE);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let row = |name: &str| -> Vec<String> {
        let line = stdout.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().rev().take(3).map(str::to_owned).collect()
    };
    assert_eq!(row("unsteered"), ["0", "4", "4"]);
    assert_eq!(row("own category"), ["0", "4", "4"]);
    let changed = |arm: &str, number: usize| {
        if (arm, number) == ("own", 3) { json!("refused") } else { outcome(arm, number) }
    };
    publish(folder.path(), &figures(changed));
    let (code, stdout, stderr) = verify(&folder, &all);
    assert_eq!(code, 1, "{stdout}");
    let line = stdout.lines().find(|line| line.starts_with("own-3")).unwrap();
    assert!(line.contains("own category  refused"), "{line}");
    assert!(
        !stdout.contains("hidden words") && !stderr.contains("hidden words"),
        "{stdout}{stderr}"
    );
    assert!(stderr.contains("1 of 12 outcomes"), "{stderr}");
}

#[test]
fn what_cannot_be_recomputed_is_said() {
    let folder = fixture();
    let (code, _, stderr) = verify(&folder, &["--recompute", "3"]);
    assert!(code == 2 && stderr.contains("--data"), "{stderr}");
    let (code, _, stderr) = verify(&folder, &["--data", "own.jsonl"]);
    assert!(code == 2 && stderr.contains("--recompute"), "{stderr}");
    let (code, _, stderr) = verify(&folder, &["--recompute", "0", "--data", "own.jsonl"]);
    assert!(code == 2 && stderr.contains("--recompute"), "{stderr}");
    let (code, stdout, stderr) = verify(&folder, &RECOMPUTE);
    assert!(code == 1 && stderr.contains("has no figures.json"), "{stderr}");
    assert!(stdout.contains("vectors.safetensors"), "{stdout}");
    publish(folder.path(), &json!({"format_version": 1, "share": 0.5}));
    let (code, _, stderr) = verify(&folder, &RECOMPUTE);
    assert!(code == 1 && stderr.contains("holds no calibration"), "{stderr}");
    publish(folder.path(), &figures(|_, _| json!("refused")));
    let (code, _, stderr) = verify(&folder, &[&RECOMPUTE[..], &["--max-tokens", "7"]].concat());
    assert!(code == 1 && stderr.contains("7 tokens, on record are 6"), "{stderr}");
    let others = json!({"id": "other", "text": "hidden words", "source": "own",
                        "category": CATEGORIES[0], "harmful": true});
    std::fs::write(folder.path().join("own.jsonl"), format!("{others}\n")).unwrap();
    let (code, _, stderr) = verify(&folder, &RECOMPUTE);
    assert!(code == 1 && stderr.contains("none of the 6 harmful test prompts"), "{stderr}");
}

#[test]
fn a_damaged_generation_is_not_recomputed() {
    let folder = fixture();
    publish(folder.path(), &figures(|_, _| json!("refused")));
    let current = skeg_vector_store::read_current(&folder.path().join("vectors")).unwrap();
    let card = format!("vectors/generations/{}/CARD.md", current.generation);
    std::fs::write(folder.path().join(card), "# Other\n").unwrap();
    let (code, stdout, stderr) = verify(&folder, &[&RECOMPUTE[..], &["--json"]].concat());
    assert_eq!(code, 1);
    assert!(stderr.contains("are unsound") && !stderr.contains("outcomes"), "{stderr}");
    let reports: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(reports[0]["sound"], false);
}
