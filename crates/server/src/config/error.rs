//! What can be wrong with a configuration. The program exits with 64 for each of these.

use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file is not TOML with the known keys. Quotes nothing of the file: it may hold secrets.
    #[error("configuration file {path}, line {line}: {reason}")]
    Malformed { path: PathBuf, line: usize, reason: String },
    /// A setting has a value that makes no sense.
    #[error("setting `{setting}`: {reason}")]
    Invalid { setting: &'static str, reason: String },
    /// Nobody could be told apart on an open address.
    #[error(
        "setting `host`: {host} is not loopback, so callers must be known: configure at least one \
         [[principal]] (name, key_sha256, group) in skeg.toml, or listen on 127.0.0.1"
    )]
    OpenWithoutPrincipals { host: std::net::IpAddr },
    /// The admin interface would be open to whoever reaches it.
    #[error(
        "setting `admin.address`: the admin interface needs keys, on loopback too: configure at least one in skeg.toml, \
         keys = [{{ name = \"...\", sha256 = \"...\" }}] under [admin], or leave the address out"
    )]
    AdminWithoutKeys,
    /// A named model that is not in the cache.
    #[error(
        "setting `model`: `{name}` is not in the cache ({expected}): run `skeg model fetch {name}`, \
         or add --fetch"
    )]
    ModelNotFetched { name: String, expected: PathBuf },
    /// Neither a name of the catalogue nor a path.
    #[error(
        "setting `model`: `{model}` is neither a path that exists nor a name of the catalogue ({known}); \
         for a Hugging Face repository run `skeg model fetch OWNER/NAME` and give the path it prints"
    )]
    UnknownModel { model: String, known: String },
    /// No place for vectors has any.
    #[error(
        "no vector store for this model; looked for {}. Give one with --vectors, or make one with \
         `skeg extract`",
        list(.looked_at)
    )]
    NoVectors { looked_at: Vec<PathBuf> },
    /// The platform names no cache folder.
    #[error("setting `cache_dir`: this system names no cache folder for you; give one")]
    NoCacheDir,
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
