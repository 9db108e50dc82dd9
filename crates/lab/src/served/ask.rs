//! One prompt under one arm: the request, and what its answer says.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};
use skeg_model::ChatMessage;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};

use super::arm::ServedArm;
use super::set::ServedPrompt;
use crate::error::{Error, Result};
use crate::judge::{EndpointClient, EndpointOptions, NoReply, Reply};

const CATEGORY: HeaderName = HeaderName::from_static("x-safety-category");
const SOURCE: HeaderName = HeaderName::from_static("x-safety-category-source");
const CLASSIFIER: HeaderName = HeaderName::from_static("x-safety-classifier");
const OVERRIDE: HeaderName = HeaderName::from_static("x-steering-override");
/// What the category header of an answer says that was not steered.
const NONE: &str = "none";

/// An answer, as far as it is looked at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Served {
    pub(super) text: String,
    /// The policy's own words, without the model.
    pub(super) is_refused_by_policy: bool,
    pub(super) first_token: Option<FirstToken>,
    /// What it was steered as, or would have been in shadow mode.
    pub(super) categories: Vec<String>,
    /// From sending to the last byte.
    pub(super) seconds: f64,
}

/// The first token of an answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct FirstToken {
    token: String,
    logprob: f64,
}

impl FirstToken {
    /// The same token with the same log-probability, to the last bit.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.token == other.token && self.logprob.to_bits() == other.logprob.to_bits()
    }
}

/// Asks one server.
#[derive(Debug)]
pub(super) struct Asker {
    client: EndpointClient,
    model: String,
    max_tokens: u32,
}

impl Asker {
    pub(super) fn new(options: &EndpointOptions) -> Result<Self> {
        Ok(Self {
            client: EndpointClient::at(options, "chat/completions")?,
            model: options.model.clone(),
            max_tokens: options.max_tokens,
        })
    }

    /// The answer; `None` where the arm has no category for the prompt, or one that the server does not know.
    pub(super) fn ask(
        &self,
        set: &str,
        prompt: &ServedPrompt,
        arm: &ServedArm,
    ) -> Result<Option<Served>> {
        let Some(category) = arm.category(prompt) else { return Ok(None) };
        let unanswered = |reason: String| Error::Unanswered {
            id: format!("{set}/{}", prompt.id),
            reason: format!("under arm `{arm}` {} {reason}", self.client.url()),
        };
        let value = HeaderValue::try_from(category)
            .map_err(|_| unanswered("cannot be asked: the category is no header".to_owned()))?;
        let headers = HeaderMap::from_iter([(CATEGORY, value)]);
        let body = self.body(&arm.messages(prompt));
        let started = Instant::now();
        let reply = self.client.reply(&body, &headers);
        let seconds = started.elapsed().as_secs_f64();
        match reply {
            Ok(reply) => Ok(Some(read(&reply, arm, seconds).map_err(unanswered)?)),
            Err(NoReply::Refused { code: Some(code), .. })
                if *arm == ServedArm::Oracle && code == "unknown_category" =>
            {
                Ok(None)
            }
            Err(no_reply) => Err(unanswered(words(&no_reply))),
        }
    }

    fn body(&self, messages: &[ChatMessage]) -> Value {
        let message =
            |message: &ChatMessage| json!({"role": message.role, "content": message.content});
        json!({
            "model": self.model,
            "messages": messages.iter().map(message).collect::<Vec<_>>(),
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "logprobs": true,
            "top_logprobs": 1,
            "stream": false,
        })
    }
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<FirstToken>>,
}

/// What an answer says, or why it is not what the arm asked for.
fn read(reply: &Reply, arm: &ServedArm, seconds: f64) -> Result<Served, String> {
    let header = |name: HeaderName| reply.headers.get(name).and_then(|value| value.to_str().ok());
    let Some(category) = header(CATEGORY) else {
        return Err(format!(
            "answered without the header {CATEGORY}; give the address of a server that steers, not of a proxy that drops it"
        ));
    };
    if header(OVERRIDE).is_some() {
        return Err(
            "answered under an operator's override, which goes before every category; ask again when it is lifted"
                .to_owned(),
        );
    }
    if header(CLASSIFIER).is_some() {
        return Err(
            "answered without a verdict, as its `on_failure` says; see to its classifier and ask again"
                .to_owned(),
        );
    }
    check(header(SOURCE).unwrap_or_default(), category, arm)?;
    let completion: Option<Completion> = serde_json::from_str(&reply.text).ok();
    let choice = completion.and_then(|completion| completion.choices.into_iter().next());
    let Some(Choice { message, logprobs }) = choice else {
        return Err(
            "gave something else than a chat completion; see that address and model are right"
                .to_owned(),
        );
    };
    let is_refused_by_policy = message.refusal.is_some();
    let text = message.content.or(message.refusal).unwrap_or_default();
    let first_token = logprobs.and_then(|logprobs| logprobs.content?.into_iter().next());
    let categories = category.split(',').map(str::trim).filter(|&slug| slug != NONE);
    let categories = categories.map(ToOwned::to_owned).collect();
    Ok(Served { text, is_refused_by_policy, first_token, categories, seconds })
}

