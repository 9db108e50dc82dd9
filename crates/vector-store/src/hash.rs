//! Digests: of a file, of a whole generation, and the id that is made of it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Hex digits of an id.
const ID_DIGITS: usize = 16;
/// Hex digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// The first 16 digits of a generation's root hash, lower-case hex; also the name of its folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GenerationId(String);

impl GenerationId {
    /// Reads an id exactly.
    ///
    /// # Errors
    /// [`ParseGenerationIdError`] when it is not 16 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, ParseGenerationIdError> {
        if text.len() == ID_DIGITS && is_lower_hex(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseGenerationIdError { found: text.chars().take(SHA256_DIGITS).collect() })
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn of_root_hash(root_hash: &str) -> Self {
        Self(root_hash.chars().take(ID_DIGITS).collect())
    }
}

/// The text is not a generation's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("generation id {found:?}: expected 16 lower-case hex digits")]
pub struct ParseGenerationIdError {
    /// The first 64 characters of the text.
    pub found: String,
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GenerationId {
    type Err = ParseGenerationIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for GenerationId {
    type Error = ParseGenerationIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<GenerationId> for String {
    fn from(id: GenerationId) -> Self {
        id.0
    }
}

/// Lower-case hex SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(&Sha256::digest(bytes))
}

/// Whether a text is a lower-case hex SHA-256.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == SHA256_DIGITS && is_lower_hex(text)
}

/// The root hash over a generation's files (crate documentation), from name to digest.
pub(crate) fn root_hash(digests: &BTreeMap<String, String>) -> String {
    let lines: String =
        digests.iter().map(|(name, digest)| format!("{name}\0{digest}\n")).collect();
    sha256(lines.as_bytes())
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_other_tools() {
        // `printf abc | sha256sum`
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        // `printf 'a\0%s\n' $(printf abc | sha256sum | cut -c-64) | sha256sum`
        let files = BTreeMap::from([("a".to_owned(), abc.to_owned())]);
        let root = sha256(format!("a\0{abc}\n").as_bytes());
        assert_eq!(root_hash(&files), root);
        assert_eq!(GenerationId::of_root_hash(&root).as_str(), &root[..16]);
    }

    #[test]
    fn only_sixteen_lower_case_hex_digits_are_an_id() {
        assert!(GenerationId::parse("0123456789abcdef").is_ok());
        for text in
            ["", "0123456789abcde", "0123456789ABCDEF", "../../etc/passwd", "0123456789abcdefg"]
        {
            assert!(GenerationId::parse(text).is_err(), "{text}");
        }
    }
}
