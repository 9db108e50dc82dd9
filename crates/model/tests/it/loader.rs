//! Models written to files of both formats, loaded back; and files that are not models.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use skeg_model::testing::{RandomWeights, random_llama_and_tensors, tiny_config};
use skeg_model::{
    Hooks, KvCache, KvCacheDtype, Llama, LoadOptions, LoadedModel, ModelFiles, PackedBatch,
    WeightForm,
};
use tempfile::TempDir;

const SEED: u64 = 11;

fn tensors() -> (Llama, HashMap<String, Tensor>) {
    random_llama_and_tensors(tiny_config(), SEED, RandomWeights::Dense(candle_core::DType::F32))
        .unwrap()
}

/// A byte-level tokenizer with one token a byte and no merges: 128 tokens, the last ends a turn.
fn vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = (33_u8..=126).map(|byte| char::from(byte).to_string()).collect();
    while tokens.len() < 127 {
        tokens.push(format!("unused{}", tokens.len()));
    }
    tokens.push("<|im_end|>".to_owned());
    tokens
}

fn config_json() -> serde_json::Value {
    serde_json::json!({
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 256,
        "tie_word_embeddings": false,
        "hidden_act": "silu",
    })
}

fn tokenizer_json() -> serde_json::Value {
    let vocab: HashMap<String, usize> =
        vocabulary().into_iter().enumerate().map(|(id, token)| (token, id)).collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{
            "id": 127, "content": "<|im_end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": [],
        },
    })
}

fn write_json(path: &Path, json: &serde_json::Value) {
    std::fs::write(path, json.to_string()).unwrap();
}

/// A Hugging Face folder, in one weight file or two with an index.
fn write_folder(folder: &Path, sharded: bool) {
    let (_, tensors) = tensors();
    write_json(&folder.join("config.json"), &config_json());
    write_json(&folder.join("tokenizer.json"), &tokenizer_json());
    if !sharded {
        candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
        return;
    }
    let (first, second): (HashMap<_, _>, HashMap<_, _>) =
        tensors.into_iter().partition(|(name, _)| name.contains("layers.0."));
    let mut weight_map = serde_json::Map::new();
    for (file, shard) in [("model-00001.safetensors", first), ("model-00002.safetensors", second)] {
        candle_core::safetensors::save(&shard, folder.join(file)).unwrap();
        weight_map.extend(shard.into_keys().map(|name| (name, file.into())));
    }
    write_json(
        &folder.join("model.safetensors.index.json"),
        &serde_json::json!({ "weight_map": weight_map }),
    );
}

/// llama.cpp's permutation of q and k rows: (head, side, pair) to (head, pair, side).
fn permute(tensor: &Tensor, num_heads: usize) -> Tensor {
    let (rows, cols) = tensor.dims2().unwrap();
    tensor
        .reshape((num_heads, 2, rows / num_heads / 2, cols))
        .unwrap()
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap()
        .reshape((rows, cols))
        .unwrap()
}

