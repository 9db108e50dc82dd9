//! The body of `POST /v1/chat/completions`, parsed once into what the server works with.
//!
//! Honoured fields are checked against their range; a field of OpenAI's that is not honoured is a 400 unless it
//! says what is the case anyway; fields nobody knows are ignored, but near misses of ours are not.

use std::collections::BTreeMap;

use serde_json::Value;
use skeg_model::ChatMessage;
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::Positions;

use super::fields::Fields;
use super::unsupported::{reject_unsupported, reject_unsupported_stream_options};
use super::{OneOrMany, parse_messages};
use crate::errors::ApiError;

/// Stop strings a request may have (OpenAI's limit).
const MAX_STOPS: usize = 4;
/// Bytes of one stop string: text is searched for it with every token.
const MAX_STOP_BYTES: usize = 1024;
/// Entries of `logit_bias`: each is added to the logits with every token.
const MAX_LOGIT_BIASES: usize = 1024;
/// Alternatives reported with a token (OpenAI's limit).
const MAX_TOP_LOGPROBS: usize = 20;

/// What bounds a request before its length in tokens is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    pub(crate) max_messages: usize,
    pub(crate) max_text_bytes: usize,
    pub(crate) max_choices: usize,
    pub(crate) max_model_len: usize,
    pub(crate) vocab_size: usize,
}

/// A valid request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) sampling: SamplingParams,
    /// `None` = as much as fits the context; known once the prompt's length is.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) num_choices: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) steering: SteeringSpec,
}

/// The body's `steering` object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SteeringSpec {
    /// The names as the client wrote them; `None` = not given.
    pub(crate) category: Option<Vec<String>>,
    pub(crate) strength: Option<f32>,
    pub(crate) positions: Option<Positions>,
    pub(crate) compare: bool,
}

impl ChatRequest {
    /// Parses and checks a body.
    pub(crate) fn parse(body: &[u8], limits: &RequestLimits) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let steering = SteeringSpec::parse(&mut fields)?;
        let messages = parse_messages(
            fields.take_value("messages"),
            limits.max_messages,
            limits.max_text_bytes,
        )?;
        let max_tokens = parse_max_tokens(&mut fields, limits)?;
        let stream = fields.take::<bool>("stream")?.unwrap_or(false);
        let include_usage = parse_stream_options(&mut fields, stream)?;
        let request = Self {
            model: fields.take("model")?,
            messages,
            sampling: parse_sampling(&mut fields, max_tokens, limits)?,
            max_tokens,
            num_choices: fields.whole("n", 1..=limits.max_choices)?.unwrap_or(1),
            stop: parse_stop(&mut fields)?,
            stream,
            include_usage,
            steering,
        };
        // Names an end user for abuse reports; nothing here depends on it, and it is not logged.
        fields.take::<String>("user")?;
        reject_unsupported(&mut fields)?;
        reject_near_misses(&fields)?;
        Ok(request)
    }
}

impl SteeringSpec {
    fn parse(fields: &mut Fields) -> Result<Self, ApiError> {
        let Some(value) = fields.take_value("steering") else { return Ok(Self::default()) };
        let Value::Object(map) = value else {
            return Err(ApiError::invalid("steering", "`steering` must be an object"));
        };
        let mut fields = Fields::new(map, "steering.");
        let category = fields.take::<OneOrMany<String>>("category")?;
        let spec = Self {
            category: category.map(OneOrMany::into_vec),
            strength: fields.take("strength")?,
            positions: fields.take("positions")?,
            compare: fields.take("compare")?.unwrap_or(false),
        };
        if fields.take::<bool>("debug")?.unwrap_or(false) {
            return Err(ApiError::unsupported("steering.debug"));
        }
        if let Some(name) = fields.rest().next() {
            let message = format!(
                "`steering.{name}` is not known; `steering` takes category, strength, positions, compare"
            );
            return Err(ApiError::bad_request(
                "unknown_parameter",
                format!("steering.{name}"),
                message,
            ));
        }
        Ok(spec)
    }
}

/// `max_completion_tokens` is the newer name of `max_tokens`; both may be given if they agree.
fn parse_max_tokens(
    fields: &mut Fields,
    limits: &RequestLimits,
) -> Result<Option<usize>, ApiError> {
    // The upper end is checked with the prompt's length, where the error can say both.
    let old = fields.whole("max_tokens", 1..=usize::MAX)?;
    let new = fields.whole("max_completion_tokens", 1..=usize::MAX)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(ApiError::invalid(
            "max_completion_tokens",
            format!("`max_tokens` is {old} and `max_completion_tokens` is {new}; give one of them"),
        )),
        (old, new) => {
            let max_tokens = new.or(old);
            if let Some(max_tokens) = max_tokens.filter(|&tokens| tokens > limits.max_model_len) {
                let message = format!(
                    "{max_tokens} tokens were asked for; the context has {}, prompt included",
                    limits.max_model_len
                );
                return Err(ApiError::bad_request(
                    "context_length_exceeded",
                    "max_tokens",
                    message,
                ));
            }
            Ok(max_tokens)
        }
    }
}

