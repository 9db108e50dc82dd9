//! With batch invariance a row's bits do not depend on its company, nor on how its sequence was cut.

use candle_core::DType;

use super::support::kernel_ops_with;
use crate::batch::PackedBatch;
use crate::config::LlamaConfig;
use crate::gpu::GpuOptions;
use crate::gpu::ranks::Ranks;
use crate::hooks::Hooks;
use crate::kv_cache::{KvCache, KvCacheDtype};
use crate::llama::Llama;
use crate::sampling::{Answer, Ask};
use crate::testing::{RandomWeights, random_llama_into, tiny_config};

/// Rows of the sequence that is looked at.
const NUM_ROWS: usize = 24;

/// So many rows from a position on.
type Part = (usize, usize);

/// A part of the sequence that is looked at, all of whose logits are asked for, and of one beside it.
fn batch(looked_at: Part, beside: Option<Part>) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    let tables = [vec![4, 1, 9], vec![3, 0, 2, 11, 7, 5, 10, 8]];
    let seqs = std::iter::once(looked_at).chain(beside).zip(tables);
    for (seq, ((first, len), table)) in seqs.enumerate() {
        let token = |position: usize| u32::try_from((position * 37 + seq * 11) % 128).unwrap();
        batch.token_ids.extend((first..first + len).map(token));
        batch.positions.extend(first..first + len);
        batch.cu_seqlens.push(batch.token_ids.len());
        batch.block_tables.push(table);
    }
    batch.logit_rows = (0..looked_at.1).collect();
    if let Some((_, len)) = beside {
        batch.logit_rows.push(looked_at.1 + len - 1);
    }
    batch
}

/// The bits of the logits of every row that is looked at, `[NUM_ROWS][vocab_size]`.
fn bits(llama: &Llama, steps: &[(Part, Option<Part>)]) -> Vec<Vec<u32>> {
    let mut cache = KvCache::new(llama, 12, 8, KvCacheDtype::F16).unwrap();
    let mut rows = Vec::new();
    for &(looked_at, beside) in steps {
        let batch = batch(looked_at, beside);
        let asks = vec![Ask::Logits; batch.logit_rows.len()];
        let output = llama.step(&batch, &mut cache, &mut Hooks::none(), &asks, &mut || ()).unwrap();
        for answer in output.answers().take(looked_at.1) {
            let Answer::Logits(logits) = answer else { panic!("logits were asked for") };
            rows.push(logits.iter().map(|logit| logit.to_bits()).collect());
        }
    }
    assert_eq!(rows.len(), NUM_ROWS);
    rows
}

#[test]
fn a_rows_bits_are_the_same_alone_in_a_batch_of_40_rows_and_in_chunks() {
    let forms = [(16, DType::F32), (64, DType::F16), (64, DType::BF16)];
    for (head_dim, dtype) in forms {
        let options = GpuOptions { batch_invariant: true, ..GpuOptions::default() };
        let Some(ops) = kernel_ops_with(options) else { return };
        let config = LlamaConfig { head_dim, num_hidden_layers: 2, ..tiny_config() };
        let form = RandomWeights::Dense(dtype);
        let llama = random_llama_into(config, 7, form, Ranks::one(ops)).unwrap();
        let alone = bits(&llama, &[((0, NUM_ROWS), None)]);
        let chunks = [((0, 17), None), ((17, 1), None), ((18, 6), None)];
        assert!(bits(&llama, &chunks) == alone, "{dtype:?}: chunks");
        // 40 rows, then a step of single tokens, then again 40.
        let company =
            [((0, 20), Some((0, 20))), ((20, 1), Some((20, 1))), ((21, 3), Some((21, 37)))];
        assert!(bits(&llama, &company) == alone, "{dtype:?}: company");
    }
}
