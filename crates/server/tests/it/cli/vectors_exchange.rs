//! `skeg vectors import` and `export`: files on disk, a store, and back.

use std::path::Path;

use serde_json::{Value, json};
use skeg_lab::exchange::{FileFormat, FileVector, VectorFile};
use skeg_vector_store::{Action, Site, load_generation, read_current};
use tempfile::TempDir;

use super::files::{write_model, write_store};
use super::{run, skeg};

const VALUES: [f32; 8] = [0.5, -0.25, 1.0, 0.0, 2.0, -1.5, 0.125, 3.0];

fn fixture() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    folder
}

/// A file of one vector in layer 0, at `attn_out`.
fn write_vector(folder: &Path, format: FileFormat) {
    let mut file = VectorFile::default();
    file.declared.site = Some(Site::AttnOut);
    let vector = FileVector { layers: Some(vec![0]), num_rows: 1, values: VALUES.to_vec() };
    file.vectors.insert("fraud_deception".to_owned(), vector);
    let path = folder.join("mine").with_extension(format.as_str());
    std::fs::write(path, file.to_bytes(format).unwrap()).unwrap();
}

fn vectors(folder: &TempDir, flags: &[&str]) -> (i32, String, String) {
    run(skeg(folder.path()).arg("vectors").args(flags).args(["--model", "model"]))
}

#[test]
fn a_file_becomes_a_generation_and_a_file_again() {
    let folder = fixture();
    for format in [FileFormat::Safetensors, FileFormat::Npz] {
        write_vector(folder.path(), format);
        let (name, store) = (format!("mine.{}", format.as_str()), format.as_str());
        let flags = ["import", &name, "--category", "fraud_deception", "--out", store, "--json"];
        let (code, stdout, stderr) = vectors(&folder, &flags);
        assert_eq!(code, 0, "{stderr}");
        let told: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((&told["site"], &told["live"]), (&json!("attn_out"), &json!(true)));

        let root = folder.path().join(store);
        let id = read_current(&root).unwrap().generation;
        let generation = load_generation(&root, &id, None).unwrap();
        let (category, rows) = generation.vectors.iter().next().unwrap();
        assert_eq!(rows.values, VALUES);
        assert_eq!(generation.policy.categories[category].action, Action::Log);

        // Another one does not go live by itself; with --publish it does.
        let strong = [&flags[..6], &["--strength", "0.05"]].concat();
        let (code, stdout, stderr) = vectors(&folder, &strong);
        assert!(code == 0 && stdout.contains("is not live"), "{stdout}{stderr}");
        assert_eq!(read_current(&root).unwrap().generation, id);
        let (code, stdout, stderr) = vectors(&folder, &[&strong[..], &["--publish"]].concat());
        assert!(code == 0 && stdout.contains("is live"), "{stdout}{stderr}");
        let live = read_current(&root).unwrap().generation;
        let policy = load_generation(&root, &live, None).unwrap().policy;
        assert_eq!(policy.categories[category].action, Action::Steer);

        let out = format!("again.{store}");
        let flags = ["export", "--category", "fraud_deception", "--format", store, "--out", &out];
        let flags = [&flags[..], &["--vectors", store]].concat();
        let (code, stdout, stderr) = vectors(&folder, &flags);
        assert!(
            code == 0 && stdout.contains("strength 0.05 (0 to 0.05) by policy"),
            "{stdout}{stderr}"
        );
        let (file, _) = VectorFile::read(&folder.path().join(&out), format).unwrap();
        assert_eq!(file.vectors["fraud_deception"].values, VALUES);
        // What is there stays.
        let (code, _, stderr) = vectors(&folder, &flags);
        assert!(code == 1 && stderr.contains("cannot write"), "{stderr}");
    }
}

#[test]
fn a_control_vector_goes_to_the_residual_stream_and_nowhere_else() {
    let folder = fixture();
    let model = folder.path().join("model");
    write_store(folder.path(), &model);
    let flags =
        ["export", "--vectors", "vectors", "--category", "fraud_deception", "--format", "gguf"];
    let (code, _, stderr) = vectors(&folder, &[&flags[..], &["--out", "one.gguf"]].concat());
    assert!(code == 1 && stderr.contains("acts at `resid_post` alone"), "{stderr}");
    assert!(!folder.path().join("one.gguf").exists());

    let mut file = VectorFile::default();
    let vector = FileVector { layers: Some(vec![1]), num_rows: 1, values: VALUES.to_vec() };
    file.vectors.insert("direction".to_owned(), vector);
    let bytes = file.to_bytes(FileFormat::Gguf).unwrap();
    std::fs::write(folder.path().join("one.gguf"), bytes).unwrap();
    let flags = ["import", "one.gguf", "--category", "fraud_deception", "--out", "made"];
    let (code, _, stderr) = vectors(&folder, &[&flags[..], &["--site", "attn_out"]].concat());
    assert!(code == 1 && stderr.contains("`attn_out` was asked for"), "{stderr}");
    // The model has one layer, 0, which no control vector names.
    let (code, _, stderr) = vectors(&folder, &flags);
    assert!(
        code == 1 && stderr.contains("acts on layer 1, and the model has layers 0 to 0"),
        "{stderr}"
    );
    std::fs::write(folder.path().join("two.gguf"), b"GGUF, but not really").unwrap();
    let damaged = ["import", "two.gguf", "--category", "fraud_deception", "--out", "made"];
    let (code, _, stderr) = vectors(&folder, &damaged);
    assert!(code == 1 && stderr.contains("two.gguf: GGUF version"), "{stderr}");
    assert!(!folder.path().join("made").exists());
}
