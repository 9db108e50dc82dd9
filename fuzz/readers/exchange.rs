//! The readers of skeg-lab's exchange: a GGUF control vector, and vectors in safetensors and npz.

use std::path::Path;

use skeg_lab::exchange::{Declared, DeclaredStrength, FileFormat, FileVector, VectorFile};
use skeg_vector_store::{Operator, Orientation, Site};

use crate::heap::{Reader, bounded};

pub(crate) const READERS: [Reader; 2] = [
    Reader { name: "control_vector", read: control_vector, seeds: control_vector_seeds },
    Reader { name: "exchange", read: exchange, seeds: exchange_seeds },
];

/// Each byte of a file may cost this many, and a file this many more: maps of short entries, the JSON of headers, messages.
const BYTES_A_BYTE: usize = 32;
const BYTES_A_FILE: usize = 16 * 1024;
/// Values of a row of [`file`].
const HIDDEN_SIZE: usize = 8;

fn control_vector(bytes: &[u8]) -> bool {
    is_read(bytes, FileFormat::Gguf, "the input")
}

fn exchange(bytes: &[u8]) -> bool {
    let as_safetensors = is_read(bytes, FileFormat::Safetensors, "the input");
    is_read(bytes, FileFormat::Npz, "the input") || as_safetensors
}

/// Reads bytes and holds the reader to its bound; whether they are a file.
pub(crate) fn is_read(bytes: &[u8], format: FileFormat, what: &str) -> bool {
    let most = BYTES_A_BYTE * bytes.len() + BYTES_A_FILE;
    let read = bounded(most, what, || VectorFile::parse(bytes, format, Path::new("a.file")));
    let Ok(read) = read else { return false };
    for vector in read.vectors.values() {
        assert!(vector.values.len() * 4 <= bytes.len(), "{format:?}, {what}");
        assert!(vector.values.iter().all(|value| value.is_finite()), "{format:?}, {what}");
    }
    // A control vector has no rows of zeros, and has a hint.
    if format != FileFormat::Gguf
        && let Ok(written) = read.to_bytes(format)
    {
        let again = VectorFile::parse(&written, format, Path::new("a.file")).unwrap();
        assert!(again == read, "{format:?}, {what}: written and read again it is another");
    }
    true
}

/// A file of vectors with all that one can declare.
pub(crate) fn file(names: &[&str]) -> VectorFile {
    let value = |name: &str, i: usize| (i + name.len()) as f32 * 0.37 - 3.0;
    let vector = |name: &&str| {
        let vector = FileVector {
            layers: Some(vec![1, 2, 4]),
            num_rows: 3,
            values: (0..3 * HIDDEN_SIZE).map(|i| value(name, i)).collect(),
        };
        ((*name).to_owned(), vector)
    };
    let strength = DeclaredStrength { default: 0.5, floor: 0.25, ceiling: 1.5 };
    VectorFile {
        declared: Declared {
            site: Some(Site::ResidPost),
            operator: Some(Operator::Add),
            orientation: Some(Orientation::Reversed),
            model_hint: Some("llama".to_owned()),
            architecture_id: Some("a".repeat(64)),
            weights_id: Some("b".repeat(64)),
            strengths: names.iter().map(|name| ((*name).to_owned(), strength)).collect(),
        },
        vectors: names.iter().map(vector).collect(),
    }
}

fn control_vector_seeds() -> Vec<Vec<u8>> {
    let other = include_bytes!("../../tests/golden/control_vector.gguf");
    vec![file(&["direction"]).to_bytes(FileFormat::Gguf).unwrap(), other.to_vec()]
}

fn exchange_seeds() -> Vec<Vec<u8>> {
    let ours = file(&["fraud_deception", "malware_viruses"]);
    let formats = [FileFormat::Safetensors, FileFormat::Npz];
    let mut seeds: Vec<_> = formats.map(|format| ours.to_bytes(format).unwrap()).to_vec();
    seeds.push(include_bytes!("../../tests/golden/vectors.npz").to_vec());
    seeds
}
