//! Where an endpoint is and how it is asked.

use std::time::Duration;

use ureq::http::{HeaderValue, Uri};

use crate::error::{Error, Result};

/// Where an endpoint is and how it is asked.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// The address up to `/chat/completions`, for example `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<ApiKey>,
    /// Bound on one request, from connecting to the last byte.
    pub timeout: Duration,
    /// How often a request is tried again.
    pub max_retries: u32,
    /// Requests under way at once, 1 to [`Self::MAX_CONCURRENCY`].
    pub concurrency: usize,
    /// Longest answer, in tokens. A verdict is short.
    pub max_tokens: u32,
}

impl EndpointOptions {
    /// The bound of [`Self::concurrency`]: each request under way has a thread.
    pub const MAX_CONCURRENCY: usize = 64;

    /// Two minutes a request, 4 retries, 4 requests at once, 64 tokens, no key.
    #[must_use]
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            api_key: None,
            timeout: Duration::from_secs(120),
            max_retries: 4,
            concurrency: 4,
            max_tokens: 64,
        }
    }

    /// The base address without a slash at its end, and whether it is this machine's.
    ///
    /// # Errors
    /// [`Error::Spec`] for what cannot be asked.
    pub(super) fn checked_url(&self) -> Result<(String, bool)> {
        let base = self.base_url.trim_end_matches('/');
        let uri: Option<Uri> = base.parse().ok();
        let found = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?, uri)));
        let Some((scheme @ ("http" | "https"), authority, uri)) = found else {
            return Err(Error::Spec(format!(
                "`{base}` is no address of an endpoint; expected http:// or https:// up to before /chat/completions, for \
                 example http://127.0.0.1:8000/v1"
            )));
        };
        // Not quoted: it may hold a password.
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(Error::Spec(format!(
                "the address of the endpoint at {} holds a user name or a query; give the key by an environment variable",
                authority.host()
            )));
        }
        if scheme == "https" && !cfg!(feature = "tls") {
            return Err(Error::Spec(format!(
                "{base}: this build has no TLS; build with the cargo feature `hub` (`cargo build -p skeg-server --features \
                 hub`), or give an http:// address, for example of a proxy on this machine"
            )));
        }
        if !(1..=Self::MAX_CONCURRENCY).contains(&self.concurrency) || self.max_tokens == 0 {
            return Err(Error::Spec(format!(
                "an endpoint is asked 1 to {} items at once for at least 1 token, not {} for {}",
                Self::MAX_CONCURRENCY,
                self.concurrency,
                self.max_tokens
            )));
        }
        let is_local = matches!(authority.host(), "127.0.0.1" | "localhost" | "[::1]");
        Ok((base.to_owned(), is_local))
    }
}

/// The key of an endpoint. Its `Debug` form does not show it.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// A key as it stands after `Bearer`; white space around it is dropped.
    ///
    /// # Errors
    /// [`Error::Spec`], without the key, when it is empty or has characters that no header may have.
    pub fn new(key: &str) -> Result<Self> {
        let key = key.trim();
        let header = HeaderValue::try_from(format!("Bearer {key}"));
        match header {
            Ok(mut header) if !key.is_empty() => {
                header.set_sensitive(true);
                Ok(Self(header))
            }
            _ => Err(Error::Spec(
                "the endpoint's key is empty or has characters that a header cannot have"
                    .to_owned(),
            )),
        }
    }

    pub(super) fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        EndpointOptions::new(url, "judge").checked_url().unwrap_err().to_string()
    }

    #[test]
    fn addresses_are_checked_before_anything_is_asked() {
        let options = EndpointOptions::new("http://localhost:8000/v1/", "judge");
        assert_eq!(options.checked_url().unwrap(), ("http://localhost:8000/v1".to_owned(), true));
        for url in ["localhost:8000/v1", "/v1", "ftp://host/v1", ""] {
            assert!(refused(url).contains("expected http:// or https://"), "{url}");
        }
        for url in ["http://me:hidden@host/v1", "http://host/v1?key=hidden"] {
            let error = refused(url);
            assert!(error.contains("environment variable") && !error.contains("hidden"), "{error}");
        }
        let none = EndpointOptions { concurrency: 0, ..options };
        assert!(none.checked_url().unwrap_err().to_string().contains("1 to 64 items at once"));
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn https_without_tls_says_which_feature_is_missing() {
        assert!(refused("https://host/v1").contains("build with the cargo feature `hub`"));
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::new(" hidden-key\n").unwrap();
        assert_eq!(
            (format!("{key:?}"), key.header().as_bytes()),
            ("ApiKey(..)".to_owned(), &b"Bearer hidden-key"[..])
        );
        assert!(!format!("{:?}", key.header()).contains("hidden"));
        for bad in ["", "  ", "hidden\nkey"] {
            assert!(!ApiKey::new(bad).unwrap_err().to_string().contains("hidden"));
        }
    }
}
