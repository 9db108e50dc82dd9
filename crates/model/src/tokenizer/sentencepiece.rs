//! SentencePiece BPE (Llama 2, TinyLlama, Mistral 7B) from the scores in a GGUF file.
//!
//! The same pipeline that transformers' `LlamaConverter` builds: spaces become `▁`, one is put before the text,
//! characters outside the vocabulary fall back to their bytes, and the merges are read off the scores
//! (`generate_merges` in `transformers/convert_slow_tokenizer.py`).

use std::cmp::Reverse;
use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as NormalizerSequence;
use tokenizers::{NormalizerWrapper, Tokenizer as Inner};

use super::gguf::{Metadata, Vocabulary, token_type};
use crate::{Error, Result};

const SCORES: &str = "tokenizer.ggml.scores";

/// Longest token that is taken apart into merges, in characters; longer ones are never reached by merging in
/// any published vocabulary, and the work grows with the square.
const MAX_MERGED_CHARS: usize = 512;

/// Builds the tokenizer without its special tokens.
pub(super) fn build(metadata: &Metadata<'_>, vocabulary: &Vocabulary) -> Result<Inner> {
    if metadata.0.contains_key("tokenizer.ggml.precompiled_charsmap") {
        return Err(Error::Tokenizer(
            "`tokenizer.ggml.precompiled_charsmap`: SentencePiece normalisation tables are not supported; put the \
             model's tokenizer.json beside the GGUF file"
                .to_owned(),
        ));
    }
    let scores = metadata.numbers(SCORES, score)?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(Error::Tokenizer(format!(
            "`{SCORES}` has {} entries and `tokenizer.ggml.tokens` has {}; they must be equal",
            scores.len(),
            vocabulary.tokens.len()
        )));
    }
    let ids = vocabulary.ids()?;
    let merges = merges_from_scores(vocabulary, &scores, &ids);
    let mut builder =
        BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = metadata.token("tokenizer.ggml.unknown_token_id", vocabulary)? {
        builder = builder.unk_token(unknown.to_owned());
    }
    let bpe = builder.build().map_err(|cause| Error::Tokenizer(format!("`{SCORES}`: {cause}")))?;
    let add_space_prefix = metadata.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut inner = Inner::new(bpe);
    inner
        .with_normalizer(Some(normalizer(add_space_prefix)?))
        .map_err(|cause| Error::Tokenizer(format!("normalizer: {cause}")))?;
    inner.with_decoder(Some(decoder(add_space_prefix)?));
    Ok(inner)
}

fn normalizer(add_space_prefix: bool) -> Result<NormalizerWrapper> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if add_space_prefix {
        steps.push(Prepend::new("\u{2581}".to_owned()).into());
    }
    steps.push(replace(" ", "\u{2581}")?.into());
    Ok(NormalizerSequence::new(steps).into())
}

fn decoder(add_space_prefix: bool) -> Result<DecoderWrapper> {
    let mut steps: Vec<DecoderWrapper> =
        vec![replace("\u{2581}", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if add_space_prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(DecoderSequence::new(steps).into())
}

fn replace(from: &str, to: &str) -> Result<Replace> {
    Replace::new(from, to).map_err(|cause| Error::Tokenizer(format!("normalizer: {cause}")))
}

fn score(value: &Value) -> Option<f32> {
    match value {
        Value::F32(number) => Some(*number),
        _ => None,
    }
}

/// Every way to make a token of two others, best score first.
fn merges_from_scores(vocabulary: &Vocabulary, scores: &[f32], ids: &Vocab) -> Merges {
    let part_id = |part: &str| ids.get(part).copied();
    let mut merges = Vec::new();
    for ((token, &score), &kind) in vocabulary.tokens.iter().zip(scores).zip(&vocabulary.types) {
        let merged = matches!(kind, token_type::NORMAL | token_type::USER_DEFINED);
        if !merged || token.chars().count() > MAX_MERGED_CHARS {
            continue;
        }
        let mut pairs: Vec<_> = token
            .char_indices()
            .skip(1)
            .map(|(index, _)| token.split_at(index))
            .filter_map(|(left, right)| Some((part_id(left)?, part_id(right)?, left, right)))
            .collect();
        pairs.sort_unstable_by_key(|&(left_id, right_id, ..)| (left_id, right_id));
        merges.extend(pairs.into_iter().map(|(.., left, right)| (score, left, right)));
    }
    // Stable: equal keys keep the order of the vocabulary, as Python's sort does.
    let lengths: HashMap<&str, usize> =
        vocabulary.tokens.iter().map(|token| (token.as_str(), token.chars().count())).collect();
    let length = |part: &str| Reverse(lengths.get(part).copied().unwrap_or(0));
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| (length(a.1), length(a.2)).cmp(&(length(b.1), length(b.2))))
    });
    merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}
