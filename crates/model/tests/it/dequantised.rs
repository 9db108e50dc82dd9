//! The small real model with its weights in f32, read without the crate's own loader: the golden numbers then
//! judge the forward pass alone.

use std::collections::HashMap;
use std::fs::File;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use skeg_model::testing::llama_from_tensors;
use skeg_model::{Architecture, Llama, LlamaConfig, RopeScaling};

use crate::support::test_model;

/// SmolLM2-135M's dimensions, as its `config.json` states them.
fn config() -> LlamaConfig {
    LlamaConfig {
        architecture: Architecture::Llama,
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 30,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 49152,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 8192,
        tie_word_embeddings: true,
        attention_bias: false,
    }
}

/// The model, every weight dequantised.
pub(crate) fn dequantised_test_model() -> Llama {
    let config = config();
    let mut file = File::open(test_model()).unwrap();
    let content = Content::read(&mut file).unwrap();
    let tensors: HashMap<String, Tensor> = content
        .tensor_infos
        .keys()
        .map(|name| {
            let stored = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            let tensor = stored.dequantize(&Device::Cpu).unwrap();
            let tensor = match name.rsplit_once("attn_") {
                Some((_, "q.weight")) => halves(&tensor, config.num_attention_heads),
                Some((_, "k.weight")) => halves(&tensor, config.num_key_value_heads),
                _ => tensor,
            };
            (checkpoint_name(name), tensor)
        })
        .collect();
    llama_from_tensors(config, tensors).unwrap()
}

/// The file interleaves the two halves of each head's rows; checkpoints keep them apart.
fn halves(tensor: &Tensor, num_heads: usize) -> Tensor {
    let (rows, cols) = tensor.dims2().unwrap();
    let half = rows / num_heads / 2;
    let pairs = tensor.reshape((num_heads, half, 2, cols)).unwrap();
    pairs.transpose(1, 2).unwrap().reshape((rows, cols)).unwrap()
}

/// A GGUF tensor's name in a Hugging Face checkpoint.
fn checkpoint_name(name: &str) -> String {
    let renamed = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk.", "model.layers."),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    renamed.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}
