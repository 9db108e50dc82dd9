//! The tokenizer on small vocabularies made here, so that no model file is needed.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use proptest::prelude::*;

use super::{Detokenizer, Tokenizer};
use crate::Error;

/// GPT-2's alphabet: the character of each byte.
fn byte_characters() -> Vec<char> {
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

fn strings<S: AsRef<str>>(values: &[S]) -> Value {
    Value::Array(values.iter().map(|value| Value::String(value.as_ref().to_owned())).collect())
}

/// All bytes, some merges, one control and one user-defined token.
fn byte_level_metadata(pre: &str) -> HashMap<String, Value> {
    let mut tokens: Vec<String> = byte_characters().iter().map(char::to_string).collect();
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2", "Ġ Ġ"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![Value::I32(1); tokens.len()];
    tokens.extend(["<|end|>".to_owned(), "<call me>".to_owned()]);
    types.extend([Value::I32(3), Value::I32(4)]);
    let end = u32::try_from(tokens.len() - 2).unwrap();
    HashMap::from([
        ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre".to_owned(), Value::String(pre.to_owned())),
        ("tokenizer.ggml.tokens".to_owned(), strings(&tokens)),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(types)),
        ("tokenizer.ggml.merges".to_owned(), strings(&merges)),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(end)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(end)),
    ])
}

fn byte_level(pre: &str) -> Tokenizer {
    Tokenizer::from_gguf(&byte_level_metadata(pre)).unwrap()
}

/// All byte tokens, `▁`, and a few pieces with falling scores.
fn sentencepiece_metadata() -> HashMap<String, Value> {
    let mut tokens: Vec<(String, f32, i32)> =
        vec![("<unk>".to_owned(), 0.0, 2), ("<s>".to_owned(), 0.0, 3), ("</s>".to_owned(), 0.0, 3)];
    tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    for (rank, piece) in ["ab", "▁ab", "▁▁", "abc", "▁", "a", "b", "c", "é"].iter().enumerate()
    {
        tokens.push(((*piece).to_owned(), -f32::from(u8::try_from(rank).unwrap()), 1));
    }
    let column =
        |read: fn(&(String, f32, i32)) -> Value| Value::Array(tokens.iter().map(read).collect());
    HashMap::from([
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".to_owned())),
        ("tokenizer.ggml.tokens".to_owned(), column(|token| Value::String(token.0.clone()))),
        ("tokenizer.ggml.scores".to_owned(), column(|token| Value::F32(token.1))),
        ("tokenizer.ggml.token_type".to_owned(), column(|token| Value::I32(token.2))),
        ("tokenizer.ggml.unknown_token_id".to_owned(), Value::U32(0)),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
    ])
}

fn sentencepiece() -> Tokenizer {
    Tokenizer::from_gguf(&sentencepiece_metadata()).unwrap()
}

fn pieces(tokenizer: &Tokenizer, text: &str, add_special_tokens: bool) -> Vec<String> {
    let ids = tokenizer.encode(text, add_special_tokens).unwrap();
    ids.into_iter().map(|id| tokenizer.token_text(id).unwrap()).collect()
}

fn stream(mut detokenizer: Detokenizer, ids: &[u32]) -> String {
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    text.push_str(&detokenizer.finish().unwrap());
    text
}

/// The library's own decoding, which the detokenizer must agree with.
fn library_decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.shared.inner.decode(ids, true).unwrap()
}

#[test]
fn smollm_splits_digits_and_adds_no_leading_space() {
    assert_eq!(pieces(&byte_level("smollm"), "hello 12", false), ["hello", "Ġ", "1", "2"]);
}

#[test]
fn gpt2_keeps_digits_together() {
    assert_eq!(pieces(&byte_level("gpt-2"), "hello12", false), ["hello", "12"]);
}

#[test]
fn llama3_begins_a_text_with_bos_and_qwen2_does_not() {
    assert_eq!(pieces(&byte_level("llama-bpe"), "hello", true), ["<|end|>", "hello"]);
    assert_eq!(pieces(&byte_level("qwen2"), "hello", true), ["hello"]);
}

#[test]
fn qwen2_composes_accents_first() {
    let tokenizer = byte_level("qwen2");
    assert_eq!(tokenizer.encode("e\u{301}", false).unwrap(), tokenizer.encode("é", false).unwrap());
}

