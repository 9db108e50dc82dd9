//! A BERT of two layers over a few words.

use serde_json::{Value, json};

use super::super::WEIGHTS;
use crate::tensor_file::{NamedTensor, to_bytes};

pub(super) const HIDDEN: usize = 32;
pub(super) const WORDS: [&str; 12] =
    ["please", "how", "want", "poison", "spy", "tea", "one", "two", "three", "four", "five", "six"];

/// Waves of different phase instead of random numbers: the same on every machine.
fn tiny_weights(prefix: &str) -> Vec<u8> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut add = |name: String, shape: &[usize], around: f32| {
        let phase = tensors.len() as f32;
        let angle = |idx: usize| (idx * idx % 101) as f32 + idx as f32 * 0.7 + phase * 1.3;
        let wave = |idx: usize| around + 0.3 * angle(idx).sin();
        let values = (0..shape.iter().product()).map(wave).collect();
        tensors.push((format!("{prefix}{name}"), shape.to_vec(), values));
    };
    for (kind, rows) in [("word", 4 + WORDS.len()), ("position", 32), ("token_type", 2)] {
        add(format!("embeddings.{kind}_embeddings.weight"), &[rows, HIDDEN], 0.0);
    }
    let mut norms = vec!["embeddings".to_owned()];
    for layer in 0..2 {
        let place = |part: &str| format!("encoder.layer.{layer}.{part}");
        norms.extend([place("attention.output"), place("output")]);
        for (part, out, width) in [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", 48, HIDDEN),
            ("output.dense", HIDDEN, 48),
        ] {
            add(format!("{}.weight", place(part)), &[out, width], 0.0);
            add(format!("{}.bias", place(part)), &[out], 0.0);
        }
    }
    for place in norms {
        add(format!("{place}.LayerNorm.weight"), &[HIDDEN], 1.0);
        add(format!("{place}.LayerNorm.bias"), &[HIDDEN], 0.0);
    }
    let named: Vec<NamedTensor<'_>> = tensors
        .iter()
        .map(|(name, shape, values)| NamedTensor {
            name: name.clone(),
            shape: shape.clone(),
            values,
        })
        .collect();
    to_bytes(&Default::default(), &named)
}

/// A folder with it; `prefix` stands before the names of its tensors.
pub(super) fn tiny_with(prefix: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "vocab_size": 4 + WORDS.len(), "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 32,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "model_type": "bert"
    });
    let frame = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let vocabulary: serde_json::Map<String, Value> = frame
        .iter()
        .chain(&WORDS)
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    });
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("config.json", config.to_string().as_bytes());
    write("tokenizer.json", tokenizer.to_string().as_bytes());
    write(WEIGHTS, &tiny_weights(prefix));
    folder
}
