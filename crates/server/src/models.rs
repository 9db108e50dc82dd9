//! `GET /v1/models` and `/v1/models/{id}`: the one model under all its names.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::auth::Caller;
use crate::errors::ApiError;
use crate::state::App;
use crate::wire::{Model, ModelList};

pub(crate) async fn list(State(app): State<App>, _caller: Caller) -> Response {
    let data = app.served_names.iter().map(|name| model(&app, name)).collect();
    Json(ModelList { object: "list", data }).into_response()
}

pub(crate) async fn get(
    State(app): State<App>,
    _caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|rejection| {
        ApiError::bad_request("invalid_path", "model", rejection.body_text())
    })?;
    check_name(&app, &id)?;
    Ok(Json(model(&app, &id)).into_response())
}

/// 404 unless `name` means this server's model.
pub(crate) fn check_name(app: &App, name: &str) -> Result<(), ApiError> {
    const MAX_ECHOED_CHARS: usize = 128;
    if app.serves(name) {
        return Ok(());
    }
    let echoed: String = name.chars().take(MAX_ECHOED_CHARS).collect();
    let message = format!(
        "the model `{}` is not served here; ask for: {}, default",
        echoed.escape_debug(),
        app.served_names.join(", ")
    );
    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).with_param("model"))
}

fn model<'a>(app: &'a App, id: &'a str) -> Model<'a> {
    Model {
        id,
        object: "model",
        created: app.started_unix_seconds(),
        owned_by: "skeg",
        root: app.model_name(),
        max_model_len: app.max_model_len,
    }
}
