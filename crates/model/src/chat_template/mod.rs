//! A model's chat template: messages to the text the model was trained on.
//!
//! The Jinja dialect of transformers' `apply_chat_template`: `trim_blocks` and `lstrip_blocks`, Python's string
//! methods, loop controls, `raise_exception`, `strftime_now` and a `tojson` that does not escape HTML. Not there: the
//! `generation` tag. Templates come from the hub and messages from anyone, so a rendering may use only a bounded
//! number of steps and of bytes.

mod environment;
mod source;
mod strftime;

use std::collections::BTreeMap;

use minijinja::{Environment, Value};
use serde::Serialize;

use crate::{Error, Result};

/// The only template in the environment.
const NAME: &str = "chat_template";

/// Longest template source in bytes; the longest published ones have about 30 000.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`; the template decides what it takes.
    pub role: String,
    /// The text; special tokens in it are not escaped, as in transformers.
    pub content: String,
}

/// A template that is compiled once and rendered for every request.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Compiles `source`. `bos` and `eos` are the strings that templates name `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when the source is longer than 1 MiB or is not valid.
    pub fn compile(source: &str, bos: Option<String>, eos: Option<String>) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::ChatTemplate(format!(
                "the template has {} bytes; at most {MAX_SOURCE_BYTES} are accepted",
                source.len()
            )));
        }
        let mut environment = environment::environment()?;
        environment.add_template_owned(NAME, source.to_owned()).map_err(|cause| {
            Error::ChatTemplate(format!("the model's template does not compile: {cause}"))
        })?;
        Ok(Self { environment, bos_token: bos, eos_token: eos })
    }

    /// The text for `messages`; encode it with `add_special_tokens = false`.
    ///
    /// `add_generation_prompt` ends it with the beginning of an assistant's message.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with the template's own words when it refuses the messages (an unknown role, two
    /// user messages in a row), and when the rendering takes more steps or bytes than allowed.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        let failed = |cause: minijinja::Error| Error::ChatTemplate(describe(&cause));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        // None, not absent: transformers passes both, and templates ask `tools is not none`.
        let mut context = BTreeMap::from([
            ("messages", messages.iter().map(message_value).collect()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ]);
        // Absent, not None: an absent one prints as nothing.
        let tokens = [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)];
        for (name, token) in tokens {
            if let Some(token) = token {
                context.insert(name, Value::from(token.as_str()));
            }
        }
        template.render(Value::from(context)).map_err(failed)
    }

    /// The error for a request in chat form to a model whose files hold no template.
    #[must_use]
    pub fn missing() -> Error {
        Error::ChatTemplate(
            "the model's files hold none (`tokenizer.chat_template` in GGUF, `chat_template` in \
             tokenizer_config.json, or chat_template.jinja); use an instruction-tuned model, or put its \
             chat_template.jinja beside its files"
                .to_owned(),
        )
    }
}

fn message_value(message: &ChatMessage) -> Value {
    Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
}

/// What went wrong, in the template's own words where it raised the error itself.
fn describe(error: &minijinja::Error) -> String {
    use std::error::Error as _;
    let raised = error.source().and_then(|source| source.downcast_ref::<environment::Raised>());
    match raised {
        Some(raised) => format!("the template refused the messages: {}", raised.0),
        None if error.kind() == minijinja::ErrorKind::OutOfFuel => format!(
            "rendering took more than {} steps; shorten the conversation",
            environment::FUEL
        ),
        None => format!("rendering failed: {error}"),
    }
}

#[cfg(test)]
mod tests;
