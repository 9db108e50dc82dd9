//! The admin listener and the audit log of a server, where they are configured.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use skeg_server::{
    AdminParts, AuditLog, Drained, Principals, Stop, admin_app, follow_store, serve,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::running::{Running, binding};
use crate::config::Config;

/// What was started for operators.
pub(super) struct Administration {
    listening: Option<(TcpListener, SocketAddr, Router)>,
    pub(super) audit: Option<AuditLog>,
}

impl Administration {
    /// Binds the listener, opens the audit log, and follows the store from here on.
    pub(super) async fn start(config: &Config, running: &Running) -> anyhow::Result<Self> {
        let admin = &config.admin;
        let listener = match admin.address {
            None => None,
            Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
                format!("cannot listen on {address}; choose another with --admin-address")
            })?),
        };
        let open = |path: &std::path::PathBuf| {
            AuditLog::open(path).with_context(|| {
                format!("setting `admin.audit_log`: cannot continue {}", path.display())
            })
        };
        let audit = admin.audit_log.as_ref().map(open).transpose()?;
        follow_store(&running.store, &running.operations, audit.clone())
            .context("setting `admin.audit_log`: cannot write the line of the start")?;
        let listening = match (listener, &audit) {
            (Some(listener), Some(audit)) => {
                let address = listener.local_addr().context("the admin listener has no address")?;
                Some((listener, address, router(config, running, audit.clone())))
            }
            // The configuration lets no address stand without an audit log.
            _ => None,
        };
        Ok(Self { listening, audit })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listening.as_ref().map(|(_, address, _)| *address)
    }

    /// Serves as long as the public listener does: `stopping` is closed when that is asked to end.
    pub(super) async fn serve(
        self,
        config: &Config,
        running: &Running,
        mut stopping: watch::Receiver<()>,
    ) {
        let Some((listener, _, router)) = self.listening else { return };
        let asked = async move {
            // Nothing is ever sent: the error is that the sender is gone.
            while stopping.changed().await.is_ok() {}
        };
        let finished = running.engine_ended.clone().wait();
        let stop = Stop { asked, finished, grace: config.grace_period };
        if serve(listener, router, config.connections, stop).await == Drained::GraceExpired {
            tracing::warn!("the grace period ended before every admin request did");
        }
    }
}

fn router(config: &Config, running: &Running, audit: AuditLog) -> Router {
    let admin = &config.admin;
    admin_app(AdminParts {
        store: Arc::clone(&running.store),
        origin: running.origin.clone(),
        model: binding(&running.model.identity),
        engine: running.engine.clone(),
        operations: running.operations.clone(),
        keys: Principals::from_entries(admin.keys.clone()),
        audit,
        upload_root: admin.upload_root.clone(),
        limits: admin.limits,
    })
}
