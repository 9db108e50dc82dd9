//! Action `refuse`: the policy's text, no forward pass, in the shape the client asked for.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use skeg_model::engine::SteeringReport;

use super::Answer;
use super::collect::completion;
use super::frames::{DONE, chunk, event_stream, frame, role, usage_chunk};
use super::record::Record;
use super::timing::Timing;
use crate::evidence::ChoiceKind;
use crate::wire::{ChatRequest, Choice, ChunkChoice, Delta, Message};

const FINISH_REASON: &str = "content_filter";

/// One choice, whatever `n` says: every one would be the same.
pub(super) fn respond(
    answer: &Answer,
    request: &ChatRequest,
    text: String,
    record: Record,
    timing: Timing,
) -> Response {
    let steering = answer.evidence(ChoiceKind::Resolved, &SteeringReport::default(), None);
    record.finished();
    if !request.stream {
        let message = Message { role: "assistant", content: None, refusal: Some(text) };
        let choice =
            Choice { index: 0, message, logprobs: None, finish_reason: FINISH_REASON, steering };
        let mut response = Json(completion(answer, vec![choice], 0)).into_response();
        timing.add_headers(response.headers_mut(), answer.prompt_tokens, 0);
        return response;
    }
    let refusal = ChunkChoice {
        index: 0,
        delta: Delta { refusal: Some(text), ..Delta::default() },
        logprobs: None,
        finish_reason: None,
        steering: None,
    };
    let last = ChunkChoice {
        index: 0,
        delta: Delta::default(),
        logprobs: None,
        finish_reason: Some(FINISH_REASON),
        steering: Some(steering),
    };
    let mut body = Vec::new();
    for choice in [role(0), refusal, last] {
        body.extend_from_slice(&frame(&chunk(answer, vec![choice], request.include_usage)));
    }
    if request.include_usage {
        body.extend_from_slice(&frame(&usage_chunk(answer, 0)));
    }
    body.extend_from_slice(DONE);
    event_stream(Body::from(body))
}
