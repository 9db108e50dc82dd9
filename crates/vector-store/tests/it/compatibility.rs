//! Files of every format version stay readable: what each of them holds is what its `.expected` twin says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use skeg_vector_store::{
    FIGURES_FORMAT_VERSION, FORMAT_VERSION, Generation, Manifest, Policy, Store, list_generations,
    load_generation, read_current, read_history, verify,
};

fn test_data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test-data")
}

/// Reads a data file and its twin.
fn pair(kind: &str, name: &str, extension: &str) -> (PathBuf, String, String) {
    let dir = test_data().join(kind);
    let path = dir.join(format!("{name}.{extension}"));
    let expected = dir.join(format!("{name}.expected.{extension}"));
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    (path.clone(), read(&path), read(&expected))
}

/// The store that programs of a format version wrote, and what it holds.
fn golden(version: u32) -> (PathBuf, Value) {
    let root = test_data().join(format!("stores/v{version}"));
    let expected = test_data().join(format!("stores/v{version}.expected.json"));
    (root, serde_json::from_slice(&fs::read(expected).unwrap()).unwrap())
}

/// What a generation holds, as the twins say it.
fn content(generation: &Generation) -> Value {
    let vectors = generation.vectors.iter().map(|(category, vectors)| {
        let rows = vectors.rows().map(|(_, row)| json!(row)).collect();
        (category.to_string(), Value::Array(rows))
    });
    json!({
        "root_hash": generation.root_hash,
        "card": generation.card,
        "figures": generation.figures,
        "has_probe": generation.has_probe(),
        "vectors": Value::Object(vectors.collect()),
    })
}

#[test]
fn a_store_of_every_format_version_is_kept() {
    let mut found = BTreeSet::new();
    let mut figures = BTreeSet::new();
    for entry in fs::read_dir(test_data().join("stores")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(version) = name.strip_prefix('v').and_then(|version| version.parse().ok()) else {
            continue;
        };
        found.insert(version);
        let (_, expected) = golden(version);
        figures.extend(
            expected["figures_format_versions"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_u64),
        );
    }
    let wanted: BTreeSet<u32> = (1..=FORMAT_VERSION).collect();
    assert_eq!(found, wanted, "add a store of the new version: test-data/stores/README.md");
    let wanted: BTreeSet<u64> = (1..=u64::from(FIGURES_FORMAT_VERSION)).collect();
    assert_eq!(figures, wanted, "add a store with figures of the new version");
}

#[test]
fn stores_of_every_format_version_hold_what_they_held() {
    for version in 1..=FORMAT_VERSION {
        let (root, expected) = golden(version);
        let current = read_current(&root).unwrap();
        assert_eq!(expected["current"], current.generation.as_str());
        assert_eq!(expected["sequence"], current.sequence);
        let history = read_history(&root, usize::MAX).unwrap();
        assert_eq!(history.len() as u64, current.sequence);
        assert_eq!(history[0].generation, current.generation);
        let ids = list_generations(&root).unwrap();
        let expected = expected["generations"].as_object().unwrap();
        assert!(!ids.is_empty() && ids.len() == expected.len());
        for id in ids {
            assert!(verify(&root, &id, None).unwrap().is_sound(), "{id}");
            let generation = load_generation(&root, &id, None).unwrap();
            assert_eq!(content(&generation), expected[id.as_str()], "{id}");
            let dir = root.join("generations").join(id.as_str());
            let policy = fs::read_to_string(dir.join("policy.toml")).unwrap();
            assert_eq!(generation.policy.to_toml().unwrap(), policy, "{id}");
            if generation.manifest.format_version == FORMAT_VERSION {
                let manifest = fs::read(dir.join("manifest.json")).unwrap();
                assert_eq!(generation.manifest.to_json().unwrap(), manifest, "{id}");
            }
        }
    }
}

#[test]
fn a_store_of_every_format_version_serves() {
    for version in 1..=FORMAT_VERSION {
        let (root, expected) = golden(version);
        let current = read_current(&root).unwrap().generation;
        let manifest = load_generation(&root, &current, None).unwrap().manifest;
        let store =
            Store::open(&root, manifest.model(), |generation| Ok(generation.card.clone())).unwrap();
        let live = store.current();
        assert_eq!(live.generation.id, current);
        assert_eq!(expected["generations"][current.as_str()]["card"], live.attached.as_str());
    }
}

#[test]
fn versions_from_before_the_first_and_after_the_last_are_refused_by_their_number() {
    let (path, text, _) = pair("manifest", "v1", "json");
    for version in [0, FORMAT_VERSION + 1, u32::MAX] {
        let other =
            text.replacen("\"format_version\": 1", &format!("\"format_version\": {version}"), 1);
        assert_ne!(text, other);
        let error = Manifest::parse(other.as_bytes(), &path).unwrap_err().to_string();
        let expected =
            format!("field `format_version`: found {version}, expected {FORMAT_VERSION};");
        assert!(error.contains(&expected), "{error}");
    }
}

/// A field that a format does not know is refused and not passed over: it may change what the others mean.
#[test]
fn a_field_of_a_later_program_is_refused_by_its_name() {
    let (path, text, _) = pair("manifest", "v1", "json");
    let later = text.replacen("\"format_version\": 1", "\"format_version\": 1, \"later\": 1", 1);
    let error = Manifest::parse(later.as_bytes(), &path).unwrap_err().to_string();
    assert!(error.contains("unknown field `later`"), "{error}");
    let (_, text, _) = pair("policy", "v1", "toml");
    let error = Policy::parse(&format!("later = 1\n{text}")).unwrap_err().to_string();
    assert!(error.contains("unknown field `later`"), "{error}");
}

/// What programs before a field know is written without it, so that they go on reading it.
#[test]
fn a_policy_that_uses_no_later_field_has_none() {
    let (_, text, _) = pair("policy", "v1", "toml");
    let mut policy = Policy::parse(&text).unwrap();
    let has = |policy: &Policy, field: &str| policy.to_toml().unwrap().contains(field);
    assert!(!has(&policy, "max_relative_norm") && !has(&policy, "require_measured"));
    (policy.max_relative_norm, policy.require_measured) = (0.5, true);
    assert!(has(&policy, "max_relative_norm = 0.5") && has(&policy, "require_measured = true"));
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
    let roots = fs::read_dir(stores).unwrap().map(|entry| entry.unwrap().path());
    let roots: Vec<PathBuf> = roots.filter(|root| root.join("CURRENT").exists()).collect();
    assert!(!roots.is_empty());
    for root in roots {
        for id in list_generations(&root).unwrap() {
            assert!(verify(&root, &id, None).unwrap().is_sound(), "{id}");
            let generation = load_generation(&root, &id, None).unwrap();
            let manifest = root.join("generations").join(id.as_str()).join("manifest.json");
            let manifest = fs::read(manifest).unwrap();
            assert_eq!(generation.manifest.to_json().unwrap(), manifest, "{id}");
        }
    }
}

#[test]
fn policies_are_read() {
    let (_, text, expected) = pair("policy", "v1", "toml");
    assert_eq!(Policy::parse(&text).unwrap().to_toml().unwrap(), expected);
}