fn gguf_metadata() -> Vec<(&'static str, Value)> {
    let strings = |list: Vec<String>| Value::Array(list.into_iter().map(Value::String).collect());
    let mut types = vec![Value::I32(1); 127];
    types.push(Value::I32(3));
    vec![
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.embedding_length", Value::U32(64)),
        ("llama.feed_forward_length", Value::U32(192)),
        ("llama.block_count", Value::U32(3)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.context_length", Value::U32(256)),
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".to_owned())),
        ("tokenizer.ggml.tokens", strings(vocabulary())),
        ("tokenizer.ggml.merges", strings(Vec::new())),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.eos_token_id", Value::U32(127)),
    ]
}

fn gguf_name(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn write_gguf(path: &Path, metadata: &[(&str, Value)], dtype: GgmlDType) {
    let (_, tensors) = tensors();
    let quantised: Vec<(String, QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let tensor = match name.as_str() {
                name if name.ends_with("q_proj.weight") => permute(tensor, 4),
                name if name.ends_with("k_proj.weight") => permute(tensor, 2),
                _ => tensor.clone(),
            };
            let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { dtype };
            (gguf_name(name), QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        quantised.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

fn load(path: &Path) -> skeg_model::Result<LoadedModel> {
    LoadedModel::load(path, &LoadOptions::default())
}

/// The error of loading `path`, as a user reads it.
fn refusal(path: &Path) -> String {
    load(path).expect_err("the model must be refused").to_string()
}

#[expect(clippy::disallowed_methods, reason = "tests compare on the host")]
fn logits(llama: &Llama) -> Vec<f32> {
    let mut cache = KvCache::new(llama, 2, 8, KvCacheDtype::F32).unwrap();
    let batch = PackedBatch {
        token_ids: vec![3, 50, 90, 7, 12],
        positions: (0..5).collect(),
        cu_seqlens: vec![0, 5],
        block_tables: vec![vec![1, 0]],
        logit_rows: vec![4],
    };
    let logits = llama.forward(&batch, &mut cache, &mut Hooks::none()).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn both_formats_and_shards_give_the_same_model() {
    let expected = bits(&logits(&tensors().0));
    let dir = TempDir::new().unwrap();
    let (single, sharded) = (dir.path().join("single"), dir.path().join("sharded"));
    std::fs::create_dir_all(&single).unwrap();
    std::fs::create_dir_all(&sharded).unwrap();
    write_folder(&single, false);
    write_folder(&sharded, true);
    let gguf = dir.path().join("model.gguf");
    write_gguf(&gguf, &gguf_metadata(), GgmlDType::F32);
    let models = [single, sharded, gguf].map(|path| load(&path).unwrap());
    for model in &models {
        assert_eq!(bits(&logits(&model.llama)), expected);
        assert_eq!(model.llama.config(), &tiny_config());
        assert_eq!(model.stop_token_ids, [127]);
        assert_eq!(model.identity.architecture_id, models[0].identity.architecture_id);
    }
    assert_ne!(models[0].identity.weights_id, models[2].identity.weights_id);
}

#[test]
fn a_quantised_file_dequantises_to_the_same_weights_in_either_form() {
    let dir = TempDir::new().unwrap();
    let gguf = dir.path().join("model.gguf");
    write_gguf(&gguf, &gguf_metadata(), GgmlDType::Q8_0);
    let stored = logits(&load(&gguf).unwrap().llama);
    let options = LoadOptions { weights: WeightForm::F32, ..LoadOptions::default() };
    let widened = logits(&LoadedModel::load(&gguf, &options).unwrap().llama);
    let exact = logits(&tensors().0);
    let distance =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
    // Q8_0 keeps about 2^-8 of each block's largest weight; the activations' own rounding adds as much.
    assert!(distance(&stored, &widened) < 0.1, "{}", distance(&stored, &widened));
    assert!(distance(&widened, &exact) < 0.1, "{}", distance(&widened, &exact));
    assert!(distance(&widened, &exact) > 0.0);
}

#[test]
fn identities_follow_weights_and_configuration() {
    let dir = TempDir::new().unwrap();
    write_folder(dir.path(), false);
    let before = load(dir.path()).unwrap().identity;
    assert_eq!(load(dir.path()).unwrap().identity, before);

    let weights = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let flipped = load(dir.path()).unwrap().identity;
    assert_eq!(flipped.architecture_id, before.architecture_id);
    assert_ne!(flipped.weights_id, before.weights_id);

    let mut config = config_json();
    config["rope_theta"] = 20_000.0.into();
    write_json(&dir.path().join("config.json"), &config);
    let other = load(dir.path()).unwrap().identity;
    assert_ne!(other.architecture_id, before.architecture_id);
    assert_eq!(other.weights_id, flipped.weights_id);
}

#[test]
fn a_configuration_that_asks_for_more_is_refused_by_field() {
    let cases = [
        ("model_type", "mistral".into()),
        ("mlp_bias", true.into()),
        ("attention_bias", true.into()),
        ("hidden_act", "gelu".into()),
        ("sliding_window", 4096.into()),
        ("quantization_config", serde_json::json!({"bits": 4})),
        ("pretraining_tp", 2.into()),
        ("num_key_value_heads", 3.into()),
        ("hidden_size", 0.into()),
        ("head_dim", 15.into()),
        ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 2.0})),
    ];
    let dir = TempDir::new().unwrap();
    write_folder(dir.path(), false);
    for (field, value) in cases {
        let mut config = config_json();
        config[field] = value;
        write_json(&dir.path().join("config.json"), &config);
        let refusal = refusal(dir.path());
        assert!(refusal.contains("config.json") && refusal.contains(field), "{field}: {refusal}");
    }
}

#[test]
fn gguf_metadata_that_asks_for_more_is_refused_by_field() {
    let cases = [
        ("general.architecture", Value::String("gemma".to_owned())),
        ("llama.expert_count", Value::U32(8)),
        ("llama.rope.scaling.type", Value::String("yarn".to_owned())),
        ("llama.rope.dimension_count", Value::U32(8)),
        ("llama.attention.head_count_kv", Value::U32(3)),
        ("llama.block_count", Value::U32(0)),
    ];
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    for (field, value) in cases {
        let mut metadata = gguf_metadata();
        metadata.retain(|(key, _)| *key != field);
        metadata.push((field, value));
        write_gguf(&path, &metadata, GgmlDType::F32);
        let refusal = refusal(&path);
        let named = refusal.contains(field) || refusal.contains("num_key_value_heads");
        assert!(refusal.contains("model.gguf") && named, "{field}: {refusal}");
    }
}

#[test]
fn damaged_files_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    write_gguf(&path, &gguf_metadata(), GgmlDType::F32);
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 3, 20, 1000, whole.len() - 40] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(refusal(&path).contains("model.gguf"), "cut at {length}");
    }
    let mut magic = whole;
    magic[0] = b'X';
    std::fs::write(&path, magic).unwrap();
    assert!(refusal(&path).contains("is no readable GGUF file"));
    std::fs::remove_file(&path).unwrap();

    write_folder(dir.path(), false);
    let weights = dir.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    for length in [4, 100, whole.len() - 8] {
        std::fs::write(&weights, &whole[..length]).unwrap();
        assert!(refusal(dir.path()).contains("model.safetensors"), "cut at {length}");
    }
}