#[test]
fn special_tokens_in_a_text_become_their_ids_and_give_no_text() {
    let tokenizer = byte_level("smollm");
    let ids = tokenizer.encode("hello<|end|>hello", false).unwrap();
    assert_eq!(pieces(&tokenizer, "hello<|end|>hello", false), ["hello", "<|end|>", "hello"]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hellohello");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "hello<|end|>hello");
}

#[test]
fn user_defined_tokens_are_found_whole_and_give_text() {
    let tokenizer = byte_level("smollm");
    let ids = tokenizer.encode("<call me>", false).unwrap();
    assert_eq!(ids, [tokenizer.token_id("<call me>").unwrap()]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "<call me>");
}

#[test]
fn every_byte_has_its_character() {
    let tokenizer = byte_level("smollm");
    for (byte, character) in (0..=255u8).zip(byte_characters()) {
        let id = tokenizer.token_id(&character.to_string()).unwrap();
        assert_eq!(tokenizer.token_bytes(id), Some(vec![byte]));
    }
}

#[test]
fn unknown_rules_ask_for_tokenizer_json() {
    let unknown_pre = Tokenizer::from_gguf(&byte_level_metadata("tekken")).unwrap_err().to_string();
    assert!(
        unknown_pre.contains("tekken") && unknown_pre.contains("tokenizer.json"),
        "{unknown_pre}"
    );
    let mut metadata = byte_level_metadata("smollm");
    metadata.insert("tokenizer.ggml.model".to_owned(), Value::String("t5".to_owned()));
    let unknown_model = Tokenizer::from_gguf(&metadata).unwrap_err().to_string();
    assert!(unknown_model.contains("`t5`") && unknown_model.contains("tokenizer.json"));
}

#[test]
fn broken_metadata_is_an_error_that_names_the_key() {
    let check = |key: &str, value: Value| {
        let mut metadata = byte_level_metadata("smollm");
        metadata.insert(key.to_owned(), value);
        let error = Tokenizer::from_gguf(&metadata).unwrap_err();
        assert!(matches!(&error, Error::Tokenizer(reason) if reason.contains(key)), "{error}");
    };
    check("tokenizer.ggml.merges", strings(&["nospace"]));
    check("tokenizer.ggml.merges", strings(&["a very-long-merge-that-no-token-has"]));
    check("tokenizer.ggml.merges", strings(&["missing x"]));
    check("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1)]));
    check("tokenizer.ggml.tokens", Value::U32(1));
    check("tokenizer.ggml.bos_token_id", Value::U32(9999));
}

#[test]
fn sentencepiece_prepends_a_space_and_falls_back_to_bytes() {
    let tokenizer = sentencepiece();
    assert_eq!(pieces(&tokenizer, "abc", true), ["<s>", "▁ab", "c"]);
    assert_eq!(pieces(&tokenizer, "ü", false), ["▁", "<0xC3>", "<0xBC>"]);
    assert_eq!(pieces(&tokenizer, "<s>ab", false), ["<s>", "▁ab"]);
}

#[test]
fn sentencepiece_gives_the_leading_space_back_only_where_the_text_had_one() {
    let tokenizer = sentencepiece();
    for text in ["ab", " ab", "  ab", "ab  ab", "é", "", " "] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(stream(tokenizer.detokenizer(), &ids), text);
    }
}

#[test]
fn a_character_comes_with_its_last_byte() {
    for tokenizer in [byte_level("smollm"), sentencepiece()] {
        let ids = tokenizer.encode("🙂", false).unwrap();
        let mut detokenizer = tokenizer.detokenizer();
        let (last, first) = ids.split_last().unwrap();
        for &id in first {
            assert_eq!(detokenizer.push(id).unwrap(), "");
        }
        assert_eq!(detokenizer.push(*last).unwrap(), "🙂");
        assert_eq!(detokenizer.finish().unwrap(), "");
    }
}

#[test]
fn half_a_character_at_the_end_becomes_one_replacement_character() {
    let tokenizer = byte_level("smollm");
    let ids = tokenizer.encode("é", false).unwrap();
    assert_eq!(stream(tokenizer.detokenizer(), &ids[..1]), "\u{FFFD}");
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error() {
    let error = byte_level("smollm").detokenizer().push(100_000).unwrap_err().to_string();
    assert!(error.contains("100000") && error.contains("265"), "{error}");
}

#[test]
fn the_fingerprint_does_not_depend_on_the_file_but_on_every_merge() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for tokenizer in [byte_level("smollm"), sentencepiece()] {
        tokenizer.shared.inner.save(&path, false).unwrap();
        let read_back = Tokenizer::from_json_file(&path).unwrap();
        assert_eq!(read_back.fingerprint(), tokenizer.fingerprint());
        assert_eq!(read_back.shared.byte_form, tokenizer.shared.byte_form);
    }
    let mut metadata = byte_level_metadata("smollm");
    metadata.insert(
        "tokenizer.ggml.merges".to_owned(),
        strings(&["l l", "h e", "he ll", "hell o", "Ġ hello", "1 2", "Ġ Ġ"]),
    );
    let other = Tokenizer::from_gguf(&metadata).unwrap();
    assert_ne!(other.fingerprint(), byte_level("smollm").fingerprint());
}

#[test]
fn another_kind_of_tokenizer_json_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(
        &path,
        r#"{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#,
    )
    .unwrap();
    let error = Tokenizer::from_json_file(&path).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("not BPE"), "{error}");
}

proptest! {
    #[test]
    fn streamed_byte_level_text_is_the_librarys_for_any_ids(
        ids in proptest::collection::vec(0u32..265, 0..60),
    ) {
        let tokenizer = byte_level("smollm");
        prop_assert_eq!(stream(tokenizer.detokenizer(), &ids), library_decode(&tokenizer, &ids));
        prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), library_decode(&tokenizer, &ids));
    }

    #[test]
    fn streamed_sentencepiece_text_is_the_librarys_for_any_text(text in "[ab cé🙂▁<0x>\n]{0,40}") {
        let tokenizer = sentencepiece();
        let ids = tokenizer.encode(&text, true).unwrap();
        prop_assert_eq!(stream(tokenizer.detokenizer(), &ids), library_decode(&tokenizer, &ids));
    }

    #[test]
    fn byte_level_text_survives_the_round_trip(text in "\\PC{0,60}") {
        let tokenizer = byte_level("smollm");
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(stream(tokenizer.detokenizer(), &ids), text);
    }
}
