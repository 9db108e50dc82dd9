//! Text to token ids and back, with the tokenizer that belongs to a model's files.
//!
//! Built from `tokenizer.json` ([`Tokenizer::from_json_file`]) or from the vocabulary inside a GGUF file
//! ([`Tokenizer::from_gguf`]); both give the ids that transformers gives. Only BPE is accepted, with a
//! byte-level or a SentencePiece decoder: the Llama family uses nothing else.

mod config;
mod detokenizer;
mod fingerprint;
mod gguf;
mod pre_tokenizer;
mod sentencepiece;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use tokenizers::{ModelWrapper, Tokenizer as Inner};

pub use config::TokenizerConfig;
pub use detokenizer::Detokenizer;

use crate::{Error, Result};

/// A vocabulary with its rules. Cheap to clone: the vocabulary is shared.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// What a tokenizer and its detokenizers share.
#[derive(Debug)]
struct Shared {
    inner: Inner,
    byte_form: ByteForm,
}

/// How the strings of the vocabulary stand for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteForm {
    /// GPT-2: one printable character a byte.
    ByteLevel,
    /// SentencePiece: `▁` for a space, `<0xHH>` for a byte.
    SentencePiece {
        /// Whether one space at the start of the whole text belongs to the encoding, not to the text.
        strip_leading_space: bool,
    },
}

impl Tokenizer {
    /// Reads a `tokenizer.json` of the Hugging Face hub.
    ///
    /// Truncation and padding that the file asks for are left out: the caller bounds lengths.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read; [`Error::BadFile`] when it cannot be parsed or holds another kind of tokenizer than BPE
    /// with a byte-level or SentencePiece decoder.
    pub fn from_json_file(path: &Path) -> Result<Self> {
        let bad = |reason: String| Error::BadFile { path: path.to_path_buf(), reason };
        let bytes =
            std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let inner = Inner::from_bytes(&bytes).map_err(|cause| {
            bad(format!("is not a tokenizer.json this build can read: {cause}"))
        })?;
        Self::from_inner(inner).map_err(|error| bad(error.to_string()))
    }

    /// Checks that `inner` is of a supported kind and wraps it.
    fn from_inner(mut inner: Inner) -> Result<Self> {
        if !matches!(inner.get_model(), ModelWrapper::BPE(_)) {
            return Err(Error::Tokenizer(
                "the vocabulary is not BPE; models of the Llama family use BPE, so this file belongs to another \
                 kind of model"
                    .to_owned(),
            ));
        }
        let byte_form = byte_form(&inner)?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|cause| Error::Tokenizer(format!("cannot turn truncation off: {cause}")))?;
        Ok(Self { shared: Arc::new(Shared { inner, byte_form }), bos_token: None, eos_token: None })
    }

    /// Sets the strings of the beginning-of-text and end-of-text tokens, which `tokenizer.json` does not hold
    /// (`tokenizer_config.json` does).
    #[must_use]
    pub fn with_bos_eos(mut self, bos_token: Option<String>, eos_token: Option<String>) -> Self {
        self.bos_token = bos_token;
        self.eos_token = eos_token;
        self
    }

    /// The token ids of `text`. Special tokens that stand literally in `text` become their ids.
    ///
    /// `add_special_tokens` adds what the model was trained to see around a text (for many a beginning-of-text
    /// token); leave it off for a rendered chat template, which holds them itself. The length of `text` is not
    /// bounded here: the caller does that before.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the library fails on the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self
            .shared
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|cause| Error::Tokenizer(format!("cannot encode the text: {cause}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`; what a [`Detokenizer`] gives for them in all.
    ///
    /// Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an id that is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let mut detokenizer = Detokenizer::new(Arc::clone(&self.shared), skip_special_tokens);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&detokenizer.push(id)?);
        }
        text.push_str(&detokenizer.finish()?);
        Ok(text)
    }

    /// A detokenizer for one generated sequence; special tokens give no text.
    #[must_use]
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.shared), true)
    }

    /// The token as the vocabulary spells it (`Ġthe`, `▁the`, `<|im_end|>`).
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.shared.inner.id_to_token(id)
    }

    /// The bytes a token stands for; one token may be a part of a UTF-8 sequence. Special tokens give their
    /// own spelling.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.shared.token_bytes(id)
    }

    /// The id of a token, as the vocabulary spells it.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.shared.inner.token_to_id(token)
    }

    /// Whether the token is marked as special (control), so that [`Detokenizer`] gives no text for it.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.shared.is_special(id)
    }

    /// Number of tokens, special ones included. A model's `vocab_size` may be larger (padding rows).
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.shared.inner.get_vocab_size(true)
    }

    /// The beginning-of-text token's string, where the files name one.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// The end-of-text token's string, where the files name one.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// Lower-case hex SHA-256 over the vocabulary and the merges; the same whether they came from a GGUF file
    /// or from `tokenizer.json`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint::fingerprint(&self.shared.inner)
    }
}

impl Shared {
    fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.id_to_token(id)?;
        Some(match self.byte_form {
            ByteForm::ByteLevel => detokenizer::byte_level_bytes(&token),
            ByteForm::SentencePiece { .. } => detokenizer::sentencepiece_bytes(&token),
        })
    }
}

/// Reads off the decoder how tokens stand for bytes.
///
/// The library keeps its decoders' fields private, so this looks at their JSON form.
fn byte_form(inner: &Inner) -> Result<ByteForm> {
    let decoder = serde_json::to_value(inner.get_decoder())
        .map_err(|cause| Error::Tokenizer(format!("cannot describe the decoder: {cause}")))?;
    let kind = |step: &Json| step["type"].as_str().unwrap_or("none").to_owned();
    let steps = match decoder["decoders"].as_array() {
        Some(steps) => steps.clone(),
        None => vec![decoder],
    };
    let kinds: Vec<String> = steps.iter().map(kind).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    match kinds.as_slice() {
        ["ByteLevel"] => Ok(ByteForm::ByteLevel),
        ["Replace", "ByteFallback", "Fuse"] => {
            Ok(ByteForm::SentencePiece { strip_leading_space: false })
        }
        ["Replace", "ByteFallback", "Fuse", "Strip"] => {
            Ok(ByteForm::SentencePiece { strip_leading_space: true })
        }
        found => Err(Error::Tokenizer(format!(
            "decoder {found:?} is not supported; expected `ByteLevel`, or SentencePiece's \
             `Replace, ByteFallback, Fuse, Strip`"
        ))),
    }
}

#[cfg(test)]
mod tests;
