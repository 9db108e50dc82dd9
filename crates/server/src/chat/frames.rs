//! Server-sent events: how one chunk is written.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;

use super::Answer;
use crate::errors::ApiError;
use crate::wire::{Chunk, ChunkChoice, Delta, Usage};

/// The frame that ends a complete stream.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// One `data:` frame.
pub(super) fn frame(value: &impl Serialize) -> Bytes {
    // Numbers, strings and lists always serialise; were it otherwise, the stream ends in an error frame.
    match serde_json::to_string(value) {
        Ok(json) => Bytes::from(format!("data: {json}\n\n")),
        Err(error) => error_frame(&ApiError::internal(error.to_string())),
    }
}

/// The frame that ends a stream that failed.
pub(super) fn error_frame(error: &ApiError) -> Bytes {
    Bytes::from(format!("data: {}\n\n", error.to_json()))
}

/// A chunk around these choices. With `include_usage`, OpenAI's frames say `usage: null` until the last.
pub(super) fn chunk<'a>(
    answer: &'a Answer,
    choices: Vec<ChunkChoice>,
    include_usage: bool,
) -> Chunk<'a> {
    Chunk {
        id: &answer.id,
        object: "chat.completion.chunk",
        created: answer.created,
        model: &answer.model,
        choices,
        usage: include_usage.then_some(None),
    }
}

/// The chunk that carries the usage, and no choice.
pub(super) fn usage_chunk(answer: &Answer, completion_tokens: usize) -> Chunk<'_> {
    let usage = Usage::new(answer.prompt_tokens, completion_tokens);
    Chunk { usage: Some(Some(usage)), ..chunk(answer, Vec::new(), true) }
}

/// The first chunk of a choice.
pub(super) fn role(index: usize) -> ChunkChoice {
    let delta = Delta { role: Some("assistant"), content: Some(String::new()), refusal: None };
    ChunkChoice { index, delta, logprobs: None, finish_reason: None, steering: None }
}

/// The response around a stream of frames.
pub(super) fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx buffers an answer otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
