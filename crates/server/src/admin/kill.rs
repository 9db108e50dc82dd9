//! `POST /v1/steering/override`: the kill switch. It waits for no other change and has no limit of rate.

use std::sync::PoisonError;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::change::refuse_rest;
use super::expiry::Expiry;
use super::{Admin, Operator, off_thread, request_id};
use crate::audit_log::{Entry, Noted, audited};
use crate::errors::ApiError;
use crate::kill_switch::OverrideAction;
use crate::state::unix_time;
use crate::wire::Fields;

pub(super) async fn set(
    State(admin): State<Admin>,
    Operator(who): Operator,
    request: Request,
) -> Result<Response, ApiError> {
    let request_id = request_id(&request);
    let body = admin.body(request).await;
    let task = admin.clone();
    off_thread(move || {
        // Nothing is guarded by it but the order.
        let _held = task.inner.switching.lock().unwrap_or_else(PoisonError::into_inner);
        let engaged = task.operations.kill_switch.engaged();
        let from = engaged.map(|engaged| engaged.action.as_str().to_owned());
        let order = Entry { event: "override", who, request_id, from, ..Entry::default() };
        audited(&task.audit, order, |noted| set_now(&task, &body?, noted))
    })
    .await?;
    Ok(Json(json!({"override": admin.operations.kill_switch.shown()})).into_response())
}

fn set_now(admin: &Admin, body: &[u8], noted: &mut Noted) -> Result<(), ApiError> {
    let mut fields = Fields::parse(body)?;
    let action = fields.take::<String>("action")?;
    let expires = fields.take::<Expiry>("expires").map_err(|_| {
        ApiError::invalid("expires", "`expires` is neither seconds from now nor a time in RFC 3339")
    })?;
    refuse_rest(&fields)?;
    let switch = &admin.operations.kill_switch;
    let action = match action.as_deref() {
        Some("clear") if expires.is_none() => {
            noted.to = Some("clear".to_owned());
            switch.clear();
            return Ok(());
        }
        Some("clear") => {
            return Err(ApiError::invalid("expires", "`expires` has no meaning for `clear`"));
        }
        Some(name) => OverrideAction::ALL.into_iter().find(|action| action.as_str() == name),
        None => None,
    };
    let action = action.ok_or_else(|| {
        ApiError::invalid("action", "`action` must be `refuse_all`, `default_only` or `clear`")
    })?;
    noted.to = Some(action.as_str().to_owned());
    let expires = expires.ok_or_else(|| {
        let message = "`expires` is required: an override ends by itself; give seconds, or a time in RFC 3339";
        ApiError::bad_request("expires_required", "expires", message)
    })?;
    let now = unix_time();
    let lasts = expires
        .lasts(now)
        .map_err(|reason| ApiError::invalid("expires", format!("`expires` {reason}")))?;
    noted.expires_unix_ms = u64::try_from((now + lasts).as_millis()).ok();
    switch.engage(action, lasts);
    tracing::warn!(action = action.as_str(), seconds = lasts.as_secs(), "an override is in force");
    Ok(())
}
