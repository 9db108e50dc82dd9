//! A tokenizer from the vocabulary inside a GGUF file.
//!
//! `tokenizer.ggml.model` is `gpt2` (byte-level BPE with merges) or `llama` (SentencePiece BPE with scores).

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::{Tokenizer, pre_tokenizer, sentencepiece};
use crate::{Error, Result};

/// `llama_token_type` of llama.cpp, as far as it matters here.
pub(super) mod token_type {
    pub(crate) const NORMAL: i64 = 1;
    pub(crate) const CONTROL: i64 = 3;
    pub(crate) const USER_DEFINED: i64 = 4;
}

/// A GGUF file's metadata, read with errors that name the key.
pub(super) struct Metadata<'a>(pub(super) &'a HashMap<String, Value>);

/// The vocabulary as the file lists it.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    /// One a token; all normal where the file holds none.
    pub(super) types: Vec<i64>,
}

impl Tokenizer {
    /// Builds the tokenizer from a GGUF file's metadata.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when a key is missing or contradicts another, or when the file names rules that are
    /// not known here; the message then asks for the model's `tokenizer.json`.
    pub fn from_gguf(metadata: &HashMap<String, Value>) -> Result<Self> {
        let metadata = Metadata(metadata);
        let vocabulary = Vocabulary::read(&metadata)?;
        let model = metadata.required_string("tokenizer.ggml.model")?;
        let (mut inner, add_bos_by_default) = match model {
            "gpt2" => byte_level(&metadata, &vocabulary)?,
            "llama" => (sentencepiece::build(&metadata, &vocabulary)?, true),
            other => {
                return Err(Error::Tokenizer(format!(
                    "`tokenizer.ggml.model` is `{other}`; supported are `gpt2` (byte-level BPE) and `llama` \
                     (SentencePiece BPE); put the model's tokenizer.json beside the GGUF file"
                )));
            }
        };
        add_special_tokens(&mut inner, &vocabulary)?;
        let bos = metadata.token("tokenizer.ggml.bos_token_id", &vocabulary)?;
        let eos = metadata.token("tokenizer.ggml.eos_token_id", &vocabulary)?;
        let add_bos =
            metadata.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos_by_default);
        let add_eos = metadata.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        add_template(&mut inner, bos.filter(|_| add_bos), eos.filter(|_| add_eos))?;
        Ok(Self::from_inner(inner)?.with_bos_eos(bos.map(str::to_owned), eos.map(str::to_owned)))
    }
}

fn byte_level(metadata: &Metadata<'_>, vocabulary: &Vocabulary) -> Result<(Inner, bool)> {
    let rules = pre_tokenizer::rules(metadata.required_string("tokenizer.ggml.pre")?)?;
    let merges = metadata
        .strings("tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(Error::Tokenizer(format!(
                "`tokenizer.ggml.merges`: `{merge}` is not two tokens with a space between"
            ))),
        })
        .collect::<Result<Vec<_>>>()?;
    check_merges(vocabulary, &merges)?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.ids()?, merges)
        .ignore_merges(rules.ignore_merges)
        .build()
        .map_err(|cause| Error::Tokenizer(format!("`tokenizer.ggml.merges`: {cause}")))?;
    let mut inner = Inner::new(bpe);
    inner
        .with_normalizer(rules.normalizer)
        .map_err(|cause| Error::Tokenizer(format!("normalizer: {cause}")))?;
    inner.with_pre_tokenizer(Some(rules.pre_tokenizer));
    inner.with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok((inner, rules.add_bos_by_default))
}

/// The library panics on a merge that is longer than every token, so merges are checked before it sees them.
fn check_merges(vocabulary: &Vocabulary, merges: &[(String, String)]) -> Result<()> {
    let longest = vocabulary.tokens.iter().map(String::len).max().unwrap_or(0);
    match merges.iter().find(|(left, right)| left.len() + right.len() > longest) {
        Some((left, right)) => Err(Error::Tokenizer(format!(
            "`tokenizer.ggml.merges`: `{left} {right}` does not give a token of the vocabulary"
        ))),
        None => Ok(()),
    }
}

/// Control tokens are special (they give no text); user-defined ones are found whole in a text and give text.
fn add_special_tokens(inner: &mut Inner, vocabulary: &Vocabulary) -> Result<()> {
    let added = vocabulary.tokens.iter().zip(&vocabulary.types).filter_map(|(token, &kind)| {
        let special = match kind {
            token_type::CONTROL => true,
            token_type::USER_DEFINED => false,
            _ => return None,
        };
        Some(AddedToken::from(token.clone(), special).normalized(false))
    });
    inner
        .add_tokens(added)
        .map_err(|cause| Error::Tokenizer(format!("special tokens: {cause}")))?;
    Ok(())
}

