//! `[[principal]]`: who may call, known by the SHA-256 of a key.

use std::collections::BTreeSet;

use skeg_server::PrincipalEntry;

use super::ConfigError;
use super::raw::RawPrincipal;

/// Checks the callers: names and keys differ, each key's hash is 64 hex digits.
pub(super) fn from_raw(raw: &[RawPrincipal]) -> Result<Vec<PrincipalEntry>, ConfigError> {
    let invalid = |reason| ConfigError::Invalid { setting: "principal", reason };
    let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
    raw.iter()
        .map(|RawPrincipal { name, key_sha256, group }| {
            if name.is_empty() || group.is_empty() {
                return Err(invalid(format!(
                    "`{name}` needs a name and a group that are not empty"
                )));
            }
            let key_sha256 = parse_sha256(key_sha256).ok_or_else(|| {
                // Neither the value nor its length: somebody may have put the key itself here.
                let make = "printf %s \"$KEY\" | sha256sum";
                invalid(format!(
                    "`{name}`: `key_sha256` is not 64 hex digits; make it with `{make}`"
                ))
            })?;
            if !names.insert(name) {
                return Err(invalid(format!("`{name}` is there twice; names must differ")));
            }
            if !keys.insert(key_sha256) {
                return Err(invalid(format!("`{name}` has the key of another; keys must differ")));
            }
            Ok(PrincipalEntry { name: name.clone(), key_sha256, group: group.clone() })
        })
        .collect()
}

fn parse_sha256(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_whole = base16ct::mixed::decode(hex, &mut bytes).is_ok_and(|read| read.len() == 32);
    is_whole.then_some(bytes)
}
