//! `/health/live`: the process answers. `/health/ready`: it can answer requests; 503 with the reason otherwise.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::state::App;

pub(crate) async fn live() -> Response {
    Json(json!({"status": "live"})).into_response()
}

/// Model and vectors are in before there is a listener; what can end afterwards is the engine.
///
/// Under an override the server is ready: it answers, and says which one is in force.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let Some(reason) = app.reason_not_ready() else {
        let live = app.store.current();
        let body = json!({
            "status": "ready",
            "generation": live.generation.id,
            "generation_age_seconds": live.since.elapsed().as_secs(),
            "override": app.operations.kill_switch.shown(),
        });
        return Json(body).into_response();
    };
    let body = json!({"status": "not_ready", "reason": reason.as_str()});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}
