//! The sentence embedder: on a tiny random BERT always, on all-MiniLM-L6-v2 where `SKEG_TEST_EMBEDDER` names its folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use skeg_lab::judge::{Embed, SentenceEmbedder};
use skeg_lab::{Error, NoProgress};

use crate::extraction::StopAfter;

const HIDDEN: usize = 16;
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

/// A folder with a BERT of two layers over letters, each text framed by two tokens.
fn tiny(folder: &Path) {
    let config = json!({
        "vocab_size": 30, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 64,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "model_type": "bert"
    });
    let mut vocabulary = serde_json::Map::new();
    let frame = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    for (id, token) in frame.into_iter().chain(LETTERS.chars().map(String::from)).enumerate() {
        vocabulary.insert(token, json!(id));
    }
    let special = |id: usize, token: &str| {
        json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    });
    write(folder, "config.json", &config);
    write(folder, "tokenizer.json", &tokenizer);
    candle_core::safetensors::save(&weights(), folder.join("model.safetensors")).unwrap();
}

fn write(folder: &Path, name: &str, value: &Value) {
    std::fs::write(folder.join(name), value.to_string()).unwrap();
}

/// Waves of different phase instead of random numbers: the same on every machine.
fn weights() -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize], around: f64| {
        let phase = tensors.len() as f64;
        let num: usize = shape.iter().product();
        let values: Vec<f64> =
            (0..num).map(|idx| around + 0.3 * (idx as f64 * 0.7 + phase * 1.3).sin()).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.insert(name, tensor.to_dtype(candle_core::DType::F32).unwrap());
    };
    for (name, rows) in [("word", 30), ("position", 64), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, HIDDEN], 0.0);
    }
    let norms = (0..2).flat_map(|layer| {
        ["attention.output", "output"].map(|part| format!("encoder.layer.{layer}.{part}"))
    });
    for place in norms.chain(["embeddings".to_owned()]) {
        add(format!("{place}.LayerNorm.weight"), &[HIDDEN], 1.0);
        add(format!("{place}.LayerNorm.bias"), &[HIDDEN], 0.0);
    }
    for layer in 0..2 {
        for (part, out, width) in [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", 32, HIDDEN),
            ("output.dense", HIDDEN, 32),
        ] {
            add(format!("encoder.layer.{layer}.{part}.weight"), &[out, width], 0.0);
            add(format!("encoder.layer.{layer}.{part}.bias"), &[out], 0.0);
        }
    }
    tensors
}

fn tiny_embedder() -> SentenceEmbedder {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    SentenceEmbedder::load(folder.path()).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Texts alone and in company of longer and shorter ones.
fn check_company(embedder: &dyn Embed, texts: &[&str]) {
    let together = embedder.embed(texts, &mut NoProgress).unwrap();
    assert_eq!(together, embedder.embed(texts, &mut NoProgress).unwrap());
    for (text, embedding) in texts.iter().zip(&together) {
        assert_eq!(embedding.len(), embedder.width());
        let norm: f32 = embedding.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        let alone = embedder.embed(&[text], &mut NoProgress).unwrap();
        assert!(largest_difference(embedding, &alone[0]) < 1e-5, "{text}");
    }
}

#[test]
fn an_embedding_does_not_depend_on_its_company() {
    let long = "e f g h ".repeat(12);
    let embedder = tiny_embedder();
    check_company(&embedder, &["a b c", &long, "", "z", "a b d"]);
    let both = embedder.embed(&["a b c", "a b d"], &mut NoProgress).unwrap();
    assert!(largest_difference(&both[0], &both[1]) > 1e-3, "other words, another embedding");
}

#[test]
fn a_text_is_cut_at_the_models_length() {
    let embedder = tiny_embedder();
    // 62 letters and the two tokens of the frame.
    let [exact, longer] = [62, 70].map(|length| "a b ".repeat(length / 2));
    let both = embedder.embed(&[&exact, &longer], &mut NoProgress).unwrap();
    assert_eq!(both[0], both[1]);
    let shorter = embedder.embed(&[&exact[..exact.len() - 2]], &mut NoProgress).unwrap();
    assert!(largest_difference(&both[0], &shorter[0]) > 1e-5);
}

#[test]
fn a_folder_that_holds_no_embedder_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = || SentenceEmbedder::load(folder.path()).unwrap_err().to_string();
    assert!(error().contains("config.json"), "{}", error());
    tiny(folder.path());
    std::fs::write(folder.path().join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    assert!(error().contains("expected a BERT sentence embedder"), "{}", error());
    tiny(folder.path());
    std::fs::write(folder.path().join("model.safetensors"), "x").unwrap();
    assert!(error().contains("model.safetensors: "), "{}", error());
}

#[test]
fn embedding_can_be_interrupted() {
    let mut stop = StopAfter { num_left: Some(1), ..StopAfter::default() };
    let error = tiny_embedder().embed(&["a"], &mut stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted { done: 1, total: 1 }), "{error}");
}

/// The folder of all-MiniLM-L6-v2, or a line that says why the test shows nothing.
#[expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests find the embedder by the environment alone, and say where it is missing"
)]
pub(crate) fn minilm() -> Option<SentenceEmbedder> {
    let folder = std::env::var_os("SKEG_TEST_EMBEDDER").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: no data (SKEG_TEST_EMBEDDER names no folder of all-MiniLM-L6-v2)");
    }
    folder.map(|folder| SentenceEmbedder::load(&folder).unwrap())
}

/// Reference of `tests/golden/gen_embeddings.py`: the forward pass in numpy and float64.
#[test]
fn minilm_gives_the_reference_embeddings() {
    let Some(embedder) = minilm() else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/embeddings.json");
    let golden: Vec<Value> = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let texts: Vec<&str> = golden.iter().map(|row| row["text"].as_str().unwrap()).collect();
    let embeddings = embedder.embed(&texts, &mut NoProgress).unwrap();
    for (row, embedding) in golden.iter().zip(&embeddings) {
        let expected: Vec<f64> = serde_json::from_value(row["embedding"].clone()).unwrap();
        assert_eq!(expected.len(), embedding.len());
        for (expected, &value) in expected.iter().zip(embedding.iter()) {
            assert!((expected - f64::from(value)).abs() < 1e-4, "{}", row["text"]);
        }
    }
    check_company(&embedder, &texts);
}
