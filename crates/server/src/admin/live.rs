//! Which generation is live, and making another one so: validated whole before `CURRENT` names it, put back where it cannot be served.
//!
//! `CURRENT` is that of the server's [`Origin`]: where it follows a place, a change is made there, for all who follow it.

use std::fmt;

use axum::http::StatusCode;
use serde_json::{Value, json};
use skeg_vector_store::{
    Change, ChangeKind, Current, Error, Files, GenerationId, Reload, Store, add_generation,
};

use crate::audit_log::{AuditLog, Entry, Noted, audited};
use crate::errors::ApiError;
use crate::origin::Origin;
use crate::steering::SteeringSlots;

const EXPECTED: &str = "expected_generation";

/// Checks that `CURRENT` names the generation that the caller had seen, if it said which.
pub(super) fn check_expected(
    origin: &Origin,
    expected: Option<&GenerationId>,
) -> Result<Current, ApiError> {
    let current = origin.place().current().map_err(|error| store_unavailable(&error))?;
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

/// A change of `CURRENT` that is to be made.
pub(super) struct Step<'a> {
    pub(super) id: &'a GenerationId,
    /// Its files, where the origin may not have them yet.
    pub(super) files: Option<&'a Files>,
    /// What the caller had seen.
    pub(super) expected: Option<&'a GenerationId>,
    /// Who changes it, and how.
    pub(super) change: Change,
}

/// Makes a generation the live one. `CURRENT` is changed only after all of it was validated, its place in the engine
/// included, and only if nobody changed it meanwhile.
pub(super) fn make_live(
    store: &Store<SteeringSlots>,
    origin: &Origin,
    step: &Step<'_>,
    noted: &mut Noted,
) -> Result<Value, ApiError> {
    let before = check_expected(origin, step.expected)?;
    noted.to = Some(step.id.to_string());
    match step.files {
        Some(files) => drop(add_generation(store.root(), files).map_err(|error| refused(&error))?),
        None => origin.bring(step.id).map_err(|error| refused(&error))?,
    }
    let generation = store.check(step.id).map_err(|error| refused(&error))?;
    noted.hash = Some(generation.root_hash.clone());
    let place = origin.place();
    if let Some(files) = step.files {
        place.add_files(files).map_err(|error| refused(&error))?;
    }
    let current = place
        .set_current(step.id, Some(before.sequence), &step.change)
        .map_err(|error| refused(&error))?;
    let reloaded = origin.reload(store);
    if let Err(error @ Error::Place { .. }) = reloaded {
        let reason = format_args!("it was published, but cannot be followed here yet: {error}");
        return Err(cannot_go_live(reason));
    }
    if let Err(error) = reloaded {
        let reason = format!("{} could not serve it", step.change.actor);
        let undo = Change { kind: ChangeKind::Rollback, reason, ..step.change.clone() };
        let put_back = place
            .set_current(&before.generation, Some(current.sequence), &undo)
            .and_then(|_| origin.reload(store));
        let state = match put_back {
            Ok(_) => format!("CURRENT names {} again", before.generation),
            Err(error) => format!("and CURRENT could not be put back: {error}"),
        };
        return Err(cannot_go_live(format_args!("{error}; {state}")));
    }
    let live = store.current();
    Ok(json!({
        "generation": step.id,
        "hash": generation.root_hash,
        "from": before.generation,
        "sequence": current.sequence,
        "published": true,
        // Another publisher may have been quick.
        "live": live.generation.id == *step.id,
    }))
}

/// Looks at the origin, and reads `CURRENT` again.
pub(super) fn reload(
    store: &Store<SteeringSlots>,
    origin: &Origin,
    noted: &mut Noted,
) -> Result<Reload, ApiError> {
    let reload = origin.reload(store).map_err(|error| match error {
        Error::Io { .. } | Error::Place { .. } => store_unavailable(&error),
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

/// Looks at the origin and reloads when the system asks for it (SIGHUP), in the audit log if there is one.
///
/// # Errors
/// As [`Origin::reload`], and when the audit log cannot be written; in words. The last good generation
/// stays live.
pub fn reload_for_signal(
    store: &Store<SteeringSlots>,
    origin: &Origin,
    audit: Option<&AuditLog>,
) -> Result<Reload, String> {
    let reloaded = match audit {
        None => reload(store, origin, &mut Noted::default()),
        Some(audit) => {
            let from = Some(store.current().generation.id.to_string());
            let order =
                Entry { event: "reload", who: "signal".to_owned(), from, ..Entry::default() };
            audited(audit, order, |noted| reload(store, origin, noted))
        }
    };
    reloaded.map_err(|error| error.for_the_log())
}

/// An error of the store about a generation or about the store itself.
pub(super) fn refused(error: &Error) -> ApiError {
    let bad = |code| ApiError::new(StatusCode::BAD_REQUEST, code, error.to_string());
    match error {
        Error::Io { .. } | Error::Place { .. } => store_unavailable(error),
        Error::Conflict { .. } => mismatch(error.to_string()),
        Error::Prepare { .. } => cannot_go_live(error),
        Error::WrongModel(_) => bad("wrong_model"),
        Error::Untrusted { .. } => bad("untrusted_generation"),
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
