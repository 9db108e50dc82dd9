//! Damage is found: any changed byte, missing and extra files, places outside the store, files too large.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use skeg_vector_store::{
    GenerationId, Verification, list_generations, load_generation, read_current, verify,
};

use crate::forge::message;
use crate::support::{new_generation, publish, write};

fn dir_of(root: &Path, id: &GenerationId) -> PathBuf {
    root.join("generations").join(id.as_str())
}

/// Writes the generation of mark 0, damages its folder, and compares what loading then says.
fn check(damage: impl FnOnce(&Path), expected: &str) {
    let root = tempfile::tempdir().unwrap();
    let id = write(root.path(), 0);
    damage(&dir_of(root.path(), &id));
    let error = load_generation(root.path(), &id, None).unwrap_err();
    let message = message(&error, root.path(), &id);
    let message =
        message.replace(&root.path().canonicalize().unwrap().display().to_string(), "ROOT");
    assert_eq!(message, expected);
    assert!(!verify(root.path(), &id, None).unwrap().is_sound());
}

#[test]
fn any_changed_byte_in_any_file_is_found() {
    let root = tempfile::tempdir().unwrap();
    let mut new = new_generation(0);
    new.probe = Some(crate::probes::probe(&["none", "fraud_deception", "malware_viruses"]));
    new.figures = Some(b"{\"format_version\": 1}".to_vec());
    let id = skeg_vector_store::write_generation(root.path(), &new).unwrap();
    let dir = dir_of(root.path(), &id);
    let names = [
        "CARD.md",
        "figures.json",
        "manifest.json",
        "policy.toml",
        "probe.safetensors",
        "vectors.safetensors",
    ];
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) };
    proptest!(config, |(file: prop::sample::Index, at: prop::sample::Index, mask in 1_u8..)| {
        let path = dir.join(file.get(&names));
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        *at.get_mut(&mut changed) ^= mask;
        fs::write(&path, changed).unwrap();
        let (loaded, report) =
            (load_generation(root.path(), &id, None), verify(root.path(), &id, None).unwrap());
        fs::write(&path, whole).unwrap();
        prop_assert!(loaded.is_err() && !report.is_sound());
    });
    assert!(load_generation(root.path(), &id, None).is_ok());
}

#[test]
fn a_missing_and_an_extra_file_are_found() {
    check(
        |dir| fs::remove_file(dir.join("CARD.md")).unwrap(),
        "CARD.md: the file is missing; copy the generation again from where it was made",
    );
    check(
        |dir| fs::remove_file(dir.join("manifest.json")).unwrap(),
        "manifest.json: the file is missing; copy the generation again from where it was made",
    );
    check(
        |dir| fs::write(dir.join("notes.txt"), "").unwrap(),
        "notes.txt: found a file that the manifest does not list, expected `CARD.md`, `policy.toml`, \
         `vectors.safetensors` alone; remove it",
    );
    check(
        |dir| fs::write(dir.join("CARD.md"), vec![b' '; 1024 * 1024 + 1]).unwrap(),
        "CARD.md: found more than 1048576 bytes, expected at most that; this is not such a file",
    );
    check(
        |dir| fs::write(dir.join("policy.toml"), vec![b'.'; 256 * 1024 + 1]).unwrap(),
        "policy.toml: found more than 262144 bytes, expected at most that; this is not such a file",
    );
    check(
        |dir| {
            fs::remove_file(dir.join("CARD.md")).unwrap();
            fs::create_dir(dir.join("CARD.md")).unwrap();
        },
        "CARD.md: found something else, expected a regular file",
    );
}

#[test]
fn a_changed_file_is_named_with_both_digests() {
    let card = crate::forge::sha256(crate::support::card(0).as_bytes());
    let other = crate::forge::sha256(b"other");
    check(
        |dir| fs::write(dir.join("CARD.md"), "other").unwrap(),
        &format!(
            "CARD.md: damaged: found SHA-256 {other}, expected {card}; copy the generation again from where it was made"
        ),
    );
}

