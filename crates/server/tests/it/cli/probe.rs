//! `skeg probe`, with a probe of n-grams on texts that are made here: no model.

use std::path::Path;

use serde_json::{Value, json};

use super::{run, skeg};

/// Writes a set of `(harmful, category)` and texts that begin with `words`.
fn write_set(folder: &Path, name: &str, words: &str, label: Option<&str>) {
    let row = |idx: usize| {
        let mut row = json!({
            "id": format!("{name}{idx}"), "text": format!("{words} number {idx} of {name}"),
            "harmful": label.is_some(), "source": "own",
        });
        if let Some(category) = label {
            row["category"] = json!(category);
        }
        row.to_string() + "\n"
    };
    std::fs::write(folder.join(format!("{name}.jsonl")), (0..4).map(row).collect::<String>())
        .unwrap();
}

/// A folder with a probe and sets to measure it on.
fn trained() -> tempfile::TempDir {
    let folder = sets();
    let (code, _, stderr) = train(folder.path(), &[]);
    assert_eq!(code, 0, "{stderr}");
    folder
}

/// A folder with three sources.
fn sets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for set in ["a", "b", "c"] {
        write_set(folder.path(), &format!("{set}_fraud"), "swindle a customer", Some("fraud"));
        write_set(folder.path(), &format!("{set}_privacy"), "stalk a stranger", Some("privacy"));
        write_set(folder.path(), &format!("{set}_plain"), "bake some bread", None);
    }
    folder
}

/// Trains on two of the sources.
fn train(folder: &Path, flags: &[&str]) -> (i32, String, String) {
    let mut command = skeg(folder);
    command.args(["probe", "train", "--members", "ngrams", "--categories", "fraud,privacy"]);
    command.args(["--train", "a=a_fraud.jsonl,a_privacy.jsonl,a_plain.jsonl"]);
    command.args(["--train", "b=b_fraud.jsonl,b_privacy.jsonl,b_plain.jsonl"]);
    run(command.args(["--out", "probe.safetensors"]).args(flags))
}

fn evaluate(folder: &Path, flags: &[&str]) -> (i32, String, String) {
    let mut command = skeg(folder);
    command.args(["probe", "evaluate", "--probe", "probe.safetensors"]);
    command.args([
        "--test",
        "attacks=c_fraud.jsonl,c_privacy.jsonl",
        "--test",
        "plain=c_plain.jsonl",
    ]);
    run(command.args(flags))
}

#[test]
fn an_evaluation_is_printed_and_written_with_its_pictures() {
    let folder = trained();
    let (code, stdout, stderr) = evaluate(folder.path(), &["--json", "--out", "found/here"]);
    assert_eq!(code, 0, "{stderr}");
    let printed: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(printed["sets"]["rows"][0]["set"], "attacks");
    let row = &printed["report"]["sets"][0];
    assert_eq!((&row["set"], &row["against"]), (&json!("plain"), &json!("pooled")));
    assert_eq!(row["operating"]["at_limits"][0]["recall"]["total"], 8);
    assert_eq!(row["operating"]["auc"]["value"], 1.0);

    let written = |name: &str| std::fs::read(folder.path().join("found/here").join(name)).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&written("report.json")).unwrap(), printed);
    let report = String::from_utf8(written("report.md")).unwrap();
    for name in ["recall", "reliability", "confusion"] {
        assert!(report.contains(&format!("({name}.svg)")), "{report}");
        assert!(written(&format!("{name}.svg")).starts_with(b"<svg"));
        assert!(written(&format!("{name}.png")).starts_with(b"\x89PNG"));
    }
    // Figures and names, no text of a prompt.
    assert!(report.contains("| plain | attacks | 4 | 8 | 1.00"), "{report}");
    assert!(!report.contains("bread") && !stdout.contains("bread"));

    // As text the report follows the table of sets.
    let (code, stdout, stderr) = evaluate(folder.path(), &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("set "), "{stdout}");
    assert!(stdout.lines().any(|line| line == "Recall and false alarms"), "{stdout}");
    let (_, stdout, _) = evaluate(folder.path(), &["--markdown"]);
    assert!(stdout.starts_with("## Sets\n"), "{stdout}");
}

