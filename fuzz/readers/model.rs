//! The loader of skeg-model: a GGUF file's header, configuration, tokenizer, chat template and tensors.

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use skeg_model::{CpuOptions, LoadOptions, LoadedModel};

use crate::heap::{Reader, bounded};

pub(crate) const READERS: [Reader; 1] =
    [Reader { name: "gguf_model", read: gguf_model, seeds: model_seeds }];

/// Each byte of a file may cost this many, and a file this many more: metadata as a map of values, the tokenizer's maps and
/// expressions, the template's program, the buffer of the hash.
const BYTES_A_BYTE: usize = 128;
const BYTES_A_FILE: usize = 8 * 1024 * 1024;

/// Loaded once outside the bound: what libraries make once is made, such as symbols for the backtrace in candle's errors.
static WARM: LazyLock<[bool; 2]> = LazyLock::new(|| {
    let seed = model_seeds().swap_remove(0);
    [&seed[..], &seed[..seed.len() / 2]].map(|bytes| load(bytes, usize::MAX).is_ok())
});

fn gguf_model(bytes: &[u8]) -> bool {
    assert_eq!(*WARM, [true, false]);
    let loaded = load(bytes, BYTES_A_BYTE * bytes.len() + BYTES_A_FILE);
    if let Ok(model) = &loaded {
        let config = model.llama.config();
        assert!(config.vocab_size * config.hidden_size <= bytes.len() * 8);
        assert!(model.tokenizer.vocab_size() <= config.vocab_size);
    }
    loaded.is_ok()
}

/// Loads a model from bytes, in at most so much heap; why not, in words.
pub(crate) fn load(bytes: &[u8], most: usize) -> Result<LoadedModel, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let cpu = CpuOptions { num_threads: NonZeroUsize::new(1), ..CpuOptions::default() };
    let options = LoadOptions { cpu, ..LoadOptions::default() };
    bounded(most, "the model", || {
        LoadedModel::load(&path, &options).map_err(|error| error.to_string())
    })
}

/// Width of each seed: one block of the quantised types.
const HIDDEN_SIZE: usize = 32;
const VOCABULARY: [&str; 8] = ["a", "b", "ab", "c", "<|im_end|>", "\u{120}", "d", "e"];

fn model_seeds() -> Vec<Vec<u8>> {
    let text = |text: &str| Value::String(text.to_owned());
    let list = |texts: &[&str]| Value::Array(texts.iter().map(|one| text(one)).collect());
    let byte_level = vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.merges", list(&["a b"])),
        (
            "tokenizer.chat_template",
            text("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}"),
        ),
    ];
    let scores = VOCABULARY.map(|token| Value::F32(-(token.len() as f32))).to_vec();
    let sentencepiece = vec![
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.scores", Value::Array(scores)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("llama.rope.scaling.type", text("linear")),
        ("llama.rope.scaling.factor", Value::F32(2.0)),
    ];
    vec![model(byte_level, GgmlDType::Q4_0), model(sentencepiece, GgmlDType::Q8_0)]
}

/// A model of one block, with more metadata.
pub(crate) fn model(more: Vec<(&str, Value)>, dtype: GgmlDType) -> Vec<u8> {
    let tokens = VOCABULARY.map(|token| Value::String(token.to_owned())).to_vec();
    let types = VOCABULARY.map(|token| Value::I32(if token.len() > 5 { 3 } else { 1 })).to_vec();
    let mut metadata = vec![
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.embedding_length", Value::U32(32)),
        ("llama.feed_forward_length", Value::U32(32)),
        ("llama.block_count", Value::U32(1)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.context_length", Value::U32(64)),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.eos_token_id", Value::U32(4)),
    ];
    metadata.extend(more);
    let (half, full) = (HIDDEN_SIZE / 2, HIDDEN_SIZE);
    let matrices = [
        ("token_embd", VOCABULARY.len()),
        ("output", VOCABULARY.len()),
        ("blk.0.attn_q", full),
        ("blk.0.attn_k", half),
        ("blk.0.attn_v", half),
        ("blk.0.attn_output", full),
        ("blk.0.ffn_gate", full),
        ("blk.0.ffn_up", full),
        ("blk.0.ffn_down", full),
    ];
    let matrices = matrices.map(|(name, rows)| (name, random(&[rows, full], dtype)));
    let norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"];
    let norms = norms.map(|name| (name, random(&[full], GgmlDType::F32)));
    let tensors: Vec<(String, QTensor)> = matrices
        .into_iter()
        .chain(norms)
        .map(|(name, tensor)| (format!("{name}.weight"), tensor))
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

/// Some numbers, the same each time.
fn random(shape: &[usize], dtype: GgmlDType) -> QTensor {
    let num = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..num).map(|idx| (idx * 37 % 64) as f32 / 64.0 - 0.4).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, dtype).unwrap()
}
