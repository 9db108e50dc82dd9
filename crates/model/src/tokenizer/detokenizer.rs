//! Token ids to text, one at a time, never emitting half a character.
//!
//! A token is a run of bytes that may begin or end inside a UTF-8 sequence. The detokenizer keeps the at most
//! three bytes that are not yet a character and emits everything before them, so a token costs its own length
//! and nothing that came before is decoded again. Invalid bytes become U+FFFD as in
//! [`String::from_utf8_lossy`]; for SentencePiece that differs from transformers, which replaces every byte of
//! a whole run when one of its bytes is wrong, and so cannot stream.

use std::sync::Arc;

use super::{ByteForm, Shared};
use crate::{Error, Result};

/// Turns the ids of one sequence into text as they come.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    shared: Arc<Shared>,
    skip_special_tokens: bool,
    /// No text has been seen yet, so a leading space may belong to the encoding.
    at_start: bool,
    /// The beginning of a UTF-8 sequence whose end has not come; at most three bytes.
    pending: Vec<u8>,
}

impl Detokenizer {
    pub(super) fn new(shared: Arc<Shared>, skip_special_tokens: bool) -> Self {
        Self { shared, skip_special_tokens, at_start: true, pending: Vec::new() }
    }

    /// The text that is certain by this token; empty while a UTF-8 sequence is incomplete, and for a special
    /// token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when `id` is not in the vocabulary; the state is as before.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.skip_special_tokens && self.shared.is_special(id) {
            return Ok(String::new());
        }
        let bytes = self.shared.token_bytes(id).ok_or_else(|| {
            Error::Tokenizer(format!(
                "token id {id} is not in the vocabulary of {} tokens; the tokenizer does not belong to this model",
                self.shared.inner.get_vocab_size(true)
            ))
        })?;
        let mut bytes = bytes.as_slice();
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            let strips = ByteForm::SentencePiece { strip_leading_space: true };
            if self.shared.byte_form == strips {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.pending.extend_from_slice(bytes);
        Ok(take_certain(&mut self.pending))
    }

    /// The end of the sequence: an incomplete UTF-8 sequence becomes one U+FFFD. The detokenizer is then as at
    /// the start.
    ///
    /// # Errors
    /// Never with the two kinds of vocabulary there are; it is a result as [`Detokenizer::push`] is one.
    pub fn finish(&mut self) -> Result<String> {
        self.at_start = true;
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned())
    }
}

/// Takes from `pending` everything but a trailing sequence that later bytes could complete.
fn take_certain(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut kept = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        let end = kept + chunk.valid().len() + chunk.invalid().len();
        if chunk.invalid().is_empty() {
            kept = end;
        } else if end == pending.len() && may_continue(chunk.invalid()) {
            kept += chunk.valid().len();
        } else {
            text.push(char::REPLACEMENT_CHARACTER);
            kept = end;
        }
    }
    pending.drain(..kept);
    text
}

/// Whether `bytes`, which are not valid UTF-8, are the beginning of a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The bytes of a GPT-2 token. A token with a character outside that alphabet (an added one) stands for itself.
pub(super) fn byte_level_bytes(token: &str) -> Vec<u8> {
    token
        .chars()
        .map(byte_level_byte)
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte of a character of GPT-2's alphabet: printable Latin-1 stands for itself, and the 68 other bytes in
/// their order have U+0100 to U+0143 (openai/gpt-2, `src/encoder.py`, `bytes_to_unicode`).
fn byte_level_byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(), // 0x00..=0x20
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(), // 0x7F..=0xA0
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes of a SentencePiece token: `<0xHH>` is one byte, `▁` a space.
pub(super) fn sentencepiece_bytes(token: &str) -> Vec<u8> {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    if let Some(byte) =
        hex.filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok())
    {
        return vec![byte];
    }
    token.replace('\u{2581}', " ").into_bytes()
}
