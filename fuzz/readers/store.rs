//! The readers of skeg-vector-store: manifest, policy, vectors, and the small files `CURRENT`, history and figures.

use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use skeg_vector_store::place::{Bucket, BucketObject, Got, ObjectPlace, Only, Place as _, Tag};
use skeg_vector_store::{Files, Generation, Policy, Result, load_files, read_files};

use crate::heap::{Reader, bounded};
use crate::support::new_generation;

pub(crate) const READERS: [Reader; 4] = [
    Reader { name: "manifest", read: manifest, seeds: manifest_seeds },
    Reader { name: "policy", read: policy, seeds: policy_seeds },
    Reader { name: "small_files", read: small_files, seeds: small_seeds },
    Reader { name: "vectors", read: vectors, seeds: vectors_seeds },
];

/// Each byte that is read may cost so many, and a reading so many more: trees of JSON, maps of short entries, messages.
const BYTES_A_BYTE: usize = 64;
const BYTES_A_READING: usize = 64 * 1024;
/// The same of TOML, whose parser makes a table for each dot of a key: about a kilobyte.
const BYTES_A_BYTE_OF_TOML: usize = 1536;

const MANIFEST: &str = "manifest.json";
const POLICY: &str = "policy.toml";
const VECTORS: &str = "vectors.safetensors";
const FIGURES: &str = "figures.json";
const CURRENT: &str = "{\"sequence\": 2, \"generation\": \"0123456789abcdef\"}\n";

/// A generation that holds.
static BASE: LazyLock<Files> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let mut generation = new_generation(0);
    generation.figures = Some(b"{\"format_version\": 1}".to_vec());
    let id = skeg_vector_store::write_generation(folder.path(), &generation).unwrap();
    read_files(folder.path(), &id).unwrap()
});

fn manifest(bytes: &[u8]) -> bool {
    load(MANIFEST, bytes).is_some()
}

fn vectors(bytes: &[u8]) -> bool {
    let loaded = load(VECTORS, bytes);
    for vectors in loaded.iter().flat_map(|generation| generation.vectors.values()) {
        assert!(vectors.values.iter().all(|value| value.is_finite()));
        assert!(vectors.values.len() * 4 <= bytes.len());
    }
    loaded.is_some()
}

/// By itself, and in a generation, whose manifest it must fit.
fn policy(bytes: &[u8]) -> bool {
    let parsed = bounded(most(POLICY, bytes.len()), "the policy alone", || {
        let text = std::str::from_utf8(bytes).ok()?;
        Policy::parse(text).map_err(|error| error.to_string()).ok()
    });
    let loaded = load(POLICY, bytes);
    if let Some(policy) = &parsed {
        let written = policy.to_toml().unwrap();
        assert_eq!(Policy::parse(&written).unwrap(), *policy, "{written}");
    }
    if let Some(generation) = loaded {
        assert_eq!(Some(&generation.policy), parsed.as_ref());
    }
    parsed.is_some()
}

/// As `CURRENT`, as every entry of the history, and as figures.
fn small_files(bytes: &[u8]) -> bool {
    let most = most("CURRENT", 2 * bytes.len() + CURRENT.len());
    let as_current = Objects { current: bytes.to_vec(), entry: bytes.to_vec() };
    let as_entry = Objects { current: CURRENT.into(), entry: bytes.to_vec() };
    let current = bounded(most, "as CURRENT", || {
        ObjectPlace::new(as_current).find_current().map_err(|error| error.to_string())
    });
    let history = bounded(most, "as history", || {
        ObjectPlace::new(as_entry).history(10).map_err(|error| error.to_string())
    });
    current.is_ok() || history.is_ok() || load(FIGURES, bytes).is_some()
}

/// The generation with one file replaced, the digest in its manifest made right.
fn load(name: &str, bytes: &[u8]) -> Option<Generation> {
    let mut files = BASE.clone();
    let before = files.insert(name.to_owned(), bytes.to_vec()).unwrap();
    if name != MANIFEST {
        let text = String::from_utf8(files[MANIFEST].clone()).unwrap();
        let text = text.replace(&sha256(&before), &sha256(bytes));
        files.insert(MANIFEST.to_owned(), text.into_bytes());
    }
    let num_bytes = files.values().map(Vec::len).sum();
    bounded(most(name, num_bytes), name, || {
        load_files(Path::new("generation"), None, &files).map_err(|error| error.to_string()).ok()
    })
}

fn most(name: &str, num_bytes: usize) -> usize {
    let bytes_a_byte = if name == POLICY { BYTES_A_BYTE_OF_TOML } else { BYTES_A_BYTE };
    bytes_a_byte * num_bytes + BYTES_A_READING
}

fn sha256(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(bytes))
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    vec![BASE[MANIFEST].clone()]
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let v1 = include_str!("../../crates/vector-store/test-data/policy/v1.toml");
    vec![BASE[POLICY].clone(), v1.into()]
}

fn vectors_seeds() -> Vec<Vec<u8>> {
    vec![BASE[VECTORS].clone()]
}

fn small_seeds() -> Vec<Vec<u8>> {
    let entry = "{\"sequence\":2,\"generation\":\"0123456789abcdef\",\"previous\":\"00112233445566ff\",\
                 \"unix_time\":1,\"actor\":\"a\",\"reason\":\"b\",\"kind\":\"rollback\"}\n";
    vec![CURRENT.into(), entry.into(), BASE[FIGURES].clone()]
}

/// A bucket of two kinds of objects.
#[derive(Debug)]
struct Objects {
    current: Vec<u8>,
    entry: Vec<u8>,
}

impl Bucket for Objects {
    fn name(&self) -> String {
        "bucket".to_owned()
    }

    fn get(&self, key: &str, _max_bytes: u64, _known: Option<&Tag>) -> Result<Got> {
        let bytes = if key == "CURRENT" { &self.current } else { &self.entry };
        Ok(Got::Object(bytes.clone(), Tag { e_tag: None, version: None }))
    }

    fn put(&self, _key: &str, _bytes: &[u8], _only: &Only) -> Result<bool> {
        Ok(false)
    }

    fn delete(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    fn list(&self, _folder: &str, _max: usize) -> Result<Vec<BucketObject>> {
        Ok(vec![BucketObject { key: "CURRENT".to_owned(), modified: SystemTime::UNIX_EPOCH }])
    }
}
