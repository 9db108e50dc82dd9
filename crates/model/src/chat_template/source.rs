//! Where a chat template comes from: a model folder or a GGUF file.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use candle_core::quantized::gguf_file::Value as GgufValue;

use super::ChatTemplate;
use crate::tokenizer::{Tokenizer, TokenizerConfig};
use crate::{Error, Result};

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja` if it is there, else the one in
    /// `tokenizer_config.json`; none where both are missing.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::BadFile`] for files that are there but cannot be read;
    /// [`Error::ChatTemplate`] when the template does not compile.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match TokenizerConfig::from_json_file(&config_path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                TokenizerConfig::default()
            }
            config => config?,
        };
        let path = folder.join("chat_template.jinja");
        let source = match std::fs::read_to_string(&path) {
            Ok(source) => Some(source),
            Err(cause) if cause.kind() == ErrorKind::NotFound => config.chat_template,
            Err(source) => return Err(Error::Io { path, source }),
        };
        source.map(|source| Self::compile(&source, config.bos_token, config.eos_token)).transpose()
    }

    /// The template in a GGUF file's metadata, if there is one. `tokenizer` is the file's own, or the one that
    /// replaces it; its beginning- and end-of-text tokens are the template's.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when the template is not a string or does not compile.
    pub fn from_gguf(
        metadata: &HashMap<String, GgufValue>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>> {
        let source = match metadata.get("tokenizer.chat_template") {
            None => return Ok(None),
            Some(GgufValue::String(source)) => source,
            Some(other) => {
                return Err(Error::ChatTemplate(format!(
                    "`tokenizer.chat_template`: expected a string, found {:?}",
                    other.value_type()
                )));
            }
        };
        let token = |token: Option<&str>| token.map(str::to_owned);
        Self::compile(source, token(tokenizer.bos_token()), token(tokenizer.eos_token())).map(Some)
    }
}
