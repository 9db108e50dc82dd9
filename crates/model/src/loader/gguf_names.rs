//! Tensor names: Hugging Face's and GGUF's.
//!
//! Source: gguf-py's `tensor_mapping.py`, architectures llama and qwen2.

/// Tensors outside the blocks: (checkpoint name, GGUF name).
const TOP: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Modules of a block: (checkpoint name, GGUF name).
const BLOCK: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The GGUF name of a checkpoint tensor, `None` for names a llama does not have.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    translate(name, "model.layers.", "blk.", |(checkpoint, gguf)| (checkpoint, gguf))
}

/// The checkpoint name of a GGUF tensor, `None` for tensors a llama does not use.
pub(super) fn checkpoint_name(name: &str) -> Option<String> {
    translate(name, "blk.", "model.layers.", |(checkpoint, gguf)| (gguf, checkpoint))
}

type Pair = (&'static str, &'static str);

/// Translates by the tables; `order` says which side of a pair is read.
fn translate(
    name: &str,
    from_prefix: &str,
    to_prefix: &str,
    order: impl Fn(Pair) -> Pair,
) -> Option<String> {
    let find = |table: &[Pair], name: &str| {
        table.iter().map(|&pair| order(pair)).find(|(from, _)| *from == name).map(|(_, to)| to)
    };
    if let Some(top) = find(&TOP, name) {
        return Some(top.to_owned());
    }
    let (layer, rest) = name.strip_prefix(from_prefix)?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = find(&BLOCK, module)?;
    Some(format!("{to_prefix}{layer}.{module}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_goes_there_and_back() {
        for name in [
            "model.embed_tokens.weight",
            "lm_head.weight",
            "model.layers.12.self_attn.q_proj.bias",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.7.post_attention_layernorm.weight",
        ] {
            let gguf = gguf_name(name).unwrap();
            assert_eq!(checkpoint_name(&gguf).as_deref(), Some(name));
        }
        assert_eq!(gguf_name("model.layers.x.mlp.up_proj.weight"), None);
        assert_eq!(checkpoint_name("blk.3.attn_qkv.weight"), None);
    }
}
