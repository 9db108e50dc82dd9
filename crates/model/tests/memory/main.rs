//! Damaged model files: an error or a model, never a panic, and never more memory than their size allows.
//!
//! A program of its own, because it looks at the memory of the whole process: one test, on one thread. The reader and the
//! inputs are those of the fuzz target.
#![expect(clippy::unwrap_used, reason = "clippy lets tests panic, not the functions they share")]

#[path = "../../../../fuzz/readers/heap.rs"]
mod heap;
#[path = "../../../../fuzz/readers/model.rs"]
mod model;
#[path = "../../../../fuzz/readers/replay.rs"]
mod replay;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;

#[test]
fn a_damaged_file_is_an_error_within_bounds() {
    replay::check(&model::READERS);
    check_wrapping_shape();
    check_wrapping_width();
}

/// Heads so many and so wide, as metadata says it.
fn heads(num: u64, head_dim: u64) -> Vec<(&'static str, Value)> {
    let mut metadata = vec![
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".to_owned())),
        ("tokenizer.ggml.merges", Value::Array(Vec::new())),
    ];
    // The last of a key counts.
    metadata.extend([
        ("llama.attention.head_count", Value::U64(num)),
        ("llama.attention.head_count_kv", Value::U64(num)),
        ("llama.attention.key_length", Value::U64(head_dim)),
    ]);
    metadata
}

/// 2^59 rows of 32 elements are 2^64 elements, which is none where a product wraps round.
fn check_wrapping_shape() {
    let mut bytes = model::model(heads(1 << 31, 1 << 28), GgmlDType::Q4_0);
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    // The name is followed by the number of dimensions and by columns, then rows.
    let rows = at + name.len() + 4 + 8;
    bytes[rows..rows + 8].copy_from_slice(&(1_u64 << 59).to_le_bytes());
    let error = model::load(&bytes, usize::MAX).unwrap_err();
    assert!(
        error.contains("`blk.0.attn_q.weight`") && error.contains("more than the file"),
        "{error}"
    );
}

fn check_wrapping_width() {
    let bytes = model::model(heads(1 << 60, 1 << 60), GgmlDType::Q4_0);
    let error = model::load(&bytes, usize::MAX).unwrap_err();
    assert!(error.contains("num_attention_heads") && error.contains("too many"), "{error}");
}