#[test]
fn missing_pieces_are_named() {
    let dir = TempDir::new().unwrap();
    assert!(refusal(dir.path()).contains("neither config.json nor a .gguf file"));
    assert!(refusal(&dir.path().join("absent")).contains("absent"));
    write_folder(dir.path(), true);
    std::fs::remove_file(dir.path().join("model-00002.safetensors")).unwrap();
    assert!(refusal(dir.path()).contains("model-00002.safetensors"));
    write_folder(dir.path(), false);
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(refusal(dir.path()).contains("tokenizer.json"));
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "no model").unwrap();
    assert!(refusal(&text).contains("expected a .gguf file"));
}

#[test]
fn an_index_cannot_reach_outside_its_folder() {
    let dir = TempDir::new().unwrap();
    write_folder(dir.path(), true);
    write_json(
        &dir.path().join("model.safetensors.index.json"),
        &serde_json::json!({ "weight_map": { "model.norm.weight": "../other.safetensors" } }),
    );
    assert!(ModelFiles::discover(dir.path()).unwrap_err().to_string().contains("../other"));
}

#[test]
fn wrong_tensors_are_named() {
    let dir = TempDir::new().unwrap();
    write_folder(dir.path(), false);
    let weights = dir.path().join("model.safetensors");
    let check = |change: &dyn Fn(&mut HashMap<String, Tensor>), expected: &str| {
        let (_, mut tensors) = tensors();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &weights).unwrap();
        let refusal = refusal(dir.path());
        assert!(refusal.contains(expected), "{refusal}");
    };
    let norm = "model.layers.1.input_layernorm.weight";
    check(&|tensors| drop(tensors.remove(norm)), norm);
    let of = |values: Vec<f32>| Tensor::new(values, &Device::Cpu).unwrap();
    check(&|tensors| drop(tensors.insert(norm.to_owned(), of(vec![1.0; 63]))), "[63]");
    let mut broken = vec![1.0; 64];
    broken[9] = f32::NAN;
    check(&|tensors| drop(tensors.insert(norm.to_owned(), of(broken.clone()))), "value 9 is NaN");
}

#[test]
fn real_model_loads_as_published() {
    let model = load(&crate::support::test_model()).unwrap();
    let config = model.llama.config();
    assert_eq!((config.num_hidden_layers, config.hidden_size, config.head_dim), (30, 576, 64));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads), (9, 3));
    assert_eq!((config.vocab_size, config.max_position_embeddings), (49152, 8192));
    assert!(config.tie_word_embeddings);
    let end_of_turn = model.tokenizer.token_id("<|im_end|>").unwrap();
    assert!(model.stop_token_ids.contains(&end_of_turn));
    assert!(model.chat_template.is_some());
}
