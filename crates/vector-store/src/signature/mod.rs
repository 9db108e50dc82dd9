//! `SIGNATURES.json`: who answers for a generation, by ed25519 (RFC 8032).
//!
//! What is signed is the generation's root hash behind a line of its own, so that a signature means nothing elsewhere:
//!
//! ```text
//! skeg generation v1 LF
//! <root hash, 64 lower-case hex digits> LF
//! ```
//!
//! The file lies beside the files of the generation and outside its root hash: signing changes no id, and several keys may sign.
//!
//! ```text
//! {"format_version": 1, "signatures": [{"key": "<base64>", "signature": "<base64>"}]}
//! ```
//!
//! It is written in one way alone (the fields in this order, indented by two, the keys in order of their bytes), and each signature in
//! it is checked whenever it is read, whoever is trusted: a file that says anything false is an error. There are no names in it, because
//! nobody vouches for them; names are those of whoever trusts a key.

mod keys;
mod trusted;

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use keys::{ParseKeyError, PublicKey, SecretKey};
pub use trusted::TrustedKeys;

use crate::error::{BadValue, Error, Result};
use crate::{Files, Generation, files};

/// The `format_version` that `SIGNATURES.json` must have.
pub const SIGNATURES_FORMAT_VERSION: u32 = 1;
/// Signatures that a generation may have: more than the keys that are in use while one replaces another.
pub const MAX_SIGNATURES: usize = 16;

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;
/// What a signed text begins with: its purpose and its version.
const DOMAIN: &str = "skeg generation v1\n";
const REMOVE_IT: &str = "remove the file and sign the generation again";

/// The signatures of a generation, each of them valid for its root hash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatures {
    by: BTreeMap<PublicKey, [u8; SIGNATURE_BYTES]>,
}

/// The version alone, since another one may have other fields.
#[derive(Deserialize)]
struct Frame {
    format_version: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureFile {
    format_version: u32,
    signatures: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    signature: String,
}

impl Signatures {
    /// Reads the bytes of `SIGNATURES.json` and checks each signature against the root hash it lies beside, 64 lower-case hex
    /// digits; `path` is for errors.
    ///
    /// # Errors
    /// [`Error::Layout`] when it is not such a file or not in its one form, [`Error::UnsupportedFormat`], [`Error::Field`] for a
    /// key or a signature that is none, and for a signature that is not of this root hash.
    pub fn parse(bytes: &[u8], root_hash: &str, path: &Path) -> Result<Self> {
        let layout = |error: serde_json::Error| {
            let reason = format!(
                "found something else ({error}), expected {{\"format_version\": {SIGNATURES_FORMAT_VERSION}, \
                 \"signatures\": [...]}}; {REMOVE_IT}"
            );
            Error::layout(path, reason)
        };
        let frame: Frame = serde_json::from_slice(bytes).map_err(layout)?;
        if frame.format_version.as_u64() != Some(SIGNATURES_FORMAT_VERSION.into()) {
            return Err(Error::UnsupportedFormat {
                path: path.to_owned(),
                found: frame.format_version.to_string(),
                expected: SIGNATURES_FORMAT_VERSION,
            });
        }
        let file: SignatureFile = serde_json::from_slice(bytes).map_err(layout)?;
        let signatures = Self::of_entries(&file.signatures, root_hash)
            .map_err(|bad| Error::Field(bad.in_file(path)))?;
        if signatures.to_json()? != bytes {
            let reason = format!(
                "found other spacing, another order or a key twice, expected the one form that \
                 `skeg vectors sign` writes; {REMOVE_IT}"
            );
            return Err(Error::layout(path, reason));
        }
        Ok(signatures)
    }

    fn of_entries(entries: &[Entry], root_hash: &str) -> Result<Self, Box<BadValue>> {
        if !(1..=MAX_SIGNATURES).contains(&entries.len()) {
            let expected = format!("1 to {MAX_SIGNATURES}");
            return Err(BadValue::new("signatures", entries.len(), expected, REMOVE_IT));
        }
        let mut by = BTreeMap::new();
        for (idx, entry) in entries.iter().enumerate() {
            let Ok(key) = entry.key.parse::<PublicKey>() else {
                let place = format!("signatures[{idx}].key");
                let expected = "an ed25519 public key in base64";
                return Err(BadValue::new(place, "something else", expected, REMOVE_IT));
            };
            let place = format!("signatures[{idx}].signature");
            let decoded = STANDARD.decode(&entry.signature).ok();
            let Some(signature) = decoded.and_then(|bytes| bytes.try_into().ok()) else {
                let expected = format!("{SIGNATURE_BYTES} bytes in base64");
                return Err(BadValue::new(place, "something else", expected, REMOVE_IT));
            };
            if !key.has_signed(&message(root_hash), &signature) {
                let found = format!("a signature that key {key} did not make for this generation");
                let expected = format!("its signature of the root hash {root_hash}");
                return Err(BadValue::new(place, found, expected, REMOVE_IT));
            }
            by.insert(key, signature);
        }
        Ok(Self { by })
    }

    /// The bytes of `SIGNATURES.json`.
    ///
    /// # Errors
    /// None that is known: the values have a form in JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let entry = |(key, signature): (&PublicKey, &[u8; SIGNATURE_BYTES])| Entry {
            key: key.to_string(),
            signature: STANDARD.encode(signature),
        };
        let signatures = self.by.iter().map(entry).collect();
        let file = SignatureFile { format_version: SIGNATURES_FORMAT_VERSION, signatures };
        let mut bytes = serde_json::to_vec_pretty(&file)
            .map_err(|error| Error::layout(files::SIGNATURES, error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Signs a root hash, 64 lower-case hex digits, of the generation that the other signatures are of.
    #[must_use]
    pub fn signed(mut self, key: &SecretKey, root_hash: &str) -> Self {
        self.by.insert(key.public_key(), key.sign(&message(root_hash)));
        self
    }

    /// The keys that signed, in order of their bytes.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.by.keys()
    }

    /// Whether nobody signed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// These, and those of the same generation that are missing among them; `path` is for errors.
    pub(crate) fn and(&self, more: &Self, path: &Path) -> Result<Self> {
        let mut all = self.clone();
        for (key, signature) in &more.by {
            all.by.entry(key.clone()).or_insert(*signature);
        }
        if all.by.len() <= MAX_SIGNATURES {
            return Ok(all);
        }
        let reason = format!(
            "{} keys would have signed, expected at most {MAX_SIGNATURES}; write the generation anew, and sign it with the keys \
             that are in use",
            all.by.len()
        );
        Err(Error::layout(path, reason))
    }
}

/// Adds a signature to files of a generation, as [`Place::read_files`](crate::place::Place::read_files) gives them.
/// [`Place::add_files`](crate::place::Place::add_files) then adds it to the place, beside those that are there.
///
/// # Errors
/// [`Error::Layout`] when the generation has [`MAX_SIGNATURES`] already.
pub fn sign_files(files: &mut Files, generation: &Generation, key: &SecretKey) -> Result<()> {
    let new = Signatures::default().signed(key, &generation.root_hash);
    let all = generation.signatures.and(&new, Path::new(files::SIGNATURES))?;
    files.insert(files::SIGNATURES.to_owned(), all.to_json()?);
    Ok(())
}

/// What is signed for a generation.
fn message(root_hash: &str) -> Vec<u8> {
    format!("{DOMAIN}{root_hash}\n").into_bytes()
}
