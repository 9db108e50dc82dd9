//! The readers of skeg-vector-store: manifest, policy, vectors, probe, signatures, and the small files `CURRENT`, history and
//! figures.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest as _, Sha256};
use skeg_vector_store::place::{Bucket, BucketObject, Got, ObjectPlace, Only, Place as _, Tag};
use skeg_vector_store::signature::MAX_SIGNATURES;
use skeg_vector_store::{
    Files, Generation, Policy, Result, SecretKey, Signatures, load_files, read_files, sign_files,
    with_probe,
};

use crate::heap::{Reader, bounded};
use crate::support::new_generation;

pub(crate) const READERS: [Reader; 6] = [
    Reader { name: "manifest", read: manifest, seeds: manifest_seeds },
    Reader { name: "policy", read: policy, seeds: policy_seeds },
    Reader { name: "probe", read: probe, seeds: probe_seeds },
    Reader { name: "signatures", read: signatures, seeds: signatures_seeds },
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
const PROBE: &str = "probe.safetensors";
const SIGNATURES: &str = "SIGNATURES.json";
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

/// The same with a probe.
static PROBED: LazyLock<Files> =
    LazyLock::new(|| with_probe(&BASE, &probe_seeds().swap_remove(0)).unwrap());

/// Of which signatures by themselves are: no change of [`BASE`] makes kept inputs worthless.
const ROOT_HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Another each time.
static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::generate().unwrap());

fn manifest(bytes: &[u8]) -> bool {
    load(&BASE, MANIFEST, bytes).is_some()
}

fn vectors(bytes: &[u8]) -> bool {
    let loaded = load(&BASE, VECTORS, bytes);
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
    let loaded = load(&BASE, POLICY, bytes);
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
    current.is_ok() || history.is_ok() || load(&BASE, FIGURES, bytes).is_some()
}

/// What any probe must be; what it computes is skeg-lab's.
fn probe(bytes: &[u8]) -> bool {
    let loaded = load(&PROBED, PROBE, bytes);
    if let Some(generation) = &loaded {
        assert!(generation.probe.as_deref() == Some(bytes));
    }
    loaded.is_some()
}

/// By themselves, and beside a generation, to which one more is then added.
fn signatures(bytes: &[u8]) -> bool {
    let alone = bounded(most(SIGNATURES, bytes.len()), "the signatures alone", || {
        let read = Signatures::parse(bytes, ROOT_HASH, Path::new(SIGNATURES));
        read.map_err(|error| error.to_string()).ok()
    });
    if let Some(signatures) = &alone {
        assert!(signatures.to_json().unwrap() == bytes);
        assert!((1..=MAX_SIGNATURES).contains(&signatures.keys().count()));
    }
    let mut files = BASE.clone();
    files.insert(SIGNATURES.to_owned(), bytes.to_vec());
    let loaded = load_all(SIGNATURES, &files);
    if let Some(generation) = &loaded {
        let before = &generation.signatures;
        let has_room = before.keys().count() < MAX_SIGNATURES;
        assert_eq!(sign_files(&mut files, generation, &KEY).is_ok(), has_room);
        let after = load_all(SIGNATURES, &files).unwrap().signatures;
        assert!(before.keys().all(|key| after.keys().any(|other| other == key)));
        assert_eq!(after.keys().count(), before.keys().count() + usize::from(has_room));
    }
    alone.is_some() || loaded.is_some()
}

/// A generation with one file replaced, the digest in its manifest made right.
fn load(base: &Files, name: &str, bytes: &[u8]) -> Option<Generation> {
    let mut files = base.clone();
    let before = files.insert(name.to_owned(), bytes.to_vec()).unwrap();
    if name != MANIFEST {
        let text = String::from_utf8(files[MANIFEST].clone()).unwrap();
        let text = text.replace(&sha256(&before), &sha256(bytes));
        files.insert(MANIFEST.to_owned(), text.into_bytes());
    }
    load_all(name, &files)
}

/// A generation of which the file of this name is from elsewhere.
fn load_all(name: &str, files: &Files) -> Option<Generation> {
    let num_bytes = files.values().map(Vec::len).sum();
    bounded(most(name, num_bytes), name, || {
        load_files(Path::new("generation"), None, files).map_err(|error| error.to_string()).ok()
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

fn probe_seeds() -> Vec<Vec<u8>> {
    let classes = r#"["malware_viruses","none","fraud_deception"]"#;
    let metadata = HashMap::from([("classes".to_owned(), classes.to_owned())]);
    let values = [0.5_f32, -1.0].map(f32::to_le_bytes).concat();
    let weights = TensorView::new(Dtype::F32, vec![2], &values).unwrap();
    vec![safetensors::serialize([("weights", weights)], Some(metadata)).unwrap()]
}

fn signatures_seeds() -> Vec<Vec<u8>> {
    let path = Path::new("generation");
    let root_hash = load_files(path, None, &BASE).unwrap().root_hash;
    let signed = |root_hash: &str, num_keys: usize| {
        let more = |signatures: Signatures, _| {
            signatures.signed(&SecretKey::generate().unwrap(), root_hash)
        };
        (0..num_keys).fold(Signatures::default(), more).to_json().unwrap()
    };
    vec![
        signed(ROOT_HASH, 1),
        signed(ROOT_HASH, 2),
        signed(&root_hash, 1),
        signed(&root_hash, MAX_SIGNATURES),
    ]
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
