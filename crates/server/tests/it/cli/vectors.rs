//! `skeg vectors`.

use serde_json::Value;
use tempfile::TempDir;

use super::files::{write_model, write_store};
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