fn parse_stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(value) = fields.take_value("stream_options") else { return Ok(false) };
    let Value::Object(map) = value else {
        return Err(ApiError::invalid("stream_options", "`stream_options` must be an object"));
    };
    if !stream {
        let message = "`stream_options` is only for requests with `stream: true`";
        return Err(ApiError::invalid("stream_options", message));
    }
    let mut options = Fields::new(map, "stream_options.");
    let include_usage = options.take("include_usage")?.unwrap_or(false);
    reject_unsupported_stream_options(&mut options)?;
    Ok(include_usage)
}

fn parse_sampling(
    fields: &mut Fields,
    max_tokens: Option<usize>,
    limits: &RequestLimits,
) -> Result<SamplingParams, ApiError> {
    let logprobs = fields.take::<bool>("logprobs")?.unwrap_or(false);
    let num_top_logprobs = fields.whole("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    if num_top_logprobs.is_some() && !logprobs {
        return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
    }
    let sampling = SamplingParams {
        temperature: fields.number("temperature", 0.0..=2.0, 1.0)?,
        top_p: fields.number("top_p", f32::MIN_POSITIVE..=1.0, 1.0)?,
        top_k: parse_top_k(fields)?,
        min_p: fields.number("min_p", 0.0..=1.0, 0.0)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0, 0.0)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0, 0.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.01..=100.0, 1.0)?,
        forced_token_ids: Vec::new(),
        logit_bias: parse_logit_bias(fields, limits.vocab_size)?,
        seed: fields.take::<i64>("seed")?.map_or_else(random_seed, i64::cast_unsigned),
        min_new_tokens: fields.whole("min_tokens", 0..=limits.max_model_len)?.unwrap_or(0),
        ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
        logprobs,
        num_top_logprobs: num_top_logprobs.unwrap_or(0),
    };
    if let Some(max_tokens) = max_tokens.filter(|&max| sampling.min_new_tokens > max) {
        let message =
            format!("`min_tokens` is {} and `max_tokens` {max_tokens}", sampling.min_new_tokens);
        return Err(ApiError::invalid("min_tokens", message));
    }
    Ok(sampling)
}

/// Without a seed each request draws its own, as OpenAI and vLLM do.
fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// -1 and 0 both keep every token (vLLM).
fn parse_top_k(fields: &mut Fields) -> Result<usize, ApiError> {
    match fields.take::<i64>("top_k")? {
        None | Some(-1) => Ok(0),
        Some(top_k) => usize::try_from(top_k).map_err(|_| {
            ApiError::invalid("top_k", format!("`top_k` is {top_k}; it must be -1, 0 or positive"))
        }),
    }
}

fn parse_logit_bias(fields: &mut Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let biases = fields.take::<BTreeMap<String, f32>>("logit_bias")?.unwrap_or_default();
    if biases.len() > MAX_LOGIT_BIASES {
        let message = format!(
            "`logit_bias` has {} entries; at most {MAX_LOGIT_BIASES} are taken",
            biases.len()
        );
        return Err(ApiError::invalid("logit_bias", message));
    }
    let parse = |(id, bias): (String, f32)| {
        let known = id
            .parse::<u32>()
            .ok()
            .filter(|&id| usize::try_from(id).is_ok_and(|id| id < vocab_size));
        match known {
            Some(id) if (-100.0..=100.0).contains(&bias) => Ok((id, bias)),
            Some(_) => {
                Err(format!("the bias of token {id} is {bias}; it must be from -100 to 100"))
            }
            None => Err(format!("`{id}` is not a token id below {vocab_size}")),
        }
    };
    let biases: Result<Vec<_>, String> = biases.into_iter().map(parse).collect();
    biases.map_err(|message| ApiError::invalid("logit_bias", message))
}

fn parse_stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let stop =
        fields.take::<OneOrMany<String>>("stop")?.map(OneOrMany::into_vec).unwrap_or_default();
    if stop.len() > MAX_STOPS
        || stop.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES)
    {
        let message =
            format!("`stop` takes up to {MAX_STOPS} strings, each of 1 to {MAX_STOP_BYTES} bytes");
        return Err(ApiError::invalid("stop", message));
    }
    Ok(stop)
}

/// Top-level names that a client may write for `steering.category`.
fn reject_near_misses(fields: &Fields) -> Result<(), ApiError> {
    const NEAR_MISSES: [&str; 5] =
        ["category", "categories", "safety_category", "safety_categories", "steering_category"];
    match fields.rest().find(|name| NEAR_MISSES.contains(name)) {
        None => Ok(()),
        Some(name) => Err(ApiError::bad_request(
            "misplaced_category",
            name,
            format!(
                "`{name}` at the top level does nothing; use `steering.category` or the header `X-Safety-Category`"
            ),
        )),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
