//! The one error that clients see: OpenAI's shape, a stable `code`, a status.
//!
//! `{"error": {"message", "type", "param", "code"}}`. What the client is told and what the log is told
//! are apart: [`ApiError::with_log`] holds the second, and one middleware (`layers.rs`) writes it once.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::state::NotReady;

/// Seconds that an overloaded server asks clients to wait. Short: places free as answers end.
const RETRY_AFTER_SECONDS: &str = "1";

/// Code of requests that are refused because the server ends: expected then, and not a fault.
pub(crate) const SHUTTING_DOWN: &str = "shutting_down";

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    param: Option<String>,
    message: String,
    log: Option<String>,
    /// Whether the client's next request should come over another connection: to another server perhaps, or
    /// because the rest of this one's body is still to come.
    closes_connection: bool,
}

/// What the logging middleware finds on an error response.
#[derive(Debug, Clone)]
pub(crate) struct LoggedError {
    pub(crate) code: &'static str,
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

impl ApiError {
    /// An error of `status` with a stable code and a text for the client.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code, param: None, message, log: None, closes_connection: false }
    }

    /// 400: something in the request, named by `param`, cannot be served.
    pub(crate) fn bad_request(
        code: &'static str,
        param: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message).with_param(param)
    }

    /// 400 `invalid_value`: a field has the wrong type or is out of range.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::bad_request("invalid_value", param, message)
    }

    /// 400 `unsupported_parameter`: a field of OpenAI's that this server does not honour.
    pub(crate) fn unsupported(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("`{param}` is not supported by this server; leave it out");
        Self::bad_request("unsupported_parameter", param, message)
    }

    /// 404: no route.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "this path is not served here")
    }

    /// 405: a route, but not for this method.
    pub(crate) fn method_not_allowed() -> Self {
        let message = "this path is served, but not with this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// 403: the caller's group may not do this.
    pub(crate) fn forbidden(
        code: &'static str,
        param: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message).with_param(param)
    }

    /// 503 `steering_unavailable`: steering was due and cannot be applied.
    pub(crate) fn steering_unavailable(log: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "steering_unavailable",
            "the steering that is due for this request cannot be applied, so it is not answered; try again later",
        )
        .with_log(log)
    }

    /// 503 `audit_unavailable`: a change is not made where its audit line cannot be written.
    pub(crate) fn audit_unavailable(log: impl Into<String>) -> Self {
        let message = "the audit log cannot be written, so nothing was changed; see to its disk and try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", message).with_log(log)
    }

    /// 503 `shutting_down` or `engine_stopped`: nothing new is answered here.
    pub(crate) fn not_ready(reason: NotReady) -> Self {
        let code = match reason {
            NotReady::ShuttingDown => SHUTTING_DOWN,
            NotReady::EngineEnded => "engine_stopped",
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, reason.as_str()).closing_connection()
    }

    /// 500: a fault of ours; the client is told no detail.
    pub(crate) fn internal(log: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server failed on this request; its log has the reason under the request's id",
        )
        .with_log(log)
    }

    /// Names the field the error is about.
    #[must_use]
    pub(crate) fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Asks the client to send its next request over another connection.
    #[must_use]
    pub(crate) fn closing_connection(mut self) -> Self {
        self.closes_connection = true;
        self
    }

    /// Adds what only the log is told.
    #[must_use]
    pub(crate) fn with_log(mut self, log: impl Into<String>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// Whether the fault is on this side.
    pub(crate) fn is_of_the_server(&self) -> bool {
        self.status.is_server_error()
    }

    /// Code, message and what only the log is told.
    pub(crate) fn for_the_log(&self) -> String {
        let detail = self.log.as_ref().map(|log| format!(" ({log})")).unwrap_or_default();
        format!("{}: {}{detail}", self.code, self.message)
    }

    /// The body as JSON, for an error frame in a stream as well.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(&self.body()).unwrap_or_else(|_| {
            // Strings alone always serialise; the fallback keeps the shape.
            r#"{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}"#.to_owned()
        })
    }

    /// Logs an error that became a frame of a stream, where no middleware sees it.
    pub(crate) fn log_in_stream(&self) {
        let detail = self.log.as_deref().unwrap_or_default();
        tracing::error!(code = self.code, detail, "a stream ended in an error");
    }

    fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            error: ErrorObject {
                message: &self.message,
                r#type: self.kind(),
                param: self.param.as_deref(),
                code: self.code,
            },
        }
    }

    /// OpenAI's word for the class of error.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.closes_connection {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(LoggedError { code: self.code, detail: self.log });
        response
    }
}
