//! `[[principal]]`: who may call, known by the SHA-256 of a key.

use std::collections::BTreeSet;

use skeg_server::PrincipalEntry;

use super::ConfigError;
use super::raw::RawPrincipal;

/// Checks the callers: names and keys differ, each key's hash is 64 hex digits.
pub(super) fn from_raw(raw: &[RawPrincipal]) -> Result<Vec<PrincipalEntry>, ConfigError> {
    let entries = raw.iter().map(|caller| (&caller.name, &caller.key_sha256, &caller.group));
    if let Some((name, ..)) = entries.clone().find(|(_, _, group)| group.is_empty()) {
        let reason = format!("`{name}` needs a group that is not empty");
        return Err(ConfigError::Invalid { setting: "principal", reason });
    }
    check(("principal", "key_sha256"), entries)
}

/// Checks name, key's hash and group of each entry of a setting; `field` holds the hash.
pub(super) fn check<'a>(
    (setting, field): (&'static str, &str),
    entries: impl Iterator<Item = (&'a String, &'a String, &'a String)>,
) -> Result<Vec<PrincipalEntry>, ConfigError> {
    let invalid = |reason| ConfigError::Invalid { setting, reason };
    let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
    entries
        .map(|(name, sha256, group)| {
            if name.is_empty() {
                return Err(invalid(
                    "an entry has an empty name; names are what logs say".to_owned(),
                ));
            }
            let key_sha256 = parse_sha256(sha256).ok_or_else(|| {
                // Neither the value nor its length: somebody may have put the key itself here.
                let make = "printf %s \"$KEY\" | sha256sum";
                invalid(format!("`{name}`: `{field}` is not 64 hex digits; make it with `{make}`"))
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
