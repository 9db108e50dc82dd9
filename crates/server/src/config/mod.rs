//! Configuration in two layers, after ripgrep's flags: [`RawConfig`] is what was said, [`Config`] is what is
//! meant. Whoever holds a [`Config`] need not check it.
//!
//! Flags lie over the environment (`SKEG_*`), that over `skeg.toml`, that over defaults.

mod admin;
mod classifier;
mod engine;
mod error;
mod file;
mod model;
mod principals;
mod raw;
mod show;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use skeg_server::{ConnectionLimits, Limits, PrincipalEntry};
use skeg_vector_store::TrustedKeys;

pub(crate) use admin::{AdminConfig, RawAdmin};
pub(crate) use classifier::{ClassifierConfig, RawClassifier};
pub(crate) use engine::EngineSizes;
pub(crate) use error::ConfigError;
pub(crate) use file::read as read_file;
pub(crate) use model::{ModelConfig, cache_dir};
pub(crate) use raw::RawConfig;

/// Below what container platforms wait before they kill.
const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(30);
const DEFAULT_PORT: u16 = 8080;

/// A configuration that was checked.
#[derive(Debug)]
pub(crate) struct Config {
    /// Which model, and how it is loaded.
    pub(crate) model: ModelConfig,
    /// Whose signatures of generations count; with none, signatures are not asked for.
    pub(crate) trusted_keys: TrustedKeys,
    /// Where the server listens.
    pub(crate) address: SocketAddr,
    /// Names of the model in the API, at least one.
    pub(crate) served_model_names: Vec<String>,
    /// Bounds on requests.
    pub(crate) limits: Limits,
    /// Bounds on connections.
    pub(crate) connections: ConnectionLimits,
    /// How long running answers may take to end.
    pub(crate) grace_period: Duration,
    /// Sizes of the engine.
    pub(crate) engine: EngineSizes,
    /// Whether a generation answers a few prompts before it goes live.
    pub(crate) canary: bool,
    /// Who finds categories.
    pub(crate) classifier: ClassifierConfig,
    /// Where decisions are logged.
    pub(crate) decision_log: Option<PathBuf>,
    /// Who may call; empty only on loopback.
    pub(crate) principals: Vec<PrincipalEntry>,
    /// How the program logs.
    pub(crate) log: LogConfig,
    /// The interface for operators, and the audit log.
    pub(crate) admin: AdminConfig,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// How the program logs, on standard error.
#[derive(Debug, Clone)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
    /// A valid filter of `tracing-subscriber`.
    pub(crate) filter: String,
}

impl Config {
    /// Reads the file (`skeg.toml` here where none is named), lays `given` over it and checks the whole.
    pub(crate) fn load(given: RawConfig, file: Option<&Path>) -> Result<Self, ConfigError> {
        given.over(file::read(file)?).try_into()
    }

    /// As [`Self::load`], for a command that answers or measures speed: where the model runs is `auto` unless something says
    /// otherwise. Commands whose results are kept and compared stay on the CPU, whose bits are the same everywhere.
    pub(crate) fn load_serving(given: RawConfig, file: Option<&Path>) -> Result<Self, ConfigError> {
        given.over(file::read(file)?).over(RawConfig::serving_defaults()).try_into()
    }

    /// `trusted_keys` alone, for commands that need no model.
    pub(crate) fn load_trusted_keys(
        given: RawConfig,
        file: Option<&Path>,
    ) -> Result<TrustedKeys, ConfigError> {
        trusted_keys(&given.over(file::read(file)?))
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let model = ModelConfig::from_raw(&raw)?;
        let trusted_keys = trusted_keys(&raw)?;
        let engine = EngineSizes::from_raw(&raw, model.device)?;
        let log = LogConfig::from_raw(&raw)?;
        let principals = principals::from_raw(&raw.principal)?;
        let admin = AdminConfig::from_raw(&raw.admin, &principals)?;
        let classifier = ClassifierConfig::from_raw(&raw.classifier)?;
        let (limits, connections) = limits(&raw)?;
        let host = parse_host(raw.host.as_deref())?;
        if !host.is_loopback() && principals.is_empty() {
            return Err(ConfigError::OpenWithoutPrincipals { host });
        }
        let served_model_names = raw.served_model_name.unwrap_or_else(|| vec![model.source.slug()]);
        if served_model_names.is_empty() || served_model_names.iter().any(|name| name.is_empty()) {
            return Err(ConfigError::Invalid {
                setting: "served_model_name",
                reason: "is empty; expected at least one name".to_owned(),
            });
        }
        Ok(Self {
            model,
            trusted_keys,
            address: SocketAddr::new(host, raw.port.unwrap_or(DEFAULT_PORT)),
            served_model_names,
            limits,
            connections,
            grace_period: raw.grace_period.map_or(DEFAULT_GRACE_PERIOD, Duration::from_secs),
            engine,
            canary: !raw.no_canary.unwrap_or(false),
            classifier,
            decision_log: raw.decision_log,
            principals,
            log,
            admin,
        })
    }
}

