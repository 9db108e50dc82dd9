//! Keys: the public one in a line of base64, the secret one in a file of its owner.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::SIGNATURE_BYTES;
use crate::error::{Error, Result};
use crate::files;

/// Bytes of a key, public or secret.
const KEY_BYTES: usize = 32;
/// What the one line of a secret key's file begins with. With the space after it nobody takes the line for a public key.
const SECRET_PREFIX: &str = "skeg-signing-key-v1 ";
/// The line has 65.
const MAX_SECRET_FILE_BYTES: u64 = 1024;

/// Who signed: an ed25519 public key, in text the base64 of its 32 bytes (RFC 4648, with padding).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

/// The text is no public key. Quotes nothing of it: somebody may have put the secret one there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ParseKeyError {
    /// What was found, what was expected and what to do.
    pub reason: String,
}

impl ParseKeyError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl PublicKey {
    /// Whether this key signed the message, by the strict rules: no malleable signature, no key of small order.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let decoded = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        let Some(bytes) = decoded else {
            return Err(ParseKeyError::new(format!(
                "found {} characters that are no public key, expected 44 of base64, as `skeg vectors keygen` prints them",
                text.chars().count()
            )));
        };
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            _ => Err(ParseKeyError::new(
                "found 32 bytes that are no ed25519 public key, expected what `skeg vectors keygen` printed",
            )),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// What signs: an ed25519 secret key. It is never shown, and wiped from memory when it is dropped.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new key, from the system's randomness.
    ///
    /// # Errors
    /// [`Error::Io`] when the system has none.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; KEY_BYTES];
        getrandom::fill(&mut seed).map_err(|error| {
            Error::io("take randomness from", "the system")(std::io::Error::other(error))
        })?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads the file of a key.
    ///
    /// # Errors
    /// [`Error::Layout`] when there is none, when it is not one, and where everybody may read it; [`Error::Io`]. No error quotes it.
    pub fn read(path: &Path) -> Result<Self> {
        let missing = "there is no such file; make a key with `skeg vectors keygen`";
        let bytes = files::read_small(path, MAX_SECRET_FILE_BYTES)?
            .ok_or_else(|| Error::layout(path, missing))?;
        check_permissions(path)?;
        let seed = std::str::from_utf8(&bytes).ok().and_then(|text| {
            let text = text.trim_end().strip_prefix(SECRET_PREFIX)?;
            STANDARD.decode(text).ok()?.try_into().ok()
        });
        let not_one =
            "found something else, expected the one line that `skeg vectors keygen` wrote";
        seed.map(|seed| Self(SigningKey::from_bytes(&seed)))
            .ok_or_else(|| Error::layout(path, not_one))
    }

    /// Writes the key into a new file that its owner alone may read.
    ///
    /// # Errors
    /// [`Error::Io`], also when there is a file already: a key that is lost cannot be made again.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(Error::io("create", path))?;
        let line = format!("{SECRET_PREFIX}{}\n", STANDARD.encode(self.0.as_bytes()));
        file.write_all(line.as_bytes()).map_err(Error::io("write", path))?;
        file.sync_all().map_err(Error::io("write", path))
    }

    /// The key that others trust.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public_key())
    }
}

/// Fails where users beside the owner and the group may read or change the file. The group may, since that is how a cluster
/// hands a secret to a process.
#[cfg(unix)]
fn check_permissions(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).map_err(Error::io("read", path))?.permissions().mode();
    if mode & 0o007 == 0 {
        return Ok(());
    }
    let reason = format!(
        "found a key that everybody may use (mode {:o}), expected 600; run `chmod 600` on it, and think of it as known",
        mode & 0o777
    );
    Err(Error::layout(path, reason))
}

#[cfg(not(unix))]
fn check_permissions(_path: &Path) -> Result<()> {
    Ok(())
}
