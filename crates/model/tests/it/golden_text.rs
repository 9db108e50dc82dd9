//! Ids and rendered conversations against transformers and sentencepiece (`tests/golden/gen_text.py`).

use std::collections::HashMap;
use std::fs::File;

use candle_core::quantized::gguf_file::{Content, Value};
use serde::Deserialize;
use skeg_model::{ChatMessage, ChatTemplate, Tokenizer};

use crate::support::{golden_json, test_model};

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    rendered: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct SentencePiece {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    texts: Vec<Text>,
}

fn metadata() -> HashMap<String, Value> {
    let mut file = File::open(test_model()).expect("the test model");
    Content::read(&mut file).expect("GGUF header").metadata
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut detokenizer = tokenizer.detokenizer();
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    text.push_str(&detokenizer.finish().unwrap());
    text
}

fn check_texts(tokenizer: &Tokenizer, texts: &[Text]) {
    for Text { text, ids, decoded } in texts {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids, true).unwrap(), decoded, "{text:?}");
        assert_eq!(&streamed(tokenizer, ids), decoded, "{text:?}");
    }
}

#[test]
fn two_hundred_texts_have_the_ids_of_transformers() {
    let tokenizer = Tokenizer::from_gguf(&metadata()).unwrap();
    let texts: Vec<Text> = golden_json("tokens.json");
    assert_eq!(texts.len(), 200);
    check_texts(&tokenizer, &texts);
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!(tokenizer.bos_token(), Some("<|im_start|>"));
    assert_eq!(tokenizer.eos_token(), Some("<|im_end|>"));
}

#[test]
fn ten_conversations_render_as_in_transformers() {
    let metadata = metadata();
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    let template = ChatTemplate::from_gguf(&metadata, &tokenizer).unwrap().expect("a template");
    let chats: Vec<Chat> = golden_json("chat.json");
    assert_eq!(chats.len(), 20);
    for chat in chats {
        let messages: Vec<ChatMessage> = chat
            .messages
            .into_iter()
            .map(|Message { role, content }| ChatMessage { role, content })
            .collect();
        let rendered = template.render(&messages, chat.add_generation_prompt).unwrap();
        assert_eq!(rendered, chat.rendered);
        assert_eq!(tokenizer.encode(&rendered, false).unwrap(), chat.ids);
    }
}

#[test]
fn a_vocabulary_with_scores_gives_the_ids_of_sentencepiece() {
    let golden: SentencePiece = golden_json("sentencepiece.json");
    let tokenizer = Tokenizer::from_gguf(&HashMap::from([
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".to_owned())),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Value::Array(golden.tokens.into_iter().map(Value::String).collect()),
        ),
        (
            "tokenizer.ggml.scores".to_owned(),
            Value::Array(golden.scores.into_iter().map(Value::F32).collect()),
        ),
        (
            "tokenizer.ggml.token_type".to_owned(),
            Value::Array(golden.types.into_iter().map(Value::I32).collect()),
        ),
        ("tokenizer.ggml.unknown_token_id".to_owned(), Value::U32(0)),
    ]))
    .unwrap();
    check_texts(&tokenizer, &golden.texts);
}