#[test]
fn a_generation_under_another_name_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let id = write(root.path(), 0);
    let other = GenerationId::parse("0123456789abcdef").unwrap();
    fs::rename(dir_of(root.path(), &id), dir_of(root.path(), &other)).unwrap();
    let error = load_generation(root.path(), &other, None).unwrap_err().to_string();
    assert!(error.contains(": damaged: found SHA-256 "), "{error}");
    assert!(
        error.contains(id.as_str()) && error.contains("expected 0123456789abcdef..."),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_store_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("CARD.md");
    fs::write(&target, crate::support::card(0)).unwrap();
    let target = target.canonicalize().unwrap();
    check(
        |dir| {
            fs::remove_file(dir.join("CARD.md")).unwrap();
            std::os::unix::fs::symlink(&target, dir.join("CARD.md")).unwrap();
        },
        &format!(
            "CARD.md: found a link to {}, expected a place inside the store ROOT; copy the files into the store",
            target.display()
        ),
    );
    // The whole folder as a link to another store's is refused as well.
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = write(other.path(), 1);
    fs::create_dir(root.path().join("generations")).unwrap();
    std::os::unix::fs::symlink(dir_of(other.path(), &id), dir_of(root.path(), &id)).unwrap();
    let error = load_generation(root.path(), &id, None).unwrap_err().to_string();
    assert!(error.contains("found a link to "), "{error}");
}

#[test]
fn an_absent_generation_is_said_to_be_absent() {
    let root = tempfile::tempdir().unwrap();
    let id = GenerationId::parse("0123456789abcdef").unwrap();
    let error = load_generation(root.path(), &id, None).unwrap_err().to_string();
    assert!(error.contains("there is no generation 0123456789abcdef; write it first"), "{error}");
    assert_eq!(list_generations(root.path()).unwrap(), []);
    assert!(list_generations(&root.path().join("absent")).is_err());
}

#[test]
fn current_is_read_strictly() {
    let root = tempfile::tempdir().unwrap();
    let refused = |expected: &str| {
        let error = read_current(root.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused("there is no CURRENT; publish a generation");
    for text in [
        "",
        "{}",
        "[1]",
        r#"{"sequence": -1, "generation": "0123456789abcdef"}"#,
        r#"{"sequence": 1, "generation": "../../../../etc"}"#,
        r#"{"sequence": 1, "generation": "0123456789abcdef", "note": ""}"#,
    ] {
        fs::write(root.path().join("CURRENT"), text).unwrap();
        refused("CURRENT: found something else (");
    }
    fs::write(root.path().join("CURRENT"), vec![b' '; 5000]).unwrap();
    refused("CURRENT: found more than 4096 bytes");
}

#[test]
fn verifying_reports_every_file() {
    let root = tempfile::tempdir().unwrap();
    let id = publish(root.path(), 0);
    let sound = verify(root.path(), &id, Some(&crate::support::model())).unwrap();
    assert!(sound.is_sound() && sound.files.iter().all(|file| file.is_sound()), "{sound:?}");
    assert!(sound.root_hash.unwrap().starts_with(id.as_str()));
    let dir = dir_of(root.path(), &id);
    fs::write(dir.join("policy.toml"), "").unwrap();
    fs::write(dir.join("extra"), "").unwrap();
    fs::remove_file(dir.join("CARD.md")).unwrap();
    let report: Verification = verify(root.path(), &id, None).unwrap();
    let files: Vec<(&str, bool)> =
        report.files.iter().map(|file| (file.name.as_str(), file.is_sound())).collect();
    let expected = [
        ("CARD.md", false),
        ("extra", false),
        ("manifest.json", true),
        ("policy.toml", false),
        ("vectors.safetensors", true),
    ];
    assert_eq!(files, expected);
    assert!(!report.is_sound());
}
