//! Which generation is live, and making another one so: validated whole before `CURRENT` names it, put back where it cannot be served.

use std::fmt;

use axum::http::StatusCode;
use serde_json::{Value, json};
use skeg_vector_store::{Current, Error, GenerationId, Reload, Store, read_current, set_current};

use crate::audit_log::{AuditLog, Entry, Noted, audited};
use crate::errors::ApiError;
use crate::steering::SteeringSlots;

const EXPECTED: &str = "expected_generation";

/// Checks that `CURRENT` names the generation that the caller had seen, if it said which.
pub(super) fn check_expected(
    store: &Store<SteeringSlots>,
    expected: Option<&GenerationId>,
) -> Result<Current, ApiError> {
    let current = read_current(store.root()).map_err(|error| store_unavailable(&error))?;
    match expected {
        Some(expected) if *expected != current.generation => {
            let message = format!(
                "`{EXPECTED}` is {expected}, but CURRENT names {} (sequence {}): another change was first; read the state and \
                 decide anew",
                current.generation, current.sequence
            );
            Err(mismatch(message))
        }
        _ => Ok(current),
    }
}

/// Makes a generation of the store the live one. `CURRENT` is changed only after all of it was validated, its place in the engine
/// included, and only if nobody changed it meanwhile.
pub(super) fn make_live(
    store: &Store<SteeringSlots>,
    id: &GenerationId,
    expected: Option<&GenerationId>,
    noted: &mut Noted,
) -> Result<Value, ApiError> {
    let before = check_expected(store, expected)?;
    noted.to = Some(id.to_string());
    let generation = store.check(id).map_err(|error| refused(&error))?;
    noted.hash = Some(generation.root_hash.clone());
    let current =
        set_current(store.root(), id, Some(before.sequence)).map_err(|error| refused(&error))?;
    if let Err(error) = store.reload() {
        let put_back = set_current(store.root(), &before.generation, Some(current.sequence));
        let state = match put_back {
            Ok(_) => format!("CURRENT names {} again", before.generation),
            Err(error) => format!("and CURRENT could not be put back: {error}"),
        };
        return Err(cannot_go_live(format_args!("{error}; {state}")));
    }
    let live = store.current();
    Ok(json!({
        "generation": id,
        "hash": generation.root_hash,
        "from": before.generation,
        "sequence": current.sequence,
        "published": true,
        // Another publisher may have been quick.
        "live": live.generation.id == *id,
    }))
}

/// Reads `CURRENT` again.
pub(super) fn reload(store: &Store<SteeringSlots>, noted: &mut Noted) -> Result<Reload, ApiError> {
    let reload = store.reload().map_err(|error| match error {
        Error::Io { .. } => store_unavailable(&error),
        _ => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "reload_failed",
            format!(
                "what CURRENT names cannot be served, so the last good generation stays: {error}"
            ),
        ),
    })?;
    let live = store.current();
    noted.to = Some(live.generation.id.to_string());
    noted.hash = Some(live.generation.root_hash.clone());
    Ok(reload)
}

/// [`Store::reload`] when the system asks for it (SIGHUP), in the audit log if there is one.
///
/// # Errors
/// As [`Store::reload`], and when the audit log cannot be written; in words. The last good generation stays live.
pub fn reload_for_signal(
    store: &Store<SteeringSlots>,
    audit: Option<&AuditLog>,
) -> Result<Reload, String> {
    let reloaded = match audit {
        None => reload(store, &mut Noted::default()),
        Some(audit) => {
            let from = Some(store.current().generation.id.to_string());
            let order =
                Entry { event: "reload", who: "signal".to_owned(), from, ..Entry::default() };
            audited(audit, order, |noted| reload(store, noted))
        }
    };
    reloaded.map_err(|error| error.for_the_log())
}

/// An error of the store about a generation or about the store itself.
pub(super) fn refused(error: &Error) -> ApiError {
    let bad = |code| ApiError::new(StatusCode::BAD_REQUEST, code, error.to_string());
    match error {
        Error::Io { .. } => store_unavailable(error),
        Error::Conflict { .. } => mismatch(error.to_string()),
        Error::Prepare { .. } => cannot_go_live(error),
        Error::WrongModel(_) => bad("wrong_model"),
        _ => bad("invalid_generation"),
    }
}

pub(super) fn store_unavailable(error: &Error) -> ApiError {
    let message = "the vector store cannot be read or written; what is live stays";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
        .with_log(error.to_string())
}

fn mismatch(message: String) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "generation_mismatch", message).with_param(EXPECTED)
}

fn cannot_go_live(reason: impl fmt::Display) -> ApiError {
    let message = format!("the generation is sound but cannot be served here now: {reason}");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "cannot_go_live", message)
}
