//! Files of every format version stay readable: each `vN` is read and must say what its `.expected` twin says.

use std::path::{Path, PathBuf};

use skeg_vector_store::{Manifest, Policy};

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

#[test]
fn policies_are_read() {
    let (_, text, expected) = pair("policy", "v1", "toml");
    assert_eq!(Policy::parse(&text).unwrap().to_toml().unwrap(), expected);
}
