//! `POST` of generations, rollback and reload: one at a time, each between its lines of the audit log.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use skeg_vector_store::{
    Change, ChangeKind, GenerationId, Reload, add_generation, rollback_target,
};

use super::{Admin, Operator, live, off_thread, request_id, upload};
use crate::audit_log::{Entry, Noted, audited};
use crate::errors::ApiError;
use crate::wire::Fields;

/// How far back a rollback looks for what served before.
const ROLLBACK_CHANGES: usize = 200;

pub(super) async fn publish(
    State(admin): State<Admin>,
    operator: Operator,
    request: Request,
) -> Result<Response, ApiError> {
    change(admin, operator, "publish", request, publish_now).await
}

pub(super) async fn rollback(
    State(admin): State<Admin>,
    operator: Operator,
    request: Request,
) -> Result<Response, ApiError> {
    change(admin, operator, "rollback", request, roll_back_now).await
}

pub(super) async fn reload(
    State(admin): State<Admin>,
    operator: Operator,
    request: Request,
) -> Result<Response, ApiError> {
    change(admin, operator, "reload", request, reload_now).await
}

type Work = fn(&Admin, Asked<'_>, &mut Noted) -> Result<Value, ApiError>;

/// A change that is asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    who: &'a str,
    body: &'a [u8],
}

/// Waits for its turn, then does the work in a thread of its own, where it comes to its end whether or not the client waits.
async fn change(
    admin: Admin,
    Operator(who): Operator,
    event: &'static str,
    request: Request,
    work: Work,
) -> Result<Response, ApiError> {
    let place = admin.begin_change()?;
    let request_id = request_id(&request);
    // A body that cannot be had is a refused change as well.
    let body = admin.body(request).await;
    let turn = Arc::clone(&admin.inner.turn).lock_owned().await;
    let done = off_thread(move || {
        let _held = (place, turn);
        let from = Some(admin.store.current().generation.id.to_string());
        let order = Entry { event, who: who.clone(), request_id, from, ..Entry::default() };
        let body: Result<Bytes, ApiError> = body;
        audited(&admin.audit, order, |noted| work(&admin, Asked { who: &who, body: &body? }, noted))
    });
    Ok(Json(done.await?).into_response())
}

/// Where a generation comes from.
enum Source {
    Files(BTreeMap<String, String>),
    Directory(String),
}

fn publish_now(admin: &Admin, asked: Asked<'_>, noted: &mut Noted) -> Result<Value, ApiError> {
    let mut fields = Fields::parse(asked.body)?;
    let publish = fields.take::<bool>("publish")?.unwrap_or(true);
    let expected = take_id(&mut fields, "expected_generation")?;
    let source = match (fields.take("files")?, fields.take("directory")?) {
        (Some(files), None) => Source::Files(files),
        (None, Some(directory)) => Source::Directory(directory),
        _ => {
            let message =
                "give either `files` (base64 by name) or `directory` (under the upload root)";
            return Err(ApiError::invalid("files", message));
        }
    };
    refuse_rest(&fields)?;
    if publish {
        // Before the work; it is looked at again when `CURRENT` is changed.
        live::check_expected(&admin.origin, expected.as_ref())?;
    } else if expected.is_some() {
        let message = "`expected_generation` is for a change of CURRENT, and `publish` is false";
        return Err(ApiError::invalid("expected_generation", message));
    }
    let files = match source {
        Source::Files(files) => upload::decode(files)?,
        Source::Directory(directory) => {
            let root = admin.upload_root.as_deref().ok_or_else(|| {
                let message =
                    "this server has no `upload_root`, so no folder can be named; send the `files`";
                ApiError::forbidden("no_upload_root", "directory", message)
            })?;
            upload::read_folder(root, &directory, admin.limits.max_upload_bytes)?
        }
    };
    if publish {
        let id = add_generation(admin.store.root(), &files);
        let id = id.map_err(|error| live::refused(&error))?;
        let expected = expected.as_ref();
        let change = asked.change(ChangeKind::Publish);
        let step = live::Step { id: &id, files: Some(&files), expected, change };
        return live::make_live(&admin.store, &admin.origin, &step, noted);
    }
    let place = admin.origin.place();
    let id = place.add_files(&files).map_err(|error| live::refused(&error))?;
    noted.to = Some(id.to_string());
    let generation = place.load(&id).map_err(|error| live::refused(&error))?;
    noted.hash = Some(generation.root_hash.clone());
    Ok(json!({"generation": id, "hash": generation.root_hash, "published": false, "live": false}))
}

