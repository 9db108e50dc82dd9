//! Where a load goes: an address on this machine, unless a remote one is allowed.

use std::net::IpAddr;

use anyhow::{Context, bail};
use ureq::http::Uri;

/// Which of OpenAI's two interfaces is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli::bench) enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

/// The full address of the interface below `url`, which may end in `/v1` or not.
pub(in crate::cli::bench) fn endpoint(
    url: &str,
    api: Api,
    allow_remote: bool,
) -> anyhow::Result<String> {
    let uri: Uri = url.parse().with_context(|| format!("--url {url}"))?;
    if uri.scheme_str() != Some("http") {
        bail!("--url {url}: expected http://HOST:PORT; this program is built without TLS");
    }
    let host = uri.host().unwrap_or_default();
    if !allow_remote && !is_loopback(host) {
        bail!(
            "--url {url}: {host} is not this machine, and a load test can take a server down; \
             with --allow-remote it is sent all the same"
        );
    }
    let base = url.trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base);
    Ok(match api {
        Api::Chat => format!("{base}/v1/chat/completions"),
        Api::Completions => format!("{base}/v1/completions"),
    })
}

/// Whether a host is an address of this machine. Other names than `localhost` are not looked up: what they
/// stand for may change.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_address_leads_to_its_interface() {
        let expected = "http://127.0.0.1:8080/v1/chat/completions";
        for url in ["http://127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"] {
            assert_eq!(endpoint(url, Api::Chat, false).unwrap(), expected);
        }
        let nested = endpoint("http://localhost/api/v1/", Api::Completions, false).unwrap();
        assert_eq!(nested, "http://localhost/api/v1/completions");
    }

    #[test]
    fn another_machine_is_refused_unless_it_is_allowed() {
        for url in ["http://10.0.0.7:80", "http://example.org", "http://localhost.example.org"] {
            let error = endpoint(url, Api::Chat, false).unwrap_err().to_string();
            assert!(error.contains("--allow-remote"), "{error}");
            assert!(endpoint(url, Api::Chat, true).is_ok());
        }
        assert!(endpoint("http://[::1]:8080", Api::Chat, false).is_ok());
        assert!(endpoint("http://127.8.0.1", Api::Chat, false).is_ok());
    }

    #[test]
    fn an_address_without_http_is_refused() {
        for url in ["https://localhost", "localhost:8080", "127.0.0.1", ""] {
            assert!(endpoint(url, Api::Chat, true).is_err(), "{url}");
        }
    }
}
