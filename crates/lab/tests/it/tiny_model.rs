//! A whole model without a file: a tiny random Llama, a token for each character, and a chat template.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use serde_json::json;
use skeg_lab::evaluate::SharedModel;
use skeg_model::steering::Site;
use skeg_model::testing::{RandomWeights, random_llama_and_tensors, tiny_config};
use skeg_model::{
    Capture, ChatTemplate, Hooks, KvCache, KvCacheDtype, Llama, LoadedModel, PackedBatch, Tokenizer,
};

/// Hidden size, layers and context of the model.
pub(crate) const HIDDEN_SIZE: usize = 64;
pub(crate) const CONTEXT: usize = 256;

const TEMPLATE: &str = "{% for message in messages %}<|start|>{{ message.role }}: {{ message.content }}<|end|>\
    {% endfor %}{% if add_generation_prompt %}<|start|>{% endif %}";

/// A prompt in the template above.
pub(crate) fn rendered(prompt: &str) -> String {
    format!("<|start|>user: {prompt}<|end|><|start|>")
}

/// Printable ASCII, space and newline, one token each, and special ones.
fn tokenizer() -> Tokenizer {
    // Byte level writes a space as U+0120 and a newline as U+010A.
    let characters = ('!'..='~').chain(['\u{120}', '\u{10a}']);
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        characters.enumerate().map(|(id, character)| (character.to_string(), json!(id))).collect();
    let mut added = Vec::new();
    let special = ["<|start|>", "<|end|>"].map(str::to_owned).into_iter();
    // A random model says anything: every row of its embedding is a token.
    let rest = (vocab.len() + 2..tiny_config().vocab_size).map(|id| format!("<|{id}|>"));
    for content in special.chain(rest) {
        let id = vocab.len();
        vocab.insert(content.clone(), json!(id));
        added.push(json!({"id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false}));
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "byte_fallback": false,
        "vocab": vocab, "merges": []});
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes, "model": model});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    Tokenizer::from_json_file(&path).unwrap()
}

/// The model, and its tensors by checkpoint name.
pub(crate) fn model_and_tensors() -> (LoadedModel, HashMap<String, Tensor>) {
    let form = RandomWeights::Dense(DType::F32);
    let (llama, tensors) = random_llama_and_tensors(tiny_config(), 11, form).unwrap();
    let model = LoadedModel {
        llama,
        tokenizer: tokenizer(),
        chat_template: Some(ChatTemplate::compile(TEMPLATE, None, None).unwrap()),
        stop_token_ids: Vec::new(),
        identity: crate::extraction::identity(),
    };
    (model, tensors)
}

pub(crate) fn model() -> LoadedModel {
    model_and_tensors().0
}

pub(crate) fn shared() -> SharedModel {
    SharedModel::from(model())
}

/// A pseudo-random row for each of `layers`; `seed` tells vectors apart.
pub(crate) fn rows(layers: &[usize], seed: f32) -> Vec<skeg_model::steering::LayerVector> {
    let row = |&layer: &usize| skeg_model::steering::LayerVector {
        layer,
        values: (0..HIDDEN_SIZE).map(|i| ((i * 7 + layer * 3) as f32 * seed).sin()).collect(),
    };
    layers.iter().map(row).collect()
}

/// Every row of these tokens at these layers (`resid_post`), layer by layer, by one pass of its own.
pub(crate) fn rows_of_pass(
    llama: &Llama,
    token_ids: Vec<u32>,
    layers: &[usize],
    kv_cache_dtype: KvCacheDtype,
) -> Vec<Vec<f32>> {
    let count = token_ids.len();
    let batch = PackedBatch {
        token_ids,
        positions: (0..count).collect(),
        cu_seqlens: vec![0, count],
        block_tables: vec![(0..8).collect()],
        logit_rows: Vec::new(),
    };
    let mut cache = KvCache::new(llama, 8, 32, kv_cache_dtype).unwrap();
    let mut capture = Capture::new(Site::ResidPost, layers.to_vec(), (0..count).collect());
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    llama.forward(&batch, &mut cache, &mut hooks).unwrap();
    let found = capture.take();
    let row = |row: usize| {
        found.iter().flat_map(move |(_, values)| &values[row * HIDDEN_SIZE..][..HIDDEN_SIZE])
    };
    (0..count).map(|idx| row(idx).copied().collect()).collect()
}
