//! skeg-server: OpenAI's chat API over a steered model.
//!
//! Text, categories, policy and HTTP live here; the model is reached through an [`EngineHandle`] as token ids, the
//! vectors through a [`Store`] as immutable generations. [`app`] and [`admin_app`] make the routers, [`serve`] runs one.
//!
//! Architecture invariants: a request pins one generation at admission; nothing that is due to be steered is
//! answered unsteered; one error type knows HTTP; one middleware logs errors; no log holds prompts, answers or keys.
//!
//! [`EngineHandle`]: skeg_model::engine::EngineHandle
//! [`Store`]: skeg_vector_store::Store

mod admin;
mod audit_log;
mod auth;
mod canary;
mod chat;
mod classifier;
mod decision_log;
mod errors;
mod evidence;
mod gate;
mod health;
mod kill_switch;
mod layers;
mod metrics;
mod models;
mod operations;
mod origin;
mod resolve;
mod serve;
mod state;
mod steering;
mod stop;
mod store_events;
mod wire;

use axum::Router;
use axum::routing::{get, post};

pub use admin::{AdminLimits, AdminParts, admin_app, reload_for_signal};
pub use audit_log::{AuditFault, AuditLog, AuditReport, AuditSink, verify_audit_log};
pub use auth::{ANONYMOUS, PrincipalEntry, Principals};
pub use canary::{Canary, CanaryFinding, CanaryModel, CanaryOptions, CanaryReport};
pub use classifier::{ClassifierKind, HttpClassifier, OnFailure};
pub use decision_log::DecisionLog;
pub use operations::Operations;
pub use origin::Origin;
pub use serve::{ConnectionLimits, Drained, Stop, serve};
pub use state::{App, AppParts, Limits};
pub use steering::{SteeringSlots, steering_slots};
pub use store_events::follow_store;

use errors::ApiError;

/// The whole public HTTP interface; the admin interface is [`admin_app`].
pub fn app(parts: AppParts) -> Router {
    let max_body_bytes = parts.limits.max_body_bytes;
    let router = Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/models", get(models::list))
        // A wildcard, since hub names hold slashes.
        .route("/v1/models/{*id}", get(models::get))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .with_state(App::new(parts));
    layers::wrap(router, max_body_bytes)
}
