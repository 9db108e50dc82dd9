//! The answer that is not streamed: every choice to its end, then one JSON object.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use skeg_model::engine::SteeringReport;

use super::Answer;
use super::record::Record;
use super::sequences::{End, Sequences, Update};
use super::timing::Timing;
use crate::errors::ApiError;
use crate::evidence::ChoiceKind;
use crate::gate::MidAnswer;
use crate::wire::{ChatCompletion, Choice, ChoiceLogprobs, Message, TokenLogprobEntry, Usage};

#[derive(Default)]
struct Collected {
    text: String,
    logprobs: Vec<TokenLogprobEntry>,
    end: Option<End>,
}

/// The answer, and the strictest of what looks at its choices changed.
pub(super) async fn respond(
    answer: &Answer,
    mut sequences: Sequences,
    first: Option<Update>,
    mut record: Record,
    timing: Timing,
) -> Result<(Response, Option<Arc<MidAnswer>>), ApiError> {
    let mut choices: Vec<Collected> =
        (0..sequences.num_choices()).map(|_| Collected::default()).collect();
    let mut next = first;
    while let Some(update) = next {
        record.took(&sequences);
        let choice = &mut choices[update.index];
        choice.text.push_str(&update.text);
        choice.logprobs.extend(update.logprob);
        if update.end.is_some() {
            choice.end = update.end;
        }
        next = sequences.next().await.map_err(|lost| {
            let error = lost.into_error();
            record.failed(&error);
            error
        })?;
    }
    let completion_tokens = sequences.completion_tokens();
    let with_logprobs = sequences.with_logprobs();
    let choices = choices.into_iter().enumerate();
    let choices =
        choices.map(|(index, choice)| finished(answer, index, choice, with_logprobs)).collect();
    let completion = completion(answer, choices, completion_tokens);
    let mut response = Json(completion).into_response();
    timing.add_headers(response.headers_mut(), answer.prompt_tokens, completion_tokens);
    record.finished();
    Ok((response, sequences.strictest_found()))
}

/// The object around the choices.
pub(super) fn completion(
    answer: &Answer,
    choices: Vec<Choice>,
    completion_tokens: usize,
) -> ChatCompletion<'_> {
    ChatCompletion {
        id: &answer.id,
        object: "chat.completion",
        created: answer.created,
        model: &answer.model,
        choices,
        usage: Usage::new(answer.prompt_tokens, completion_tokens),
    }
}

fn finished(answer: &Answer, index: usize, choice: Collected, with_logprobs: bool) -> Choice {
    // Every choice has ended when there is no further update.
    let end = choice.end.unwrap_or(End {
        kind: ChoiceKind::Resolved,
        finish_reason: "length",
        report: SteeringReport::default(),
        found: None,
    });
    let found = end.found.as_deref();
    let steering = answer.evidence(end.kind, &end.report, found);
    // Nothing of an answer that policy refuses is given where all of it is still here.
    let (content, tokens, refusal) = match found.and_then(MidAnswer::refusal) {
        Some(refusal) => (None, Vec::new(), Some(refusal.to_owned())),
        None => (Some(choice.text), choice.logprobs, None),
    };
    Choice {
        index,
        message: Message { role: "assistant", content, refusal },
        logprobs: with_logprobs.then_some(ChoiceLogprobs { content: tokens, refusal: None }),
        finish_reason: end.finish_reason,
        steering,
    }
}
