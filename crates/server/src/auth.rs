//! Callers: bearer keys known by their SHA-256, compared in constant time over all entries.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::errors::ApiError;
use crate::state::App;

/// Name and group of a caller while no keys are configured. Whether that is acceptable (loopback only) is
/// decided where the listener is bound.
pub const ANONYMOUS: &str = "anonymous";

/// One configured caller.
#[derive(Clone)]
pub struct PrincipalEntry {
    /// Name in logs; unique.
    pub name: String,
    /// SHA-256 of the key; the key itself is nowhere.
    pub key_sha256: [u8; 32],
    /// Group in the policy, which says what the caller may ask for.
    pub group: String,
}

impl std::fmt::Debug for PrincipalEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrincipalEntry")
            .field("name", &self.name)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// All configured callers; none = everybody is [`ANONYMOUS`].
#[derive(Debug, Clone, Default)]
pub struct Principals {
    entries: Vec<PrincipalEntry>,
}

/// The caller of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) group: String,
}

impl Principals {
    /// The callers of a configuration.
    #[must_use]
    pub fn from_entries(entries: Vec<PrincipalEntry>) -> Self {
        Self { entries }
    }

    /// Whether nobody needs a key.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if self.is_anonymous() {
            return Ok(Caller { name: ANONYMOUS.to_owned(), group: ANONYMOUS.to_owned() });
        }
        let unauthorized =
            |message| ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
        let key = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim())
            .filter(|key| !key.is_empty())
            .ok_or_else(|| unauthorized("no key: send the header `Authorization: Bearer KEY`"))?;
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        // Every entry is compared, so that the time taken does not tell which one matched.
        let mut found = None;
        for entry in &self.entries {
            if bool::from(entry.key_sha256.ct_eq(&digest)) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or_else(|| unauthorized("the key is not known to this server"))?;
        Ok(Caller { name: entry.name.clone(), group: entry.group.clone() })
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        app.principals.authenticate(&parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn principals() -> Principals {
        let entry = |name: &str, key: &str| PrincipalEntry {
            name: name.to_owned(),
            key_sha256: Sha256::digest(key.as_bytes()).into(),
            group: format!("{name}-group"),
        };
        Principals::from_entries(vec![entry("ann", "key-a"), entry("bob", "key-b")])
    }

    fn check(principals: &Principals, value: Option<&str>) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        principals.authenticate(&headers).map(|caller| caller.name).map_err(|error| error.code())
    }

    #[test]
    fn a_caller_is_known_by_the_hash_of_the_key() {
        let principals = principals();
        assert_eq!(check(&principals, Some("Bearer key-a")), Ok("ann".to_owned()));
        assert_eq!(check(&principals, Some("bearer  key-b ")), Ok("bob".to_owned()));
        for wrong in
            [None, Some("Bearer key-c"), Some("Basic key-a"), Some("Bearer "), Some("key-a")]
        {
            assert_eq!(check(&principals, wrong), Err("invalid_api_key"), "{wrong:?}");
        }
    }

    #[test]
    fn without_keys_everybody_is_anonymous() {
        assert_eq!(check(&Principals::default(), None), Ok(ANONYMOUS.to_owned()));
    }
}
