//! `skeg model inspect` and `list`.

use serde_json::Value;

use super::files::write_model;
use super::{run, skeg};

#[test]
fn a_model_is_described_for_people_and_programs() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let inspect = |flags: &[&str]| {
        run(skeg(folder.path()).args(["model", "inspect", "--model", "model"]).args(flags))
    };
    let (code, stdout, stderr) = inspect(&["--json"]);
    assert_eq!(code, 0, "{stderr}");
    let facts: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(facts["config"]["num_hidden_layers"], 1);
    assert_eq!(facts["weight_types"], serde_json::json!({"F32": 11}));
    assert_eq!(facts["chat_template"], true);
    assert_eq!(facts["stop_tokens"][0]["text"], "</s>");
    assert_eq!(facts["weights_id"].as_str().map(str::len), Some(64));
    let (_, table, _) = inspect(&[]);
    assert!(table.contains("config.hidden_size"), "{table}");
}

#[test]
fn the_catalogue_says_what_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, _) = run(skeg(folder.path()).args(["model", "list"]));
    assert_eq!(code, 0);
    assert!(stdout.contains("smollm2-135m-instruct") && stdout.contains("(not fetched)"));
    let (_, json, _) = run(skeg(folder.path()).args(["model", "list", "--json"]));
    let rows: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[0]["path"], Value::Null);
}