impl LogConfig {
    fn from_raw(raw: &RawConfig) -> Result<Self, ConfigError> {
        let format = match raw.log_format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                let reason = format!("`{other}` is unknown; expected `text` or `json`");
                return Err(ConfigError::Invalid { setting: "log_format", reason });
            }
        };
        let filter = raw.log_level.clone().unwrap_or_else(|| "info".to_owned());
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&filter) {
            let reason = format!("`{filter}` is no filter: {error}; expected for example `info`");
            return Err(ConfigError::Invalid { setting: "log_level", reason });
        }
        Ok(Self { format, filter })
    }
}

fn trusted_keys(raw: &RawConfig) -> Result<TrustedKeys, ConfigError> {
    TrustedKeys::parse(raw.trusted_keys.as_deref().unwrap_or_default()).map_err(|error| {
        ConfigError::Invalid { setting: "trusted_keys", reason: error.to_string() }
    })
}

/// Bounds on requests and on connections.
fn limits(raw: &RawConfig) -> Result<(Limits, ConnectionLimits), ConfigError> {
    let (requests, connections) = (Limits::default(), ConnectionLimits::default());
    let requests = Limits {
        max_body_bytes: positive("max_body_bytes", raw.max_body_bytes, requests.max_body_bytes)?,
        body_read_timeout: seconds(
            "body_read_timeout",
            raw.body_read_timeout,
            requests.body_read_timeout,
        )?,
        ..requests
    };
    let connections = ConnectionLimits {
        header_read_timeout: seconds(
            "header_read_timeout",
            raw.header_read_timeout,
            connections.header_read_timeout,
        )?,
        write_timeout: seconds("write_timeout", raw.write_timeout, connections.write_timeout)?,
        max_connections: positive(
            "max_connections",
            raw.max_connections,
            connections.max_connections,
        )?,
    };
    Ok((requests, connections))
}

/// The longest time that can be set: a day. More is meant as "for ever", and would overflow a clock.
const MAX_SECONDS: u64 = 24 * 60 * 60;

fn seconds(
    setting: &'static str,
    given: Option<u64>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    match given {
        None => Ok(default),
        Some(seconds @ 1..=MAX_SECONDS) => Ok(Duration::from_secs(seconds)),
        Some(seconds) => {
            let reason = format!("is {seconds}; expected 1 to {MAX_SECONDS} seconds");
            Err(ConfigError::Invalid { setting, reason })
        }
    }
}

fn positive(
    setting: &'static str,
    given: Option<usize>,
    default: usize,
) -> Result<usize, ConfigError> {
    match given.unwrap_or(default) {
        0 => Err(ConfigError::Invalid { setting, reason: "is 0; expected at least 1".to_owned() }),
        value => Ok(value),
    }
}

fn at_least(
    (setting, value): (&'static str, usize),
    (other, bound): (&'static str, usize),
) -> Result<(), ConfigError> {
    if value >= bound {
        return Ok(());
    }
    let reason = format!("is {value}; expected at least `{other}`, which is {bound}");
    Err(ConfigError::Invalid { setting, reason })
}

fn parse_host(host: Option<&str>) -> Result<IpAddr, ConfigError> {
    match host {
        None | Some("localhost") => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(text) => text.trim_matches(['[', ']']).parse().map_err(|_| ConfigError::Invalid {
            setting: "host",
            reason: format!("`{text}` is no IP address; expected for example 127.0.0.1 or ::1"),
        }),
    }
}

#[cfg(test)]
mod tests;
