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
    let folder = tempfile::tempdir().unwrap();
    for set in ["a", "b", "c"] {
        write_set(folder.path(), &format!("{set}_fraud"), "swindle a customer", Some("fraud"));
        write_set(folder.path(), &format!("{set}_privacy"), "stalk a stranger", Some("privacy"));
        write_set(folder.path(), &format!("{set}_plain"), "bake some bread", None);
    }
    let mut command = skeg(folder.path());
    command.args(["probe", "train", "--members", "ngrams", "--categories", "fraud,privacy"]);
    command.args(["--train", "a=a_fraud.jsonl,a_privacy.jsonl,a_plain.jsonl"]);
    command.args(["--train", "b=b_fraud.jsonl,b_privacy.jsonl,b_plain.jsonl"]);
    let (code, _, stderr) = run(command.args(["--out", "probe.safetensors"]));
    assert_eq!(code, 0, "{stderr}");
    folder
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
