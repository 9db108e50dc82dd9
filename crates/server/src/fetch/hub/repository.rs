//! The three requests that a Hugging Face hub is asked: what a revision is, which files it has, and their bytes.
//!
//! A token goes to the hub alone, never to where the hub redirects a download.
//!
//! Why not the crate `hf-hub`: 1.0.0 misses the commit of every file in LFS. 0.5.0 asks for a file's size before
//! each download, and there it sends the token to where the hub redirects; no public function downloads without
//! that. Nor can it be given the platform's certificates or a time limit, and it needs a server with ranges. What
//! it could do safely, the listing, has neither sizes nor hashes unless one writes the request and the parsing.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{Response, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::FetchError;

/// Where models are unless `HF_ENDPOINT` names a mirror.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Until the hub has begun to answer; how long a file then takes has no bound.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pages of a listing, of about a thousand files each; no model has as many.
const MAX_PAGES: usize = 50;
/// What stays as it is in one part of a URL's path (RFC 3986, unreserved).
const ONE_PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for a path with folders.
const PATH: &AsciiSet = &ONE_PART.remove(b'/');

/// One repository of the hub.
pub(super) struct Repository {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    /// `owner/name`.
    name: String,
}

/// What the hub says of a file.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    pub(super) path: String,
    pub(super) size_bytes: u64,
    /// Known for large files: what git keeps in place of a file in LFS is its SHA-256.
    pub(super) sha256: Option<String>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Repository {
    /// The repository on the hub that the environment names.
    pub(super) fn open(name: &str) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_connect(Some(ANSWER_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .build()
            .into();
        let endpoint = env("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { agent, endpoint, token: token(), name: name.to_owned() }
    }

    /// `owner/name`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The error of this repository.
    pub(super) fn failed(&self, reason: impl Into<String>) -> FetchError {
        FetchError::Hub { repository: self.name.clone(), reason: reason.into() }
    }

    /// The commit that a branch, tag or commit means now.
    pub(super) fn commit(&self, revision: &str) -> Result<String, FetchError> {
        let encoded = utf8_percent_encode(revision, ONE_PART);
        let url = format!("{}/api/models/{}/revision/{encoded}", self.endpoint, self.name);
        let found: Revision = self.json(self.get(&url, 0)?, &url)?;
        // It becomes the name of a folder.
        if found.sha.len() < 40 || !found.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(self.failed(format!("{url} names no commit; is HF_ENDPOINT right?")));
        }
        Ok(found.sha)
    }

    /// The files of a commit; without `recursive` those that are in no folder.
    pub(super) fn files(
        &self,
        commit: &str,
        recursive: bool,
    ) -> Result<Vec<RemoteFile>, FetchError> {
        let (endpoint, name) = (&self.endpoint, &self.name);
        let mut next =
            Some(format!("{endpoint}/api/models/{name}/tree/{commit}?recursive={recursive}"));
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { break };
            let response = self.get(&url, 0)?;
            next = next_page(&response).filter(|url| url.starts_with(&format!("{endpoint}/")));
            let entries: Vec<TreeEntry> = self.json(response, &url)?;
            files.extend(
                entries.into_iter().filter(|entry| entry.kind == "file").map(RemoteFile::from),
            );
        }
        match next {
            None => Ok(files),
            Some(_) => Err(self.failed(format!("lists more than {MAX_PAGES} pages of files"))),
        }
    }

    /// A file's bytes, and the offset at which they begin: `from`, or 0 where the server knows no ranges.
    pub(super) fn read(
        &self,
        commit: &str,
        path: &str,
        from: u64,
    ) -> Result<(u64, impl Read + use<>), FetchError> {
        let encoded = utf8_percent_encode(path, PATH);
        let url = format!("{}/{}/resolve/{commit}/{encoded}", self.endpoint, self.name);
        let response = self.get(&url, from)?;
        let start = if response.status() == 206 { from } else { 0 };
        Ok((start, response.into_body().into_reader()))
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, FetchError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| self.failed(format!("{url}: {error}")))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let meaning = match (status.as_u16(), &self.token) {
            (401, None) => {
                "there is no such repository, or it wants a token: set HF_TOKEN or run `hf auth login`"
            }
            (401, Some(_)) => "there is no such repository, or the hub does not accept the token",
            (403, _) => "no access: ask for it on the repository's page and set HF_TOKEN",
            (404, _) => "no such repository, revision or file",
            (429, _) => "too many requests: try again later",
            (500.., _) => "the hub failed: try again later",
            _ => "unexpected answer",
        };
        Err(self.failed(format!("{url} answered {status}: {meaning}")))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        mut response: Response<Body>,
        url: &str,
    ) -> Result<T, FetchError> {
        let parsed = response.body_mut().read_json();
        parsed.map_err(|error| self.failed(format!("{url} answered something else: {error}")))
    }
}

impl From<TreeEntry> for RemoteFile {
    fn from(entry: TreeEntry) -> Self {
        let (size_bytes, sha256) = match entry.lfs {
            Some(lfs) => (lfs.size, Some(lfs.oid)),
            None => (entry.size, None),
        };
        Self { path: entry.path, size_bytes, sha256 }
    }
}

/// The address in `Link: <address>; rel="next"`.
fn next_page(response: &Response<Body>) -> Option<String> {
    let links = response.headers().get(header::LINK)?.to_str().ok()?;
    let link = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = link.split_once('<')?;
    Some(rest.split_once('>')?.0.to_owned())
}

/// The token where every client of the hub looks for it: `HF_TOKEN`, or the file of `hf auth login`.
fn token() -> Option<String> {
    env("HF_TOKEN").or_else(|| {
        let text = std::fs::read_to_string(token_file()?).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    })
}

fn token_file() -> Option<PathBuf> {
    if let Some(path) = env("HF_TOKEN_PATH") {
        return Some(path.into());
    }
    let home = env("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = env("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(directories::BaseDirs::new()?.home_dir().join(".cache")));
        Some(cache?.join("huggingface"))
    })?;
    Some(home.join("token"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the hub's own variables, which all its clients read"
)]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
