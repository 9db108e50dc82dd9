//! A generation's files, taken from one store and given to another.

use std::fs;
use std::path::Path;

use skeg_vector_store::{add_generation, load_generation, read_files};

use crate::support::write;

fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("generations")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_copy_is_the_same_generation() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = write(from.path(), 7);
    let files = read_files(from.path(), &id).unwrap();
    assert!(files.contains_key("manifest.json") && files.contains_key("vectors.safetensors"));
    for _ in 0..2 {
        assert_eq!(add_generation(to.path(), &files).unwrap(), id);
    }
    let load = |root| load_generation(root, &id, None).unwrap();
    assert_eq!(load(from.path()), load(to.path()));
    assert_eq!(names(to.path()), [id.to_string()]);
}

#[test]
fn what_is_no_whole_generation_leaves_nothing_behind() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = read_files(from.path(), &write(from.path(), 7)).unwrap();
    let mut changed = files.clone();
    *changed.get_mut("CARD.md").unwrap().last_mut().unwrap() ^= 1;
    let mut missing = files.clone();
    missing.remove("policy.toml");
    for (files, expected) in [(changed, "CARD.md"), (missing, "policy.toml")] {
        let error = add_generation(to.path(), &files).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for name in ["../CURRENT", "/tmp/skeg", "sub/manifest.json", ".", ""] {
        let mut more = files.clone();
        more.insert(name.to_owned(), b"text".to_vec());
        let error = add_generation(to.path(), &more).unwrap_err().to_string();
        assert!(error.contains("no file of a generation has this name"), "{error}");
    }
    assert!(!to.path().join("CURRENT").exists());
    assert!(names(to.path()).is_empty());
}

#[test]
fn files_of_a_damaged_generation_are_not_given_out() {
    let from = tempfile::tempdir().unwrap();
    let id = write(from.path(), 7);
    let card = from.path().join("generations").join(id.as_str()).join("CARD.md");
    fs::write(card, "another").unwrap();
    assert!(read_files(from.path(), &id).unwrap_err().to_string().contains("CARD.md"));
}
