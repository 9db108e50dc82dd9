//! `POST /v1/chat/completions`: a request's way from its body to its answer.
//!
//! parse, pin a generation, resolve the category, tokenise, then one of: refuse without a forward pass; run and
//! stream; run and collect.

mod admission;
mod collect;
mod frames;
mod meter;
mod record;
mod refusal;
mod sequences;
mod stream;
mod timing;

use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use skeg_model::ChatMessage;
use skeg_model::engine::SteeringReport;

use crate::auth::Caller;
use crate::errors::ApiError;
use crate::evidence::{ChoiceKind, GenerationFacts, SteeringEvidence, add_headers};
use crate::layers::{Payload, RequestId};
use crate::models::check_name;
use crate::resolve::{Decision, Resolution, read_header, resolve_under};
use crate::state::{App, unix_time};
use crate::steering::{facts, rules};
use crate::wire::ChatRequest;

use record::Record;
use timing::Timing;

/// What stays the same for every choice and frame of one answer.
#[derive(Debug)]
struct Answer {
    /// OpenAI's `chatcmpl-...`; the request id is in a header.
    id: String,
    created: u64,
    model: String,
    prompt_tokens: usize,
    resolution: Resolution,
    facts: GenerationFacts,
}

impl Answer {
    fn evidence(&self, kind: ChoiceKind, report: &SteeringReport) -> SteeringEvidence {
        SteeringEvidence::new(&self.resolution, &self.facts, kind, report)
    }
}

pub(crate) async fn completions(
    State(app): State<App>,
    caller: Caller,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    Payload(body): Payload,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    if let Some(reason) = app.reason_not_ready() {
        return Err(ApiError::not_ready(reason));
    }
    let header = read_header(&headers)?;
    let mut request = ChatRequest::parse(&body, &app.request_limits())?;
    drop(body);
    if let Some(model) = &request.model {
        check_name(&app, model)?;
    }
    // The pin: everything below, to the last token, is of this generation, under the override of this moment.
    let live = app.store.current();
    let rules = rules(&live.generation.policy, &caller.group);
    let resolution = resolve_under(app.overridden(), header.as_deref(), &request.steering, &rules)?;
    let facts = facts(&live.generation, &resolution);
    let mut record = Record::new(&app, request_id.0, caller, resolution.clone(), facts.id.clone());

    let outcome = async {
        let prompt = encode(&app, std::mem::take(&mut request.messages)).await?;
        let max_new_tokens = admission::max_new_tokens(&app, &request, prompt.len())?;
        let answer = Answer {
            id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
            created: unix_time().as_secs(),
            model: app.model_name().to_owned(),
            prompt_tokens: prompt.len(),
            resolution,
            facts,
        };
        if let Decision::Refuse(text) = &answer.resolution.decision {
            let text = text.clone();
            let timing = Timing { started, validated: Instant::now() };
            return Ok((answer, timing, Ready::Refusal(text)));
        }
        let plan = crate::steering::plan(&app, &live, &answer.resolution).await?;
        let timing = Timing { started, validated: Instant::now() };
        let mut sequences =
            admission::submit(&app, &request, &prompt, max_new_tokens, plan.as_ref(), started)?;
        // The first event is waited for, so that what the engine refuses has a status of its own.
        let first = sequences.next().await.map_err(|lost| lost.into_error())?;
        Ok((answer, timing, Ready::Running(Box::new(sequences), first)))
    };
    let (answer, timing, ready) = match outcome.await {
        Ok(ready) => ready,
        Err(error) => {
            record.failed(&error);
            return Err(error);
        }
    };
    let (resolution, generation) = (answer.resolution.clone(), answer.facts.id.clone());
    let mut response = match ready {
        Ready::Refusal(text) => refusal::respond(&answer, &request, text, record, timing),
        Ready::Running(sequences, first) if request.stream => {
            stream::respond(answer, request.include_usage, *sequences, first, record)
        }
        Ready::Running(sequences, first) => {
            collect::respond(&answer, *sequences, first, record, timing).await?
        }
    };
    add_headers(response.headers_mut(), &resolution, &generation);
    Ok(response)
}

/// What is to be written.
enum Ready {
    Refusal(String),
    Running(Box<sequences::Sequences>, Option<sequences::Update>),
}

/// Renders and tokenises the conversation off the async threads: both cost in proportion to the text.
async fn encode(app: &App, messages: Vec<ChatMessage>) -> Result<Vec<u32>, ApiError> {
    let app = app.clone();
    let encoded = tokio::task::spawn_blocking(move || {
        let template = app.chat_template.as_ref().ok_or_else(|| {
            let message = "this model has no chat template, so it cannot take messages";
            ApiError::bad_request("chat_template_missing", "messages", message)
        })?;
        let text = template.render(&messages, true).map_err(|error| {
            ApiError::bad_request("chat_template_refused", "messages", error.to_string())
        })?;
        // The template writes the special tokens itself.
        let ids = app
            .tokenizer
            .encode(&text, false)
            .map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(ids)
    });
    encoded.await.map_err(|error| ApiError::internal(format!("tokenising: {error}")))?
}
