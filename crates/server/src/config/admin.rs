//! `[admin]`: the listener for operators, its keys, its bounds, and the audit log. Off unless it has an address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use skeg_server::{AdminLimits, PrincipalEntry};

use super::{ConfigError, positive, principals};

/// The port where an address has none.
const DEFAULT_PORT: u16 = 8081;

/// The settings of administration as given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAdmin {
    /// Address of the admin interface, IP:PORT, or a port on loopback; needs keys in the file and an audit log [default:
    /// off]
    #[arg(
        long = "admin-address",
        env = "SKEG_ADMIN_ADDRESS",
        value_name = "IP:PORT",
        help_heading = "Administration"
    )]
    pub(crate) address: Option<String>,
    /// Folder in which generations to publish may be named [default: none; they must be uploaded]
    #[arg(
        long = "admin-upload-root",
        env = "SKEG_ADMIN_UPLOAD_ROOT",
        value_name = "DIR",
        help_heading = "Administration"
    )]
    pub(crate) upload_root: Option<PathBuf>,
    /// Largest upload, and largest folder named, in bytes [default: 33554432]
    #[arg(
        long = "admin-max-upload-bytes",
        env = "SKEG_ADMIN_MAX_UPLOAD_BYTES",
        value_name = "BYTES",
        help_heading = "Administration"
    )]
    pub(crate) max_upload_bytes: Option<usize>,
    /// Publications, rollbacks and reloads in a minute [default: 60]
    #[arg(
        long = "admin-max-changes-per-minute",
        env = "SKEG_ADMIN_MAX_CHANGES_PER_MINUTE",
        value_name = "NUM",
        help_heading = "Administration"
    )]
    pub(crate) max_changes_per_minute: Option<usize>,
    /// Append one hash-chained JSON line for each change of what steers to this file
    #[arg(
        long = "admin-audit-log",
        env = "SKEG_ADMIN_AUDIT_LOG",
        value_name = "FILE",
        help_heading = "Administration"
    )]
    pub(crate) audit_log: Option<PathBuf>,
    /// Who may administer; in the file alone, since keys do not belong on a command line.
    #[arg(skip)]
    #[serde(default)]
    pub(crate) keys: Vec<RawKey>,
}

/// One of `keys`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawKey {
    pub(crate) name: String,
    pub(crate) sha256: String,
}

/// Administration, checked.
#[derive(Debug, Default)]
pub(crate) struct AdminConfig {
    /// Where it listens; `None`: nowhere. With an address there are keys and an audit log.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) keys: Vec<PrincipalEntry>,
    pub(crate) upload_root: Option<PathBuf>,
    pub(crate) limits: AdminLimits,
    pub(crate) audit_log: Option<PathBuf>,
}

impl RawAdmin {
    /// What is set here, and below that what `lower` sets.
    pub(super) fn over(self, lower: Self) -> Self {
        Self {
            address: self.address.or(lower.address),
            upload_root: self.upload_root.or(lower.upload_root),
            max_upload_bytes: self.max_upload_bytes.or(lower.max_upload_bytes),
            max_changes_per_minute: self.max_changes_per_minute.or(lower.max_changes_per_minute),
            audit_log: self.audit_log.or(lower.audit_log),
            keys: if self.keys.is_empty() { lower.keys } else { self.keys },
        }
    }
}

impl AdminConfig {
    /// Checks the settings; `callers` are those of the public interface, whose keys open nothing here.
    pub(super) fn from_raw(
        raw: &RawAdmin,
        callers: &[PrincipalEntry],
    ) -> Result<Self, ConfigError> {
        const KEYS: &str = "admin.keys";
        let invalid = |setting, reason| ConfigError::Invalid { setting, reason };
        let address = raw.address.as_deref().map(parse_address).transpose()?;
        let group = String::new();
        let entries = raw.keys.iter().map(|key| (&key.name, &key.sha256, &group));
        let keys = principals::check((KEYS, "sha256"), entries)?;
        let is_shared = |key: &&PrincipalEntry| {
            callers.iter().any(|caller| caller.key_sha256 == key.key_sha256)
        };
        if let Some(key) = keys.iter().find(is_shared) {
            let reason = format!(
                "`{}` has the key of a [[principal]]; a caller's key must not administer",
                key.name
            );
            return Err(invalid(KEYS, reason));
        }
        if address.is_some() && keys.is_empty() {
            return Err(ConfigError::AdminWithoutKeys);
        }
        if address.is_some() && raw.audit_log.is_none() {
            let reason = "is not set; the admin interface changes nothing without an audit log, so give it a file";
            return Err(invalid("admin.audit_log", reason.to_owned()));
        }
        if let Some(root) = raw.upload_root.as_ref().filter(|root| !root.is_dir()) {
            let reason =
                format!("{} is no folder; make it, or leave the setting out", root.display());
            return Err(invalid("admin.upload_root", reason));
        }
        Ok(Self {
            address,
            keys,
            upload_root: raw.upload_root.clone(),
            limits: limits(raw)?,
            audit_log: raw.audit_log.clone(),
        })
    }
}

fn limits(raw: &RawAdmin) -> Result<AdminLimits, ConfigError> {
    const RATE: &str = "admin.max_changes_per_minute";
    let default = AdminLimits::default();
    let rate = raw.max_changes_per_minute.map(|rate| positive(RATE, Some(rate), 1)).transpose()?;
    Ok(AdminLimits {
        max_upload_bytes: positive(
            "admin.max_upload_bytes",
            raw.max_upload_bytes,
            default.max_upload_bytes,
        )?,
        max_changes_per_minute: rate
            .map_or(default.max_changes_per_minute, |rate| u32::try_from(rate).unwrap_or(u32::MAX)),
        ..default
    })
}

/// `IP:PORT`, `IP` with the default port, or a port on loopback.
fn parse_address(text: &str) -> Result<SocketAddr, ConfigError> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let numbers = text.replace("localhost", "127.0.0.1");
    let whole = numbers.parse().ok();
    let host = || {
        numbers.trim_matches(['[', ']']).parse().ok().map(|ip| SocketAddr::new(ip, DEFAULT_PORT))
    };
    let port = || numbers.parse().ok().map(|port| SocketAddr::new(loopback, port));
    whole.or_else(host).or_else(port).ok_or_else(|| ConfigError::Invalid {
        setting: "admin.address",
        reason: format!("`{text}` is no address; expected for example 127.0.0.1:{DEFAULT_PORT}, or a port on loopback"),
    })
}
