//! Why a model could not be fetched.

use std::path::PathBuf;

/// A fetch that failed; nothing half-done is left where models are looked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// A file or folder of the cache cannot be used.
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A source gave other bytes than the catalogue names.
    #[error(
        "{source_name} holds another file than expected: found {found_bytes} bytes with sha256 \
         {found_sha256}, expected {expected_bytes} bytes with sha256 {expected_sha256}"
    )]
    WrongContent {
        source_name: String,
        found_bytes: u64,
        found_sha256: String,
        expected_bytes: u64,
        expected_sha256: String,
    },
    /// The pip client or Python failed.
    #[error("{command} failed: {reason}")]
    Python { command: String, reason: String },
    /// No source of a catalogue model worked.
    #[error("`{name}` could not be fetched from any source:{}", list(.failures))]
    EverySourceFailed { name: &'static str, failures: Vec<(String, Self)> },
    /// This build cannot reach the hub.
    #[cfg(any(test, not(feature = "hub")))]
    #[error(
        "`{repository}` is on the Hugging Face hub, and this build has no hub client: build with the \
         cargo feature `hub` (`cargo build -p skeg-server --features hub`)"
    )]
    HubNotBuilt { repository: String },
    /// The hub or the way to it failed.
    #[cfg(feature = "hub")]
    #[error("hub repository `{repository}`: {reason}")]
    Hub { repository: String, reason: String },
    /// Offline, and not in the cache.
    #[error("`{what}` is not in the cache ({place}) and --offline was given")]
    Offline { what: String, place: PathBuf },
    /// Not a name of the catalogue, a repository or a path.
    #[error(
        "`{what}` is no name of the catalogue ({known}), no path that exists and no repository \
         (OWNER/NAME)"
    )]
    Unknown { what: String, known: String },
}

fn list(failures: &[(String, FetchError)]) -> String {
    failures.iter().map(|(source, error)| format!("\n  {source}: {error}")).collect()
}
