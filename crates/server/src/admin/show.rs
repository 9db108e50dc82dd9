//! `GET /v1/steering` and `/v1/steering/generations`: what steers, and what could.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use skeg_vector_store::{GenerationId, list_generations, load_generation, read_current};

use super::{Admin, Operator, live, off_thread};
use crate::errors::ApiError;

/// The state: of what is live here, of what `CURRENT` says, of the model, the override and the audit log.
pub(super) async fn state(
    State(admin): State<Admin>,
    _operator: Operator,
) -> Result<Response, ApiError> {
    off_thread(move || Ok(Json(state_now(&admin)).into_response())).await
}

fn state_now(admin: &Admin) -> Value {
    let live = admin.store.current();
    let current = read_current(admin.store.root());
    let (last, num_failures) = admin.audit.state();
    let sequence = current
        .as_ref()
        .ok()
        .filter(|current| current.generation == live.generation.id)
        .map(|current| current.sequence);
    json!({
        "generation": live.generation.id,
        "hash": live.generation.root_hash,
        "signed_by": admin.store.trusted_keys().signers(&live.generation.signatures),
        // Null where CURRENT names another generation, or cannot be read: see `current`.
        "sequence": sequence,
        "age_seconds": live.since.elapsed().as_secs_f64(),
        "replaced": live.replaced,
        "categories": live.generation.manifest.categories,
        "weights_mismatch": live.generation.weights_mismatch,
        "current": match &current {
            Ok(current) => json!({"generation": current.generation, "sequence": current.sequence}),
            Err(error) => json!({"error": error.to_string()}),
        },
        "origin": admin.origin.shown(),
        "model": {
            "architecture_id": admin.model.architecture_id,
            "weights_id": admin.model.weights_id,
            "hidden_size": admin.model.hidden_size,
            "num_hidden_layers": admin.model.num_hidden_layers,
        },
        "canary": live.attached.canary,
        "override": admin.operations.kill_switch.shown(),
        "swaps": {"ok": admin.store.swaps(), "failed": admin.store.failed_reloads()},
        "audit": {"sequence": last.sequence, "sha256": last.sha256, "lines_lost": num_failures},
    })
}

/// Every generation of the origin; one that is not sound has its fault in place of its facts. Of a place that is followed those
/// that were copied have facts: the others would have to be fetched.
pub(super) async fn generations(
    State(admin): State<Admin>,
    _operator: Operator,
) -> Result<Response, ApiError> {
    off_thread(move || {
        let listed = admin.origin.place().generations();
        let listed = listed.map_err(|error| live::store_unavailable(&error))?;
        let copied = list_generations(admin.store.root());
        let copied = copied.map_err(|error| live::store_unavailable(&error))?;
        let rows = listed.iter().map(|listed| row(&admin, &listed.id, copied.contains(&listed.id)));
        let data: Vec<Value> = rows.collect();
        Ok(Json(json!({"object": "list", "data": data})).into_response())
    })
    .await
}

fn row(admin: &Admin, id: &GenerationId, is_copied: bool) -> Value {
    let live = admin.store.current();
    let mut row = json!({"generation": id, "live": live.generation.id == *id, "here": is_copied});
    if !is_copied {
        return row;
    }
    let trusted = admin.store.trusted_keys();
    let loaded = load_generation(admin.store.root(), id, Some(&admin.model))
        .and_then(|generation| trusted.check(&generation).map(|()| generation));
    let facts = match loaded {
        Ok(generation) => json!({
            "hash": generation.root_hash,
            "signed_by": trusted.signers(&generation.signatures),
            "categories": generation.manifest.categories,
            "site": generation.manifest.site,
            "operator": generation.manifest.operator,
            "layers": generation.manifest.layers,
            "weights_id": generation.manifest.weights_id,
            "fault": null,
        }),
        Err(error) => json!({"fault": error.to_string()}),
    };
    if let (Value::Object(row), Value::Object(facts)) = (&mut row, facts) {
        row.extend(facts);
    }
    row
}