/// What `add_special_tokens` puts around a text.
fn add_template(inner: &mut Inner, bos: Option<&str>, eos: Option<&str>) -> Result<()> {
    let tokens: Vec<(String, u32)> = bos
        .into_iter()
        .chain(eos)
        .filter_map(|token| Some((token.to_owned(), inner.token_to_id(token)?)))
        .collect();
    if tokens.is_empty() {
        return Ok(());
    }
    let pieces: Vec<String> = bos
        .into_iter()
        .map(str::to_owned)
        .chain(["$A".to_owned()])
        .chain(eos.map(str::to_owned))
        .collect();
    let template = TemplateProcessing::builder()
        .try_single(pieces)
        .map_err(|cause| Error::Tokenizer(format!("beginning- and end-of-text tokens: {cause}")))?
        .special_tokens(tokens)
        .build()
        .map_err(|cause| Error::Tokenizer(format!("beginning- and end-of-text tokens: {cause}")))?;
    inner.with_post_processor(Some(template));
    Ok(())
}

impl Vocabulary {
    fn read(metadata: &Metadata<'_>) -> Result<Self> {
        const TYPES: &str = "tokenizer.ggml.token_type";
        let tokens: Vec<String> =
            metadata.strings("tokenizer.ggml.tokens")?.into_iter().map(str::to_owned).collect();
        let types = match metadata.0.get(TYPES) {
            None => vec![token_type::NORMAL; tokens.len()],
            Some(_) => metadata.numbers(TYPES, integer)?,
        };
        if types.len() != tokens.len() {
            return Err(Error::Tokenizer(format!(
                "`{TYPES}` has {} entries and `tokenizer.ggml.tokens` has {}; they must be equal",
                types.len(),
                tokens.len()
            )));
        }
        Ok(Self { tokens, types })
    }

    /// Token to id.
    pub(super) fn ids(&self) -> Result<tokenizers::models::bpe::Vocab> {
        self.tokens
            .iter()
            .enumerate()
            .map(|(index, token)| match u32::try_from(index) {
                Ok(id) => Ok((token.clone(), id)),
                Err(_) => Err(Error::Tokenizer(format!("token id {index} does not fit 32 bits"))),
            })
            .collect()
    }
}

impl<'a> Metadata<'a> {
    pub(super) fn required(&self, key: &str) -> Result<&'a Value> {
        self.0.get(key).ok_or_else(|| {
            Error::Tokenizer(format!(
                "the GGUF file has no `{key}`; put the model's tokenizer.json beside the GGUF file"
            ))
        })
    }

    fn required_string(&self, key: &str) -> Result<&'a str> {
        match self.required(key)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_kind(key, "a string", other)),
        }
    }

    fn array(&self, key: &str) -> Result<&'a [Value]> {
        match self.required(key)? {
            Value::Array(values) => Ok(values),
            other => Err(wrong_kind(key, "an array", other)),
        }
    }

    fn strings(&self, key: &str) -> Result<Vec<&'a str>> {
        self.array(key)?
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(text.as_str()),
                other => Err(wrong_kind(key, "an array of strings", other)),
            })
            .collect()
    }

    /// The array under `key`, each entry read by `read`.
    pub(super) fn numbers<T>(&self, key: &str, read: fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        self.array(key)?
            .iter()
            .map(|value| read(value).ok_or_else(|| wrong_kind(key, "an array of numbers", value)))
            .collect()
    }

    /// The boolean under `key`, if there is one.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong_kind(key, "true or false", other)),
        }
    }

    /// The token whose id stands under `key`, if there is one.
    pub(super) fn token<'v>(
        &self,
        key: &str,
        vocabulary: &'v Vocabulary,
    ) -> Result<Option<&'v str>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let id = integer(value).ok_or_else(|| wrong_kind(key, "a token id", value))?;
        let token = usize::try_from(id).ok().and_then(|index| vocabulary.tokens.get(index));
        match token {
            Some(token) => Ok(Some(token)),
            None => Err(Error::Tokenizer(format!(
                "`{key}` is {id}, but the vocabulary has {} tokens",
                vocabulary.tokens.len()
            ))),
        }
    }
}

/// Any integer of the format.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(number) => Some(number.into()),
        Value::I8(number) => Some(number.into()),
        Value::U16(number) => Some(number.into()),
        Value::I16(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        Value::I32(number) => Some(number.into()),
        Value::U64(number) => i64::try_from(number).ok(),
        Value::I64(number) => Some(number),
        _ => None,
    }
}

/// Names the kind only: a value can be a whole vocabulary.
fn wrong_kind(key: &str, expected: &str, found: &Value) -> Error {
    Error::Tokenizer(format!("`{key}`: expected {expected}, found {:?}", found.value_type()))
}
