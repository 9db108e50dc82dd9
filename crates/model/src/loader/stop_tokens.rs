//! Which tokens end a turn.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value as GgufValue;
use serde_json::Value;

use super::files::read_json;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Special tokens that end an assistant's turn in the chat formats of the implemented families.
const END_OF_TURN: [&str; 5] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>"];

/// From `generation_config.json`, else `config.json`; beside them the end-of-turn tokens of the vocabulary.
pub(crate) fn stop_tokens_from_json(folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for file in ["generation_config.json", "config.json"] {
        let path = folder.join(file);
        if !path.is_file() {
            continue;
        }
        let json = read_json(&path)?;
        if let Some(eos) = json.get("eos_token_id").filter(|eos| !eos.is_null()) {
            ids = token_ids(eos).ok_or_else(|| Error::Config {
                path,
                field: "eos_token_id".to_owned(),
                reason: format!("is {eos}; expected a token id or a list of them"),
            })?;
            break;
        }
    }
    finish(ids, tokenizer)
}

/// From a GGUF's metadata; beside them the end-of-turn tokens of the vocabulary.
pub(crate) fn stop_tokens_from_gguf(
    metadata: &HashMap<String, GgufValue>,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>> {
    let ids = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"]
        .iter()
        .filter_map(|key| metadata.get(*key)?.to_u32().ok())
        .collect();
    finish(ids, tokenizer)
}

fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match value {
        Value::Array(list) => list.iter().map(id).collect(),
        single => Some(vec![id(single)?]),
    }
}

/// Adds the vocabulary's own, sorts, and refuses a model whose answers could never end.
fn finish(mut ids: Vec<u32>, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let named = END_OF_TURN.iter().filter_map(|token| tokenizer.token_id(token));
    ids.extend(named.filter(|&id| tokenizer.is_special(id)));
    ids.extend(tokenizer.eos_token().and_then(|token| tokenizer.token_id(token)));
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err(Error::Tokenizer(
            "no token ends an answer: neither generation_config.json, config.json nor the \
             vocabulary names one"
                .to_owned(),
        ));
    }
    Ok(ids)
}
