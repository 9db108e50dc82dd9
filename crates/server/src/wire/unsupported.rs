//! Fields that are known and not honoured.

use super::fields::Fields;
use crate::errors::ApiError;

/// Fields of OpenAI's and vLLM's that would change the answer, or what is said of it, if they were honoured, each
/// with the values, as JSON, that ask for nothing.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    ("tools", &["[]"]),
    ("tool_choice", &[r#""none""#, r#""auto""#]),
    ("parallel_tool_calls", &["true", "false"]),
    ("functions", &["[]"]),
    ("function_call", &[r#""none""#, r#""auto""#]),
    ("response_format", &[r#"{"type":"text"}"#]),
    ("audio", &[]),
    ("modalities", &[r#"["text"]"#]),
    ("prediction", &[]),
    ("store", &["false"]),
    ("metadata", &["{}"]),
    ("web_search_options", &[]),
    ("reasoning_effort", &[r#""none""#]),
    ("reasoning", &[]),
    ("include_reasoning", &["true", "false"]),
    ("thinking_token_budget", &[]),
    ("verbosity", &[r#""medium""#]),
    ("service_tier", &[r#""auto""#, r#""default""#]),
    ("safety_identifier", &[]),
    ("prompt_cache_key", &[]),
    ("prompt_cache_retention", &[]),
    ("best_of", &["1"]),
    ("echo", &["false"]),
    ("use_beam_search", &["false"]),
    ("early_stopping", &["false"]),
    ("length_penalty", &["1", "1.0"]),
    ("stop_token_ids", &["[]"]),
    ("include_stop_str_in_output", &["false"]),
    ("skip_special_tokens", &["true"]),
    ("spaces_between_special_tokens", &["true"]),
    ("truncate_prompt_tokens", &[]),
    ("bad_words", &["[]"]),
    ("allowed_token_ids", &[]),
    ("logits_processors", &["[]"]),
    ("prompt_logprobs", &[]),
    ("return_token_ids", &["false"]),
    ("return_tokens_as_token_ids", &["false"]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("guided_decoding_backend", &[]),
    ("guided_whitespace_pattern", &[]),
    ("structural_tag", &[]),
    ("structured_outputs", &[]),
    ("add_generation_prompt", &["true"]),
    ("add_special_tokens", &["false"]),
    ("continue_final_message", &["false"]),
    ("chat_template", &[]),
    ("chat_template_kwargs", &["{}"]),
    ("documents", &["[]"]),
    ("mm_processor_kwargs", &["{}"]),
    ("priority", &["0"]),
    ("request_id", &[]),
    ("cache_salt", &[]),
    ("kv_transfer_params", &[]),
    ("vllm_xargs", &["{}"]),
];

/// The same inside `stream_options`.
const UNSUPPORTED_STREAM_OPTIONS: &[(&str, &[&str])] =
    &[("continuous_usage_stats", &["false"]), ("include_obfuscation", &["false"])];

/// 400 naming the first field of a request that is known, not honoured, and asks for something.
pub(super) fn reject_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    reject(fields, UNSUPPORTED)
}

/// The same for `stream_options`.
pub(super) fn reject_unsupported_stream_options(options: &mut Fields) -> Result<(), ApiError> {
    reject(options, UNSUPPORTED_STREAM_OPTIONS)
}

fn reject(fields: &mut Fields, table: &[(&str, &[&str])]) -> Result<(), ApiError> {
    for (name, neutral) in table {
        let asks = |value: &serde_json::Value| !neutral.contains(&value.to_string().as_str());
        if fields.take_value(name).as_ref().is_some_and(asks) {
            return Err(ApiError::unsupported(fields.param(name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(object: Value) -> bool {
        let Value::Object(map) = object else { return true };
        reject_unsupported(&mut Fields::new(map, "")).is_err()
    }

    #[test]
    fn every_neutral_value_is_written_as_json_writes_it() {
        for (name, neutral) in UNSUPPORTED.iter().chain(UNSUPPORTED_STREAM_OPTIONS) {
            for text in *neutral {
                let value: Value = serde_json::from_str(text).unwrap();
                assert_eq!(value.to_string(), *text, "{name}");
            }
        }
    }

    #[test]
    fn every_field_is_refused_unless_it_asks_for_nothing() {
        for (name, neutral) in UNSUPPORTED {
            assert!(refused(json!({*name: "something"})), "{name}");
            assert!(!refused(json!({*name: null})), "{name}");
            for text in *neutral {
                let value: Value = serde_json::from_str(text).unwrap();
                assert!(!refused(json!({*name: value})), "{name}: {text}");
            }
        }
    }
}
