//! The conversation: OpenAI's messages to the plain role and text a chat template takes.

use serde_json::{Map, Value};
use skeg_model::ChatMessage;

use crate::errors::ApiError;

/// Text between two parts of one message (as vLLM joins them).
const PART_SEPARATOR: &str = "\n";

/// Reads `messages`. `developer` is what newer OpenAI models call `system`; open models' templates know the latter.
///
/// The number of messages and the bytes of text in all are bounded: rendering and tokenising cost in
/// proportion, before the context's length can be checked.
pub(crate) fn parse_messages(
    value: Option<Value>,
    max_messages: usize,
    max_text_bytes: usize,
) -> Result<Vec<ChatMessage>, ApiError> {
    let Some(Value::Array(items)) = value else {
        return Err(ApiError::bad_request(
            "missing_required_parameter",
            "messages",
            "`messages` must be a list with at least one message",
        ));
    };
    if items.is_empty() || items.len() > max_messages {
        let message =
            format!("`messages` has {} messages; 1 to {max_messages} are taken", items.len());
        return Err(ApiError::invalid("messages", message));
    }
    let messages = items
        .into_iter()
        .enumerate()
        .map(|(idx, item)| parse_message(idx, item))
        .collect::<Result<Vec<_>, _>>()?;
    let text_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    if text_bytes > max_text_bytes {
        let message = format!(
            "`messages` holds {text_bytes} bytes of text; at most {max_text_bytes} are taken"
        );
        return Err(ApiError::bad_request("context_length_exceeded", "messages", message));
    }
    Ok(messages)
}

fn parse_message(idx: usize, item: Value) -> Result<ChatMessage, ApiError> {
    let Value::Object(mut message) = item else {
        return Err(invalid(idx, "", "a message must be an object with `role` and `content`"));
    };
    let role = match message.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") => "tool",
        _ => {
            let allowed = "`role` must be one of system, developer, user, assistant, tool";
            return Err(invalid(idx, ".role", allowed));
        }
    };
    for field in ["tool_calls", "function_call", "audio", "name"] {
        let given = message
            .get(field)
            .is_some_and(|value| !value.is_null() && *value != Value::Array(Vec::new()));
        if given {
            return Err(ApiError::unsupported(format!("messages[{idx}].{field}")));
        }
    }
    Ok(ChatMessage { role: role.to_owned(), content: parse_content(idx, role, &mut message)? })
}

fn parse_content(
    idx: usize,
    role: &str,
    message: &mut Map<String, Value>,
) -> Result<String, ApiError> {
    match message.remove("content") {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let parts = parts
                .iter()
                .enumerate()
                .map(|(at, part)| parse_part(idx, at, part))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(parts.join(PART_SEPARATOR))
        }
        // An earlier refusal that the client sends back as it came.
        None | Some(Value::Null) if role == "assistant" => match message.remove("refusal") {
            Some(Value::String(text)) => Ok(text),
            _ => Err(invalid(idx, ".content", "`content` is missing")),
        },
        _ => Err(invalid(idx, ".content", "`content` must be a string or a list of text parts")),
    }
}

fn parse_part(idx: usize, at: usize, part: &Value) -> Result<String, ApiError> {
    let field = match part.get("type").and_then(Value::as_str) {
        Some("text") => "text",
        Some("refusal") => "refusal",
        Some("image_url" | "input_audio" | "file" | "video_url") => {
            return Err(ApiError::unsupported(format!("messages[{idx}].content[{at}].type")));
        }
        _ => {
            return Err(invalid(
                idx,
                &format!(".content[{at}].type"),
                "a part's `type` must be `text`",
            ));
        }
    };
    part.get(field).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        invalid(
            idx,
            &format!(".content[{at}].{field}"),
            "a text part must have its text as a string",
        )
    })
}

fn invalid(idx: usize, field: &str, message: &str) -> ApiError {
    ApiError::invalid(format!("messages[{idx}]{field}"), format!("messages[{idx}]: {message}"))
}
