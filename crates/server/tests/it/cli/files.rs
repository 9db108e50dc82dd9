//! A model of a few kilobytes and a vector store for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use skeg_model::{LoadOptions, LoadedModel};
use skeg_vector_store::{
    Category, CategoryVectors, ModelBinding, NewGeneration, Operator, Orientation, Policy,
    Provenance, SafeWindow, Site, set_current, write_generation,
};

const HIDDEN_SIZE: usize = 8;
const INTERMEDIATE_SIZE: usize = 16;
/// 26 letters, a space, three signs of a template, and the ends of texts.
const VOCABULARY: [&str; 32] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s",
    "t", "u", "v", "w", "x", "y", "z", "Ġ", ":", ".", "Ċ", "<s>", "</s>",
];

/// Writes a Hugging Face folder: one layer, random weights, a character tokenizer and a template.
pub(crate) fn write_model(folder: &Path) -> PathBuf {
    let folder = folder.join("model");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, value: serde_json::Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };
    write(
        "config.json",
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": HIDDEN_SIZE, "intermediate_size": INTERMEDIATE_SIZE,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "vocab_size": VOCABULARY.len(), "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "max_position_embeddings": 128, "tie_word_embeddings": true, "torch_dtype": "float32",
        }),
    );
    let ids = VOCABULARY.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id)));
    let special = |id: usize| {
        json!({"id": id, "content": VOCABULARY[id], "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    write(
        "tokenizer.json",
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(30), special(31)],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                              "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                        "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                      "continuing_subword_prefix": null, "end_of_word_suffix": null,
                      "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                      "vocab": ids.collect::<serde_json::Map<_, _>>(), "merges": []},
        }),
    );
    write(
        "tokenizer_config.json",
        json!({
            "bos_token": "<s>", "eos_token": "</s>",
            "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ",
        }),
    );
    write("generation_config.json", json!({"eos_token_id": 31}));
    std::fs::write(folder.join("model.safetensors"), weights()).unwrap();
    folder
}

/// The weights in the form of a safetensors file.
fn weights() -> Vec<u8> {
    let (hidden, inner, kv) = (HIDDEN_SIZE, INTERMEDIATE_SIZE, HIDDEN_SIZE / 2);
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let shapes = [
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY.len(), hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
        (layer("input_layernorm"), vec![hidden]),
        (layer("post_attention_layernorm"), vec![hidden]),
        (layer("self_attn.q_proj"), vec![hidden, hidden]),
        (layer("self_attn.k_proj"), vec![kv, hidden]),
        (layer("self_attn.v_proj"), vec![kv, hidden]),
        (layer("self_attn.o_proj"), vec![hidden, hidden]),
        (layer("mlp.gate_proj"), vec![inner, hidden]),
        (layer("mlp.up_proj"), vec![inner, hidden]),
        (layer("mlp.down_proj"), vec![hidden, inner]),
    ];
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::new(), 1_u32);
    for (name, shape) in shapes {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // The upper bits, from -0.5 to 0.5.
            let value = f32::from(u16::try_from(state >> 16).unwrap()) / 65536.0 - 0.5;
            data.extend(value.to_le_bytes());
        }
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    file
}

/// Writes a store for the model at `model`, with two categories, and makes it live.
pub(crate) fn write_store(folder: &Path, model: &Path) -> PathBuf {
    let root = folder.join("vectors");
    let identity = LoadedModel::load(model, &LoadOptions::default()).unwrap().identity;
    publish(
        &root,
        ModelBinding {
            architecture_id: identity.architecture_id,
            weights_id: identity.weights_id,
            hidden_size: identity.hidden_size,
            num_hidden_layers: identity.num_hidden_layers,
        },
    );
    root
}

/// Writes a generation for any model and makes it the live one.
pub(crate) fn publish(root: &Path, model: ModelBinding) {
    let id = write_generation(root, &generation(model)).unwrap();
    set_current(root, &id, None).unwrap();
}

/// A generation of two categories, without figures.
pub(crate) fn generation(model: ModelBinding) -> NewGeneration {
    let slugs = ["fraud_deception", "malware_viruses"];
    let categories = || slugs.map(|slug| Category::parse(slug).unwrap());
    let values: Vec<f32> = (0..model.hidden_size).map(|_| 0.25).collect();
    let rule = "action = \"steer\"\npositions = \"all\"\n\
                strength = { default = 1.0, floor = 0.0, ceiling = 2.0 }\n";
    let rules = slugs.map(|slug| format!("[categories.{slug}]\n{rule}")).concat();
    let policy = format!(
        "when_missing = \"none\"\n{rules}\
         [groups.anonymous]\nmay_none = true\nmay_compare = true\nmay_raise = true\nmay_lower = true\n"
    );
    NewGeneration {
        also_measured_on: Vec::new(),
        site: Site::AttnOut,
        operator: Operator::Add,
        orientation: Orientation::SafeMinusUnsafe,
        vectors: categories()
            .map(|category| (category, CategoryVectors { layers: vec![0], values: values.clone() }))
            .into(),
        activation_norms: categories().map(|category| (category, vec![1.0])).into(),
        safe_windows: categories()
            .map(|category| (category, SafeWindow { min: 0.0, max: 2.0 }))
            .into(),
        provenance: Provenance { categories: BTreeMap::new(), ..Provenance::default() },
        measured: Vec::new(),
        policy: Policy::parse(&policy).unwrap(),
        probe: None,
        card: "# Test\n".to_owned(),
        figures: None,
        model,
    }
}
