//! `skeg probe tune-embedder`, with an encoder and texts that are made here.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{run, skeg};

const HIDDEN: usize = 16;
const WORDS: [&str; 6] = ["swindle", "stalk", "bake", "please", "kindly", "now"];

/// A folder `encoder` with a BERT of one layer over a few words.
fn write_encoder(folder: &Path) {
    let folder = folder.join("encoder");
    std::fs::create_dir(&folder).unwrap();
    let config = json!({
        "vocab_size": 10, "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 96,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0
    });
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].into_iter().chain(WORDS).enumerate();
    let vocabulary: Map<String, Value> =
        tokens.map(|(id, token)| (token.to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("model.safetensors"), weights()).unwrap();
}

/// A safetensors file of waves.
fn weights() -> Vec<u8> {
    let layer = |part: &str| format!("encoder.layer.0.{part}");
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    for (kind, rows) in [("word", 10), ("position", 96), ("token_type", 2)] {
        shapes.push((format!("embeddings.{kind}_embeddings.weight"), vec![rows, HIDDEN]));
    }
    for (place, out, width) in [
        (layer("attention.self.query"), HIDDEN, Some(HIDDEN)),
        (layer("attention.self.key"), HIDDEN, Some(HIDDEN)),
        (layer("attention.self.value"), HIDDEN, Some(HIDDEN)),
        (layer("attention.output.dense"), HIDDEN, Some(HIDDEN)),
        (layer("intermediate.dense"), 32, Some(HIDDEN)),
        (layer("output.dense"), HIDDEN, Some(32)),
        (layer("attention.output.LayerNorm"), HIDDEN, None),
        (layer("output.LayerNorm"), HIDDEN, None),
        ("embeddings.LayerNorm".to_owned(), HIDDEN, None),
    ] {
        let shape = std::iter::once(out).chain(width).collect();
        shapes.push((format!("{place}.weight"), shape));
        shapes.push((format!("{place}.bias"), vec![out]));
    }
    let (mut header, mut values) = (Map::new(), Vec::new());
    for (phase, (name, shape)) in shapes.into_iter().enumerate() {
        let start = values.len();
        let around = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        for idx in 0..shape.iter().product() {
            let wave: f32 = around + 0.3 * (idx as f32 * 0.7 + phase as f32 * 1.3).sin();
            values.extend(wave.to_le_bytes());
        }
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, values.len()]});
        header.insert(name, place);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &values].concat()
}

/// Writes a set in which `swindle` is fraud, `stalk` is privacy and `bake` is harmless.
fn write_set(folder: &Path, name: &str, word: &str) {
    let row = |idx: usize| {
        let kind = [("swindle", "fraud"), ("stalk", "privacy"), ("bake", "")][idx % 3];
        let mut row = json!({
            "id": format!("{name}{idx}"), "text": format!("{} {}", kind.0, format!("{word} ").repeat(1 + idx / 3)),
            "harmful": !kind.1.is_empty(), "source": "own",
        });
        if !kind.1.is_empty() {
            row["category"] = json!(kind.1);
        }
        row.to_string() + "\n"
    };
    let rows: String = (0..12).map(row).collect();
    std::fs::write(folder.join(format!("{name}.jsonl")), rows).unwrap();
}

fn sets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_encoder(folder.path());
    for (name, word) in [("a", "please"), ("b", "kindly"), ("c", "now")] {
        write_set(folder.path(), name, word);
    }
    folder
}

fn probe(folder: &Path, command: &str, flags: &[&str]) -> (i32, String, String) {
    let categories = ["--categories", "fraud,privacy"];
    run(skeg(folder).args(["probe", command]).args(categories).args(flags))
}

const TUNE: [&str; 8] =
    ["--embedder", "encoder", "--train", "a=a.jsonl", "--train", "b=b.jsonl", "--tune-layers", "1"];

#[test]
fn a_tuned_encoder_is_compared_and_then_read_by_a_probe_of_other_sets() {
    let folder = sets();
    let flags = ["--measure", "c=c.jsonl", "--leave-out", "b", "--out", "tuned", "--json"];
    let (code, stdout, stderr) =
        probe(folder.path(), "tune-embedder", &[&TUNE, &flags[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("step 1 of 1: loss "), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    for heads in ["before", "after"] {
        let sets = report[heads]["report"]["sets"].as_array().unwrap();
        let names: Vec<&Value> = sets.iter().map(|set| &set["set"]).collect();
        assert_eq!(names, ["b", "c"]);
    }
    let training = std::fs::read(folder.path().join("tuned/training.json")).unwrap();
    let training: Value = serde_json::from_slice(&training).unwrap();
    assert_eq!(training["trained_on"]["sets"][0]["name"], "a");
    assert_eq!(training["trained_on"]["sets"].as_array().unwrap().len(), 1);

    let reads = ["--members", "embedding", "--embedder", "tuned", "--out", "probe.safetensors"];
    let others = ["--train", "b=b.jsonl", "--train", "c=c.jsonl"];
    let (code, _, stderr) = probe(folder.path(), "train", &[&reads[..], &others].concat());
    assert_eq!(code, 0, "{stderr}");
    let seen = ["--train", "first=a.jsonl", "--train", "b=b.jsonl"];
    let (code, _, stderr) = probe(folder.path(), "train", &[&reads[..], &seen].concat());
    assert_eq!(code, 1);
    assert!(
        stderr.contains("was tuned on first,") && stderr.contains("--allow-overlap"),
        "{stderr}"
    );
    let allowed = [&reads[..], &seen, &["--allow-overlap"]].concat();
    let (code, _, stderr) = probe(folder.path(), "train", &allowed);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn what_cannot_be_tuned_is_said_before_the_work() {
    let folder = sets();
    let tune = |flags: &[&str]| probe(folder.path(), "tune-embedder", &[&TUNE, flags].concat());
    let (code, _, stderr) = tune(&["--out", "encoder"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("encoder holds an embedder already"), "{stderr}");
    let (code, _, stderr) = tune(&["--out", "tuned", "--leave-out", "x"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("--leave-out x: no source"), "{stderr}");
    let (code, _, stderr) = tune(&["--out", "tuned", "--max-tokens", "97"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("97 tokens of a text; expected 3 to 96"), "{stderr}");
    assert!(!folder.path().join("tuned").exists());
    let (code, stdout, stderr) = tune(&["--out", "tuned"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("tuned is an embedder"), "{stdout}");
}