#[test]
fn copies_are_trained_on_counted_and_shown_apart() {
    let folder = sets();
    let flags = ["--augment", "role-play,rot13", "--augment-share", "0.5", "--json"];
    let (code, stdout, stderr) = train(folder.path(), &flags);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("12 disguised copies of 24 prompts, by 2 evasions"), "{stderr}");
    let table: Value = serde_json::from_str(&stdout).unwrap();
    let names: Vec<&str> =
        table["rows"].as_array().unwrap().iter().map(|row| row["set"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "all", "all+role_play", "all+rot13"]);
    let total = |row: usize, kind: &str| table["rows"][row][kind]["total"].as_u64().unwrap();
    assert_eq!((total(2, "recall"), total(2, "false_alarms")), (16, 8), "prompts, without copies");
    assert_eq!((total(3, "recall"), total(3, "false_alarms")), (4, 2));
    assert_eq!((total(4, "recall"), total(4, "false_alarms")), (4, 2));

    let probe = std::fs::read(folder.path().join("probe.safetensors")).unwrap();
    let trained_on = skeg_lab::probe::Probe::from_bytes(&probe).unwrap().trained_on;
    let counts: Vec<_> =
        trained_on.sets.iter().map(|set| (set.num_prompts, set.num_augmented)).collect();
    assert_eq!(counts, [([8, 4], 6), ([8, 4], 6)]);

    let (code, _, stderr) = train(folder.path(), &["--augment", "rot14"]);
    assert_ne!(code, 0);
    assert!(stderr.contains("unknown evasion `rot14`"), "{stderr}");
    let (code, _, stderr) = train(folder.path(), &["--augment", "all", "--augment-share", "2"]);
    assert_ne!(code, 0);
    assert!(stderr.contains("expected more than 0 and at most 1"), "{stderr}");
}

#[test]
fn a_file_that_was_trained_on_is_not_measured_on() {
    let folder = trained();
    std::fs::copy(folder.path().join("b_plain.jsonl"), folder.path().join("renamed.jsonl"))
        .unwrap();
    let measured = ["--test", "more=c_plain.jsonl,renamed.jsonl"];
    let (code, stdout, stderr) = evaluate(folder.path(), &measured);
    assert_ne!(code, 0);
    assert_eq!(stdout, "");
    assert!(stderr.contains("renamed.jsonl is a file that it was trained on, in `b`"), "{stderr}");
    assert!(stderr.contains("--allow-overlap") && !stderr.contains("c_plain.jsonl"), "{stderr}");
    let (code, stdout, stderr) =
        evaluate(folder.path(), &[measured[0], measured[1], "--allow-overlap"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("more") && stderr.contains("renamed.jsonl is a file"), "{stderr}");
}

#[test]
fn a_prompt_that_was_trained_on_is_found_in_other_files() {
    let folder = trained();
    let text = std::fs::read_to_string(folder.path().join("b_plain.jsonl")).unwrap();
    let text = text.replace("bake some bread number 2", "BAKE some  bread number 2");
    std::fs::write(folder.path().join("other.jsonl"), text).unwrap();
    let measured = ["--test", "more=other.jsonl"];
    let (code, _, stderr) = evaluate(folder.path(), &measured);
    assert_eq!(code, 0, "its bytes are new: {stderr}");
    let all =
        "a_fraud,a_privacy,a_plain,b_fraud,b_privacy,b_plain".replace(',', ".jsonl,") + ".jsonl";
    let trained_on = ["--trained-on", all.as_str()];
    let (code, _, stderr) = evaluate(folder.path(), &[measured, trained_on].concat());
    assert_ne!(code, 0);
    assert!(stderr.contains("4 of 4 prompts of `more` are in b_plain.jsonl"), "{stderr}");
    assert!(!stderr.contains("bread") && !stderr.contains("not among"), "{stderr}");
    let flags = [measured.as_slice(), &trained_on, &["--allow-overlap"]].concat();
    let (code, _, stderr) = evaluate(folder.path(), &flags);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("4 of 4 prompts of `more`"), "{stderr}");

    // Without overlap nothing is refused; files that are given or left out by mistake are told.
    let (code, _, stderr) = evaluate(folder.path(), &["--trained-on", "b_plain.jsonl,other.jsonl"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("other.jsonl is not a file that the probe was trained on"), "{stderr}");
    assert!(stderr.contains("5 of the 6 files that the probe was trained on are not"), "{stderr}");
}
