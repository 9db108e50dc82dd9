//! `GET /v1/steering/vectors/{category}`: one category's live vectors, as a safetensors file or as base64 in JSON. Never as JSON's
//! numbers, which not every reader reads to the last bit.

use std::collections::HashMap;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use skeg_vector_store::{CategoryVectors, Generation};

use super::{Admin, Operator};
use crate::errors::ApiError;

/// The tensor has the name and the layout that the generation's file gives it: `<category>/<site>`, `[num_layers, hidden_size]`, f32.
pub(super) async fn get(
    State(admin): State<Admin>,
    _operator: Operator,
    headers: HeaderMap,
    category: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(slug) = category.map_err(|rejection| {
        ApiError::bad_request("invalid_path", "category", rejection.body_text())
    })?;
    let live = admin.store.current();
    let generation = &live.generation;
    let found = generation.vectors.iter().find(|(category, _)| category.as_str() == slug);
    let (category, vectors) = found.ok_or_else(|| {
        let known: Vec<&str> =
            generation.vectors.keys().map(|category| category.as_str()).collect();
        let message = format!(
            "generation {} has no such category; it has {}",
            generation.id,
            known.join(", ")
        );
        ApiError::new(StatusCode::NOT_FOUND, "category_not_found", message).with_param("category")
    })?;
    let name = generation.manifest.tensor_name(category);
    let bytes = safetensors(&name, vectors, generation)
        .map_err(|error| ApiError::internal(format!("writing {name}: {error}")))?;
    let mut response = if wants_json(&headers) {
        let body = json!({
            "generation": generation.id,
            "category": category,
            "tensor": name,
            "layers": vectors.layers,
            "shape": shape(vectors),
            "safetensors": STANDARD.encode(bytes),
        });
        Json(body).into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
    };
    if let Ok(id) = HeaderValue::from_str(generation.id.as_str()) {
        response.headers_mut().insert(HeaderName::from_static("x-steering-generation"), id);
    }
    Ok(response)
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("application/json"))
}

fn shape(vectors: &CategoryVectors) -> Vec<usize> {
    vec![vectors.layers.len(), vectors.hidden_size()]
}

fn safetensors(
    name: &str,
    vectors: &CategoryVectors,
    generation: &Generation,
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let bytes: Vec<u8> = vectors.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape(vectors), &bytes)?;
    // One entry, since the crate writes several in any order, and equal vectors are to be equal bytes.
    let steering = json!({
        "generation": generation.id,
        "layers": vectors.layers,
        "operator": generation.manifest.operator,
        "site": generation.manifest.site,
    });
    let metadata = HashMap::from([("steering".to_owned(), steering.to_string())]);
    safetensors::serialize([(name, view)], Some(metadata))
}
