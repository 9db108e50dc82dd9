//! `POST /v1/chat/completions`: a request's way from its body to its answer.
//!
//! parse, pin a generation, resolve the category as far as the request says it, tokenise, hear the gate where it has a say, then one
//! of: refuse without a forward pass; run and stream; run and collect.

mod admission;
mod collect;
mod frames;
mod meter;
mod pending;
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
use skeg_model::engine::SteeringReport;

use crate::auth::Caller;
use crate::errors::ApiError;
use crate::evidence::{ChoiceKind, GenerationFacts, SteeringEvidence, add_headers};
use crate::gate::MidAnswer;
use crate::layers::{Payload, RequestId};
use crate::models::check_name;
use crate::resolve::{Resolution, Resolved, read_header, resolve_under};
use crate::state::App;
use crate::steering::rules;
use crate::wire::ChatRequest;

use pending::Pending;
use record::Record;
use sequences::{Sequences, Update};

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
    /// What a choice says of itself: `found` is what a look at its answer changed.
    fn evidence(
        &self,
        kind: ChoiceKind,
        report: &SteeringReport,
        found: Option<&MidAnswer>,
    ) -> SteeringEvidence {
        let (resolution, facts) =
            found.map_or((&self.resolution, &self.facts), |one| (&one.resolution, &one.facts));
        SteeringEvidence {
            steered_from: found.and_then(MidAnswer::steered_from),
            ..SteeringEvidence::new(resolution, facts, kind, report)
        }
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
    let has_gate = live.attached.probe.is_some() || app.classifier.is_some();
    let rules = rules(&live.generation.policy, &caller.group, has_gate);
    let resolved = resolve_under(app.overridden(), header.as_deref(), &request.steering, &rules)?;
    let so_far = match &resolved {
        Resolved::Now(resolution) => resolution.clone(),
        Resolved::Gated(gated) => gated.unsettled(&rules)?,
    };
    let generation = live.generation.id.to_string();
    let mut record = Record::new(&app, request_id.0, caller, so_far, generation.clone());

    let messages = std::mem::take(&mut request.messages);
    let pending = Pending { app: &app, live, rules, request: &request, started };
    let (answer, timing, ready) = match pending.ready(messages, resolved, &mut record).await {
        Ok(ready) => ready,
        Err(error) => {
            record.failed(&error);
            return Err(error);
        }
    };
    let mut resolution = answer.resolution.clone();
    let mut steered_from = None;
    let mut response = match ready {
        Ready::Refusal(text) => refusal::respond(&answer, &request, text, record, timing),
        Ready::Running(sequences, first) if request.stream => {
            stream::respond(answer, request.include_usage, *sequences, first, record)
        }
        Ready::Running(sequences, first) => {
            let (response, found) =
                collect::respond(&answer, *sequences, first, record, timing).await?;
            if let Some(found) = found {
                resolution = found.resolution.clone();
                steered_from = found.steered_from();
            }
            response
        }
    };
    add_headers(response.headers_mut(), &resolution, &generation);
    if let Some(token) = steered_from {
        response.headers_mut().insert("x-steering-from", token.into());
    }
    Ok(response)
}

/// What is to be written.
enum Ready {
    Refusal(String),
    Running(Box<Sequences>, Option<Update>),
}
