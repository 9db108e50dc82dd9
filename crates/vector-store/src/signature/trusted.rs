//! Whose signatures count.

use std::collections::BTreeMap;
use std::fmt;

use super::{ParseKeyError, PublicKey, Signatures};
use crate::error::{Error, Result};
use crate::{Generation, GenerationId};

/// Longest name of a key, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Keys, one of which must have signed a generation. Without keys no signature is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys {
    /// The name, where it has one.
    names: BTreeMap<PublicKey, Option<String>>,
}

impl TrustedKeys {
    /// Reads keys, each in base64 or as `name:base64`. A name has letters, digits, `.`, `_` and `-`.
    ///
    /// # Errors
    /// [`ParseKeyError`] for what is no key, and for a key or a name that is there twice. It says which entry, and quotes no key.
    pub fn parse<T: AsRef<str>>(entries: &[T]) -> Result<Self, ParseKeyError> {
        let mut names = BTreeMap::new();
        for (idx, entry) in entries.iter().enumerate() {
            let wrong = |reason: String| ParseKeyError::new(format!("key {}: {reason}", idx + 1));
            let (name, key) = match entry.as_ref().trim().rsplit_once(':') {
                Some((name, key)) => (Some(name), key),
                None => (None, entry.as_ref().trim()),
            };
            if name.is_some_and(|name| !is_name(name)) {
                return Err(wrong(format!(
                    "found a name that is none, expected 1 to {MAX_NAME_BYTES} letters, digits, `.`, `_` or `-` before the colon"
                )));
            }
            let key: PublicKey = key.parse().map_err(|error: ParseKeyError| wrong(error.reason))?;
            let is_taken = |other: &Option<String>| name.is_some() && other.as_deref() == name;
            if names.values().any(is_taken) {
                return Err(wrong(
                    "found the name of another key, expected names that differ".to_owned(),
                ));
            }
            if names.insert(key, name.map(ToOwned::to_owned)).is_some() {
                return Err(wrong("found a key that is there already; leave it out".to_owned()));
            }
        }
        Ok(Self { names })
    }

    /// Whether no signature is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Fails for a generation that none of the keys signed, unless there are no keys. That its signatures are valid was
    /// checked when it was loaded.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub fn check(&self, generation: &Generation) -> Result<()> {
        self.check_signatures(&generation.id, &generation.signatures)
    }

    /// [`TrustedKeys::check`] for the signatures of a generation that is named by its id.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub fn check_signatures(&self, id: &GenerationId, signatures: &Signatures) -> Result<()> {
        if self.is_empty() || signatures.keys().any(|key| self.names.contains_key(key)) {
            return Ok(());
        }
        let found = match signatures.is_empty() {
            true => "no signature".to_owned(),
            false => format!("signatures of {} alone", list(signatures.keys())),
        };
        let expected = list(self.names.keys().map(|key| self.name_of(key)));
        Err(Error::Untrusted { generation: id.clone(), found, expected })
    }

    /// The trusted keys among those that signed, each by its name, or in base64 where it has none.
    #[must_use]
    pub fn signers(&self, signatures: &Signatures) -> Vec<String> {
        let trusted = signatures.keys().filter(|key| self.names.contains_key(key));
        trusted.map(|key| self.name_of(key)).collect()
    }

    /// What a key is called: its name if it is trusted and has one, else its base64.
    #[must_use]
    pub fn name_of(&self, key: &PublicKey) -> String {
        self.names.get(key).cloned().flatten().unwrap_or_else(|| key.to_string())
    }

    /// The entries as [`TrustedKeys::parse`] reads them, in order of the keys' bytes.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        let entry = |(key, name): (&PublicKey, &Option<String>)| match name {
            Some(name) => format!("{name}:{key}"),
            None => key.to_string(),
        };
        self.names.iter().map(entry).collect()
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_part)
}

fn list(names: impl Iterator<Item = impl fmt::Display>) -> String {
    names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}
