//! From texts to token ids, and to the rows of each input that are averaged.

use std::ops::Range;

use skeg_model::{ChatMessage, ChatTemplate, LoadedModel, Tokenizer};

use super::spec::{ExtractSpec, PromptForm, Text, TokenMode};
use crate::error::{Error, Result};

/// The side of a difference an input is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Subtracted.
    Unsafe,
    /// Added.
    Safe,
}

/// One input as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedInput {
    /// Index of its category in [`ExtractSpec::categories`].
    pub category_idx: usize,
    /// Its side.
    pub side: Side,
    /// Its index on that side; even and odd ones form the halves of the split-half cosine.
    pub idx: usize,
    /// The tokens, at least one.
    pub token_ids: Vec<u32>,
    /// The rows that are averaged; not empty, within `token_ids`.
    pub rows: Range<usize>,
}

impl EncodedInput {
    /// Joins prompt and response tokens and chooses rows by `tokens`; `None` when there is no such row.
    #[must_use]
    pub fn new(
        (category_idx, side, idx): (usize, Side, usize),
        prompt_token_ids: &[u32],
        response_token_ids: &[u32],
        tokens: TokenMode,
    ) -> Option<Self> {
        let token_ids = [prompt_token_ids, response_token_ids].concat();
        let (prompt_len, total) = (prompt_token_ids.len(), token_ids.len());
        let rows = match tokens {
            TokenMode::All => 0..total,
            TokenMode::Prompt => 0..prompt_len,
            TokenMode::Response => prompt_len..total,
            TokenMode::Last => total.checked_sub(1)?..total,
        };
        (!rows.is_empty()).then_some(Self { category_idx, side, idx, token_ids, rows })
    }
}

/// Renders and tokenises every input: category by category, the unsafe side first, in the spec's order.
///
/// Prompt and response are tokenised apart and joined, as they are when a model answers.
///
/// # Errors
/// [`Error::Spec`] when the spec does not hold together or an input is longer than the model's
/// context, [`Error::Model`] when the model has no chat template or a text cannot be tokenised.
pub fn encode(model: &LoadedModel, spec: &ExtractSpec) -> Result<Vec<EncodedInput>> {
    spec.check()?;
    let max_tokens = model.llama.config().max_position_embeddings;
    let text_side = (&model.tokenizer, model.chat_template.as_ref());
    let mut inputs = Vec::new();
    for (category_idx, category) in spec.categories.iter().enumerate() {
        let sides = [(Side::Unsafe, &category.unsafe_side), (Side::Safe, &category.safe_side)];
        for (side, texts) in sides {
            for (idx, text) in texts.iter().enumerate() {
                let prompt = prompt_token_ids(text_side, spec.prompt_form, &text.prompt)?;
                let mut response = match &text.response {
                    Some(response) => model.tokenizer.encode(response, false)?,
                    None => Vec::new(),
                };
                response.truncate(spec.max_response_tokens.unwrap_or(usize::MAX));
                let place = (category_idx, side, idx);
                let input = EncodedInput::new(place, &prompt, &response, spec.tokens)
                    .ok_or_else(|| no_row(text, spec.tokens))?;
                if input.token_ids.len() > max_tokens {
                    return Err(Error::Spec(format!(
                        "`{}` of category `{}` has {} tokens; the model's context is {max_tokens}",
                        text.id,
                        category.category,
                        input.token_ids.len()
                    )));
                }
                inputs.push(input);
            }
        }
    }
    Ok(inputs)
}

fn no_row(text: &Text, tokens: TokenMode) -> Error {
    Error::Spec(format!("`{}` has no token that token mode `{tokens}` would read", text.id))
}

/// A prompt as the model is served it.
///
/// # Errors
/// [`Error::Model`] when a template is asked for and missing, or the text cannot be tokenised.
pub(crate) fn prompt_token_ids(
    text_side: (&Tokenizer, Option<&ChatTemplate>),
    form: PromptForm,
    prompt: &str,
) -> Result<Vec<u32>> {
    messages_token_ids(text_side, form, None, prompt)
}

/// The same after a system message; without a template the message stands before the prompt as a paragraph.
///
/// # Errors
/// As [`prompt_token_ids`].
pub(crate) fn messages_token_ids(
    (tokenizer, chat_template): (&Tokenizer, Option<&ChatTemplate>),
    form: PromptForm,
    system: Option<&str>,
    prompt: &str,
) -> Result<Vec<u32>> {
    match form {
        PromptForm::Raw => {
            let before = system.map(|system| format!("{system}\n\n")).unwrap_or_default();
            Ok(tokenizer.encode(&format!("{before}{prompt}"), true)?)
        }
        PromptForm::ChatTemplate => {
            let template = chat_template.ok_or_else(|| {
                Error::Spec("the model has no chat template; use the raw prompt form".to_owned())
            })?;
            let message = |role: &str, content: &str| ChatMessage {
                role: role.to_owned(),
                content: content.to_owned(),
            };
            let mut messages: Vec<ChatMessage> =
                system.map(|system| message("system", system)).into_iter().collect();
            messages.push(message("user", prompt));
            let rendered = template.render(&messages, true)?;
            Ok(tokenizer.encode(&rendered, false)?)
        }
    }
}
