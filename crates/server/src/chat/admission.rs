//! From a valid request to sequences in the engine.

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use skeg_model::engine::{Gate, GenerationRequest, SubmitError};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{SlotLease, SteeringPlan};

use super::meter::Meter;
use super::sequences::{Sequences, Spec};
use crate::errors::ApiError;
use crate::evidence::ChoiceKind;
use crate::gate::{ChoiceGate, Noted, RequestGate};
use crate::state::App;
use crate::wire::ChatRequest;

/// Tokens the answer may have: what was asked for, or what the context leaves.
pub(super) fn max_new_tokens(
    app: &App,
    request: &ChatRequest,
    prompt_tokens: usize,
) -> Result<usize, ApiError> {
    let room = app.max_model_len.saturating_sub(prompt_tokens);
    let wanted = request.max_tokens.unwrap_or_else(|| room.max(1));
    if prompt_tokens > 0 && wanted <= room && request.sampling.min_new_tokens <= wanted {
        return Ok(wanted);
    }
    let message = format!(
        "the prompt has {prompt_tokens} tokens and {} are asked for the answer; the context has {} for both",
        wanted.max(request.sampling.min_new_tokens),
        app.max_model_len
    );
    Err(ApiError::bad_request("context_length_exceeded", "messages", message))
}

/// Refuses a comparison of several choices: it has two answers already.
pub(super) fn check_one_choice(request: &ChatRequest) -> Result<(), ApiError> {
    if request.num_choices == 1 {
        return Ok(());
    }
    Err(ApiError::invalid("n", "`n` must be 1 where `steering.compare` is true"))
}

/// What is asked of the sequences beside the request's own words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// An unsteered choice beside the steered one.
    pub(super) compare: bool,
    /// Longest answer, in tokens.
    pub(super) max_new_tokens: usize,
}

/// What steers the sequences of a request.
pub(super) enum Steering {
    None,
    Planned((SteeringPlan, SlotLease)),
    /// What the gate says, of every choice.
    Gated(Arc<RequestGate>),
}

impl From<Option<(SteeringPlan, SlotLease)>> for Steering {
    fn from(plan: Option<(SteeringPlan, SlotLease)>) -> Self {
        plan.map_or(Self::None, Self::Planned)
    }
}

/// Hands in one sequence a choice: `n` of them with seeds that follow each other, or for a comparison an unsteered
/// and a steered one with the same seed.
pub(super) fn submit(
    app: &App,
    request: &ChatRequest,
    prompt: &[u32],
    asked: Asked,
    steering: &Steering,
    arrived: Instant,
) -> Result<Sequences, ApiError> {
    let Asked { compare, max_new_tokens } = asked;
    let kinds = if compare {
        check_one_choice(request)?;
        vec![ChoiceKind::Comparison, ChoiceKind::Resolved]
    } else {
        vec![ChoiceKind::Resolved; request.num_choices]
    };
    let noted: Vec<Noted> = kinds.iter().map(|_| Noted::default()).collect();
    let meter = || Meter::new(app.operations.sequences.clone(), arrived, prompt.len());
    let spec = Spec {
        tokenizer: Arc::clone(&app.tokenizer),
        stop: request.stop.clone(),
        // A stop token ends the answer and gives no text; with `ignore_eos` it is a token like any other.
        stop_token_ids: if request.sampling.ignore_eos {
            Vec::new()
        } else {
            app.stop_token_ids.clone()
        },
        max_new_tokens,
        logprobs: request.sampling.logprobs,
        steered: !matches!(steering, Steering::None),
        kinds: kinds.clone(),
        noted: noted.clone(),
    };
    let (mut sequences, sinks) = Sequences::new(spec, meter);
    for (((idx, kind), noted), sink) in (0_u64..).zip(kinds).zip(noted).zip(sinks) {
        let seed_step = if compare { 0 } else { idx };
        let sequence = GenerationRequest {
            prompt_token_ids: prompt.to_vec(),
            sampling: SamplingParams {
                seed: request.sampling.seed.wrapping_add(seed_step),
                ..request.sampling.clone()
            },
            max_new_tokens,
            stop_token_ids: app.stop_token_ids.clone(),
            steering: match (kind, steering) {
                (ChoiceKind::Resolved, Steering::Planned(plan)) => Some(plan.clone()),
                _ => None,
            },
            gate: match steering {
                Steering::Gated(gate) => {
                    Some(Arc::new(ChoiceGate::new(Arc::clone(gate), noted)) as Arc<dyn Gate>)
                }
                Steering::None | Steering::Planned(_) => None,
            },
        };
        // On an error the receiver is dropped with `sequences`, which cancels the ones handed in before.
        app.engine.submit(sequence, sink).map_err(|error| submit_error(app, error))?;
    }
    sequences.seal();
    Ok(sequences)
}

/// What a client is told when the engine does not take a command.
fn submit_error(app: &App, error: SubmitError) -> ApiError {
    match error {
        SubmitError::Overloaded { .. } => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "overloaded",
            "the server is at its limit of requests; try again later",
        ),
        SubmitError::Stopped => ApiError::not_ready(app.reason_stopped()),
        SubmitError::Refused(error) => ApiError::internal(error.to_string()),
    }
}
