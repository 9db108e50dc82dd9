//! What surrounds every handler, from the outside in: request id, span, error log, panic guard.

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

use crate::errors::{ApiError, LoggedError, SHUTTING_DOWN};
use crate::state::App;

const REQUEST_ID: &str = "x-request-id";
/// Longest request id taken from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The request's id, in its extensions, in its span, on its response and in the decision log.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// A request body, whole, in time and within the limit. The content type is not looked at: the body is JSON or it is a 400.
pub(crate) struct Payload(pub(crate) Bytes);

impl FromRequest<App> for Payload {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        read_body(request, app, app.limits.body_read_timeout).await.map(Self)
    }
}

/// A request's body, whole, within `limit` and within the router's limit on bytes.
pub(crate) async fn read_body<S: Send + Sync>(
    request: Request,
    state: &S,
    limit: Duration,
) -> Result<Bytes, ApiError> {
    let read = timeout(limit, Bytes::from_request(request, state)).await;
    let read = read.map_err(|_elapsed| {
        let message = format!("the body was not complete after {limit:?}");
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message).closing_connection()
    })?;
    read.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let message = "the body is larger than this server takes";
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
        }
        let message = "the body could not be read to its end";
        ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", message)
            .with_log(rejection.body_text())
    })
}

/// Puts the layers around a router.
pub(crate) fn wrap(router: Router, max_body_bytes: usize) -> Router {
    // `layer` wraps what is there, so the last one is the outermost.
    router
        // Read by `Payload`, so that the 413 is in our shape.
        .layer(DefaultBodyLimit::max(max_body_bytes))
        // Inside the log, so that a panic is logged as any other fault; the engine thread is not touched by it.
        .layer(CatchPanicLayer::custom(panicked))
        // One place logs errors; handlers only return them.
        .layer(from_fn(log_error))
        // A span a request: id, method and path, never a body or a header's value.
        .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
        // Outermost, so that every answer carries an id, a 404 and a panic included.
        .layer(from_fn(request_id))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    ApiError::internal(format!("a handler panicked: {text}")).into_response()
}

fn span(request: &Request<Body>) -> tracing::Span {
    let id = request.extensions().get::<RequestId>().map_or("", |id| id.0.as_str());
    tracing::info_span!("request", id, method = %request.method(), path = request.uri().path())
}

async fn log_error(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(error) = response.extensions().get::<LoggedError>() {
        let (status, code) = (response.status().as_u16(), error.code);
        let detail = error.detail.as_deref().unwrap_or_default();
        if response.status().is_server_error() && code != SHUTTING_DOWN {
            tracing::error!(status, code, detail, "request failed");
        } else {
            tracing::debug!(status, code, detail, "request refused");
        }
    }
    response
}

/// Honours a client's id if it is short and visible ASCII, else makes one; echoes it either way.
async fn request_id(mut request: Request, next: Next) -> Response {
    let given =
        request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| {
            (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_graphic())
        });
    let id = given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
