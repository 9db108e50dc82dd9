//! What `tokenizer_config.json` adds to a tokenizer.

use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// The fields of `tokenizer_config.json` that are used; absent ones are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// The beginning-of-text token's string.
    pub bos_token: Option<String>,
    /// The end-of-text token's string.
    pub eos_token: Option<String>,
    /// The source of the chat template; of a list of named ones, the one named `default`.
    pub chat_template: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConfig {
    bos_token: Option<RawToken>,
    eos_token: Option<RawToken>,
    chat_template: Option<RawTemplate>,
}

/// Older files spell a token with its flags.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawToken {
    Plain(String),
    WithFlags { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::BadFile`] when a field has another form than the hub's,
    /// or when none of several chat templates is named `default`.
    pub fn from_json_file(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let bad = |reason: String| Error::BadFile { path: path.to_path_buf(), reason };
        let raw: RawConfig = serde_json::from_slice(&bytes)
            .map_err(|cause| bad(format!("is not a tokenizer_config.json: {cause}")))?;
        let chat_template = match raw.chat_template {
            None => None,
            Some(RawTemplate::One(source)) => Some(source),
            Some(RawTemplate::Named(templates)) => {
                let names: Vec<String> =
                    templates.iter().map(|template| template.name.clone()).collect();
                let default = templates.into_iter().find(|template| template.name == "default");
                let default = default.ok_or_else(|| {
                    bad(format!(
                        "field `chat_template`: expected one named `default`, found {names:?}"
                    ))
                })?;
                Some(default.template)
            }
        };
        let token = |raw: RawToken| match raw {
            RawToken::Plain(content) | RawToken::WithFlags { content } => content,
        };
        Ok(Self {
            bos_token: raw.bos_token.map(token),
            eos_token: raw.eos_token.map(token),
            chat_template,
        })
    }
}