fn roll_back_now(admin: &Admin, asked: Asked<'_>, noted: &mut Noted) -> Result<Value, ApiError> {
    let mut fields = parse_or_empty(asked.body)?;
    let named = take_id(&mut fields, "generation")?;
    let expected = take_id(&mut fields, "expected_generation")?;
    refuse_rest(&fields)?;
    let not_found = |code, message| {
        ApiError::new(StatusCode::NOT_FOUND, code, message).with_param("generation")
    };
    let place = admin.origin.place();
    let unavailable = |error| live::store_unavailable(&error);
    let id = match named {
        Some(id) => id,
        None => {
            let history = place.history(ROLLBACK_CHANGES).map_err(unavailable)?;
            let current = place.current().map_err(unavailable)?;
            rollback_target(&current, &history).ok_or_else(|| {
                let message = format!(
                    "the history does not say what served before {} was published; name a generation",
                    current.generation
                );
                not_found("no_previous_generation", message)
            })?
        }
    };
    noted.to = Some(id.to_string());
    let known = place.generations().map_err(unavailable)?;
    if !known.iter().any(|known| known.id == id) {
        let message = format!(
            "the store has no generation {id}; `GET /v1/steering/generations` lists what it has"
        );
        return Err(not_found("generation_not_found", message));
    }
    let expected = expected.as_ref();
    let change = asked.change(ChangeKind::Rollback);
    let step = live::Step { id: &id, files: None, expected, change };
    live::make_live(&admin.store, &admin.origin, &step, noted)
}

fn reload_now(admin: &Admin, asked: Asked<'_>, noted: &mut Noted) -> Result<Value, ApiError> {
    refuse_rest(&parse_or_empty(asked.body)?)?;
    let (from, swapped) = match live::reload(&admin.store, &admin.origin, noted)? {
        Reload::Unchanged => (noted.to.clone(), false),
        Reload::Swapped { from, .. } => (Some(from.to_string()), true),
    };
    Ok(json!({"generation": noted.to, "hash": noted.hash, "from": from, "swapped": swapped}))
}

impl Asked<'_> {
    /// What the history says of it.
    fn change(&self, kind: ChangeKind) -> Change {
        Change { kind, actor: self.who.to_owned(), reason: "admin interface".to_owned() }
    }
}

/// A body that may be missing.
pub(super) fn parse_or_empty(body: &[u8]) -> Result<Fields, ApiError> {
    Fields::parse(if body.is_empty() { b"{}" } else { body })
}

pub(super) fn refuse_rest(fields: &Fields) -> Result<(), ApiError> {
    const MAX_CHARS: usize = 64;
    let Some(name) = fields.rest().next() else { return Ok(()) };
    let name: String = name.chars().take(MAX_CHARS).collect();
    let message = format!("`{}` is not a field of this request", name.escape_debug());
    Err(ApiError::bad_request("unknown_parameter", name, message))
}

fn take_id(fields: &mut Fields, name: &'static str) -> Result<Option<GenerationId>, ApiError> {
    let text = fields.take::<String>(name)?;
    let id = text.map(|text| GenerationId::parse(&text)).transpose();
    id.map_err(|error| ApiError::invalid(name, format!("`{name}`: {error}")))
}
