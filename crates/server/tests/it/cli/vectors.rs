//! `skeg vectors`.

use serde_json::Value;
use skeg_vector_store::{ModelBinding, write_generation};
use tempfile::TempDir;

use super::files::{generation, write_model, write_store};
use super::{run, skeg};

fn fixture() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    write_store(folder.path(), &model);
    folder
}

fn vectors(folder: &TempDir, flags: &[&str]) -> (i32, String, String) {
    let mut command = skeg(folder.path());
    command.arg("vectors").args(flags).args(["--vectors", "vectors", "--model", "model"]);
    run(&mut command)
}

#[test]
fn generations_are_listed_and_described() {
    let folder = fixture();
    let (code, stdout, stderr) = vectors(&folder, &["list", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let rows: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(rows[0]["current"], true);
    assert_eq!(rows[0]["facts"]["site"], "attn_out");
    let (code, stdout, stderr) = vectors(&folder, &["inspect"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(rows[0]["generation"].as_str().unwrap()), "{stdout}");
    let row = stdout.lines().find(|line| line.starts_with("malware_viruses")).unwrap();
    // sqrt(8 * 0.25^2)
    assert!(row.contains("steer") && row.contains("0.71..0.71"), "{row}");
}

#[test]
fn figures_are_printed_as_they_are_stored() {
    let folder = fixture();
    let (code, stdout, stderr) = vectors(&folder, &["inspect"]);
    assert!(code == 0 && stdout.contains("figures      none"), "{stdout}{stderr}");
    let (code, _, stderr) = vectors(&folder, &["figures"]);
    assert!(code == 1 && stderr.contains("has no figures.json"), "{stderr}");
    let model = ModelBinding {
        architecture_id: "a".to_owned(),
        weights_id: "b".to_owned(),
        hidden_size: 8,
        num_hidden_layers: 1,
    };
    let mut measured = generation(model);
    let figures = "{\"format_version\": 1,\n  \"share\": 0.50}\n";
    measured.figures = Some(figures.as_bytes().to_vec());
    let id = write_generation(&folder.path().join("vectors"), &measured).unwrap().to_string();
    assert_eq!(vectors(&folder, &["figures", &id]), (0, figures.to_owned(), String::new()));
    let (_, stdout, _) = vectors(&folder, &["inspect", &id, "--json"]);
    let facts: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(facts["has_figures"], true);
}

#[test]
fn a_changed_byte_is_found() {
    let folder = fixture();
    let (code, stdout, stderr) = vectors(&folder, &["verify", "--with-model"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let generations = folder.path().join("vectors/generations");
    let generation = std::fs::read_dir(generations).unwrap().next().unwrap().unwrap().path();
    std::fs::write(generation.join("CARD.md"), "# Other\n").unwrap();
    let (code, stdout, stderr) = vectors(&folder, &["verify"]);
    assert_eq!(code, 1, "{stdout}");
    let row = stdout.lines().find(|line| line.contains("CARD.md")).unwrap();
    assert!(row.contains("differs from the manifest"), "{row}");
    assert!(stderr.contains("1 of 1 generations"), "{stderr}");
}

#[test]
fn a_generation_that_is_not_there_is_named_with_those_that_are() {
    let folder = fixture();
    let (code, _, stderr) = vectors(&folder, &["inspect", "0123456789abcdef"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("`0123456789abcdef`"), "{stderr}");
}
