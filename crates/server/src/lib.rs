//! skeg-server: OpenAI's chat API over a steered model.
//!
//! Text, categories, policy and HTTP live here; the model is reached through an [`EngineHandle`] as token ids, the
//! vectors through a [`Store`] as immutable generations. [`app`] makes the router, [`serve`] runs it.
//!
//! Architecture invariants: a request pins one generation at admission; nothing that is due to be steered is
//! answered unsteered; one error type knows HTTP; one middleware logs errors; no log holds prompts, answers or keys.
//!
//! [`EngineHandle`]: skeg_model::engine::EngineHandle
//! [`Store`]: skeg_vector_store::Store

mod auth;
mod chat;
mod decision_log;
mod errors;
mod evidence;
mod health;
mod layers;
mod metrics;
mod models;
mod resolve;
mod serve;
mod state;
mod steering;
mod stop;
mod wire;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};

pub use auth::{ANONYMOUS, PrincipalEntry, Principals};
pub use decision_log::DecisionLog;
pub use serve::{ConnectionLimits, Drained, Stop, serve};
pub use state::{App, AppParts, Limits};
pub use steering::{SteeringSlots, steering_slots};

use errors::ApiError;

/// The whole HTTP interface.
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
        .fallback(async || {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "this path is not served here")
        })
        .method_not_allowed_fallback(async || {
            let message = "this path is served, but not with this method";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .with_state(App::new(parts));
    layers::wrap(router, max_body_bytes)
}