/// Refuses an answer whose category was chosen otherwise than the arm says.
fn check(source: &str, category: &str, arm: &ServedArm) -> Result<(), String> {
    let expected = if *arm == ServedArm::Auto { "auto" } else { "header" };
    let is_unsteered = matches!(arm, ServedArm::Unsteered | ServedArm::SafetyPrompt);
    if source == expected && (!is_unsteered || category == NONE) {
        return Ok(());
    }
    Err(format!(
        "chose the category otherwise (source `{source}`, expected `{expected}`); where the policy has `when_missing = \"auto\"`, \
         ask with a key whose group has `may_none` and `may_lower`"
    ))
}

/// What the server did, and what to do.
fn words(no_reply: &NoReply) -> String {
    let (status, code) = match no_reply {
        NoReply::Failed(reason) => {
            return format!("{reason}; see that the server runs, and that the address is right");
        }
        NoReply::Refused { status, code } => (status, code.as_deref()),
    };
    let advice = match (code, status.as_u16()) {
        (Some("auto_unavailable"), _) => {
            "it has nobody to find categories; publish a probe (`skeg vectors publish --probe`), see that --classifier is not `off`, or \
             leave the arm out"
        }
        (Some("auto_abstained"), _) => {
            "its policy refuses what the probe is not sure of; set `on_abstain` to `none` or a category, or drop the abstain band"
        }
        (Some("unknown_category"), _) => "its policy has no such category; name one that it has",
        (Some("model_not_found"), _) => {
            "it serves no model of that name; leave the name out, or give one that it serves"
        }
        (Some("context_length_exceeded"), _) => {
            "prompt and answer do not fit its context; ask for fewer tokens, or leave the prompt out of the set"
        }
        (_, 401) => "it wants a key, or another one",
        (_, 403) => {
            "the key's group may not ask this; it needs `may_none`, and every category that is asked"
        }
        (_, 404) => "no such path; give the address up to /v1",
        (_, 429) => "it is at its limit; ask with fewer clients",
        (_, 500..) => {
            "see its log and /health/ready, and run the same command again when it serves"
        }
        _ => "it does not take the request; see its log for the reason",
    };
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    format!("answered {status}{code}: {advice}")
}

#[cfg(test)]
mod tests {
    use ureq::http::StatusCode;

    use super::*;

    #[test]
    fn what_a_refusal_calls_for_is_said() {
        let said = |status: u16, code: Option<&str>| {
            let status = StatusCode::from_u16(status).unwrap();
            words(&NoReply::Refused { status, code: code.map(ToOwned::to_owned) })
        };
        assert_eq!(
            said(503, Some("steering_unavailable")),
            "answered 503 Service Unavailable (steering_unavailable): see its log and /health/ready, and run the same command \
             again when it serves"
        );
        assert!(said(400, Some("auto_unavailable")).contains("skeg vectors publish --probe"));
        assert!(said(400, Some("context_length_exceeded")).contains("do not fit"));
        assert!(said(403, Some("steering_required")).contains("may_none"));
        assert!(said(429, None).contains("fewer clients"));
        assert!(said(400, None).contains("see its log"));
        assert!(words(&NoReply::Failed("is away".to_owned())).starts_with("is away; see that"));
    }

    #[test]
    fn an_arm_is_answered_as_it_asks() {
        let one: ServedArm = "one:fraud".parse().unwrap();
        for (source, category, arm) in [
            ("header", "none", &ServedArm::Unsteered),
            ("header", "none", &ServedArm::SafetyPrompt),
            ("header", "fraud", &one),
            ("auto", "none", &ServedArm::Auto),
            ("auto", "fraud,privacy", &ServedArm::Auto),
        ] {
            assert_eq!(check(source, category, arm), Ok(()), "{arm}");
        }
        for (source, category, arm) in [
            ("auto", "fraud,privacy", &one),
            ("header", "fraud", &ServedArm::Unsteered),
            ("default", "none", &ServedArm::Auto),
        ] {
            assert!(check(source, category, arm).unwrap_err().contains("may_lower"), "{arm}");
        }
    }
}
