//! The admin interface: what steers while the server runs, seen and changed, on a listener and with keys of its own.
//!
//! Everything asks for a key; without keys nobody gets in. One change of the store is made at a time, in a thread of its own, between
//! two lines of the audit log, and goes on when its client has left. The kill switch waits for none of them.

mod change;
mod expiry;
mod kill;
mod live;
mod rate;
mod show;
mod upload;
mod vectors;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use skeg_model::engine::EngineHandle;
use skeg_vector_store::{ModelBinding, Store};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

pub use live::reload_for_signal;

use crate::audit_log::AuditLog;
use crate::auth::Principals;
use crate::errors::ApiError;
use crate::layers::{self, RequestId};
use crate::operations::Operations;
use crate::origin::Origin;
use crate::state::NotReady;
use crate::steering::SteeringSlots;
use rate::RateLimit;

/// Changes of the store that are under way or wait for their turn; each may hold an upload in memory.
const MAX_PENDING_CHANGES: usize = 8;

/// All that the admin interface is built from.
#[derive(Debug)]
pub struct AdminParts {
    /// The live generation of vectors.
    pub store: Arc<Store<SteeringSlots>>,
    /// Where its generations come from, and changes are made.
    pub origin: Origin,
    /// The model that vectors must be for.
    pub model: ModelBinding,
    /// The way to the engine thread.
    pub engine: EngineHandle,
    /// The kill switch, shared with the public interface.
    pub operations: Operations,
    /// Who may administer. Groups mean nothing here; with no keys nobody may.
    pub keys: Principals,
    /// Where changes are written.
    pub audit: AuditLog,
    /// The folder in which generations may be named; `None` = they must be uploaded.
    pub upload_root: Option<PathBuf>,
    /// Bounds on requests.
    pub limits: AdminLimits,
}

/// Bounds on admin requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminLimits {
    /// Largest body, and largest folder that is named, in bytes; more is a 413.
    pub max_upload_bytes: usize,
    /// Time for a whole body; more is a 408.
    pub body_read_timeout: Duration,
    /// Changes of the store in a minute, at least 1; more is a 429. A minute's worth may come at once.
    pub max_changes_per_minute: u32,
}

impl Default for AdminLimits {
    /// 32 MiB: vectors for eleven categories in twenty layers of a 70B model are 7 MiB, a third more as base64.
    fn default() -> Self {
        Self {
            max_upload_bytes: 32 * 1024 * 1024,
            body_read_timeout: Duration::from_secs(60),
            max_changes_per_minute: 60,
        }
    }
}

/// The shared state; clones are cheap.
#[derive(Debug, Clone)]
struct Admin {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: AdminParts,
    pending: Arc<Semaphore>,
    /// Held by the change that is being made.
    turn: Arc<Mutex<()>>,
    /// Held while the kill switch is set, so that its lines of the audit log have the order of what they did.
    switching: std::sync::Mutex<()>,
    rate: RateLimit,
}

impl std::ops::Deref for Admin {
    type Target = AdminParts;

    fn deref(&self) -> &AdminParts {
        &self.inner.parts
    }
}

/// The whole admin interface.
pub fn admin_app(parts: AdminParts) -> Router {
    let max_upload_bytes = parts.limits.max_upload_bytes;
    let requests = parts.operations.admin_requests.clone();
    let inner = Inner {
        rate: RateLimit::per_minute(parts.limits.max_changes_per_minute),
        pending: Arc::new(Semaphore::new(MAX_PENDING_CHANGES)),
        turn: Arc::default(),
        switching: std::sync::Mutex::default(),
        parts,
    };
    let router = Router::new()
        .route("/v1/steering", get(show::state))
        .route("/v1/steering/generations", get(show::generations).post(change::publish))
        .route("/v1/steering/vectors/{category}", get(vectors::get))
        .route("/v1/steering/rollback", post(change::rollback))
        .route("/v1/steering/reload", post(change::reload))
        .route("/v1/steering/override", post(kill::set))
        .fallback(async |_: Operator| ApiError::not_found())
        .method_not_allowed_fallback(async |_: Operator| ApiError::method_not_allowed())
        .with_state(Admin { inner: Arc::new(inner) })
        .layer(map_response(move |response: Response| {
            requests.count(response.status());
            std::future::ready(response)
        }));
    layers::wrap(router, max_upload_bytes)
}

/// Whoever holds one of the keys, by the key's name.
#[derive(Debug)]
struct Operator(String);

impl FromRequestParts<Admin> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, ApiError> {
        if admin.keys.is_anonymous() {
            let message = "no key is configured for the admin interface, so nobody may use it";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "no_admin_keys", message));
        }
        admin.keys.authenticate(&parts.headers).map(|caller| Self(caller.name))
    }
}

impl Admin {
    /// A place among the changes that are under way, before any of its body is read.
    fn begin_change(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Some(reason) = NotReady::of(&self.engine) {
            return Err(ApiError::not_ready(reason));
        }
        let busy = |code, message| ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, message);
        let place = Arc::clone(&self.inner.pending).try_acquire_owned().map_err(|_| {
            busy("load_busy", "other changes are under way; read the state and try again later")
        })?;
        if !self.inner.rate.try_take() {
            let message = "too many changes in a minute; try again later";
            return Err(busy("rate_limited", message));
        }
        Ok(place)
    }

    async fn body(&self, request: Request) -> Result<axum::body::Bytes, ApiError> {
        layers::read_body(request, self, self.limits.body_read_timeout).await
    }
}

/// Runs what reads files or waits for the engine off the async threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::internal(format!("an admin task did not end: {error}")))?
}

fn request_id(request: &Request) -> Option<String> {
    request.extensions().get::<RequestId>().map(|id| id.0.clone())
}
