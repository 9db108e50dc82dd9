//! Files of every format version stay readable: each `vN` is read and must say what its `.expected` twin says.

use std::path::{Path, PathBuf};

use skeg_vector_store::{Manifest, Policy, list_generations, load_generation, verify};

/// Reads a data file and its twin.
fn pair(kind: &str, name: &str, extension: &str) -> (PathBuf, String, String) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-data").join(kind);
    let path = dir.join(format!("{name}.{extension}"));
    let expected = dir.join(format!("{name}.expected.{extension}"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    (path.clone(), read(&path), read(&expected))
}

#[test]
fn manifests_of_every_version_are_read() {
    let (path, text, expected) = pair("manifest", "v1", "json");
    let manifest = Manifest::parse(text.as_bytes(), &path).unwrap();
    assert_eq!(String::from_utf8(manifest.to_json().unwrap()).unwrap(), expected);
}

/// The shipped stores were written by earlier programs; what they hold keeps its bytes and so its id.
#[test]
fn shipped_generations_stay_sound() {
    let stores = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let roots = std::fs::read_dir(stores).unwrap().map(|entry| entry.unwrap().path());
    let roots: Vec<PathBuf> = roots.filter(|root| root.join("CURRENT").exists()).collect();
    assert!(!roots.is_empty());
    for root in roots {
        for id in list_generations(&root).unwrap() {
            assert!(verify(&root, &id, None).unwrap().is_sound(), "{id}");
            let generation = load_generation(&root, &id, None).unwrap();
            let manifest = root.join("generations").join(id.as_str()).join("manifest.json");
            let manifest = std::fs::read(manifest).unwrap();
            assert_eq!(generation.manifest.to_json().unwrap(), manifest, "{id}");
        }
    }
}

#[test]
fn policies_are_read() {
    let (_, text, expected) = pair("policy", "v1", "toml");
    assert_eq!(Policy::parse(&text).unwrap().to_toml().unwrap(), expected);
}
