//! Attention against its composite, step after step over the same cache, and chunks against each other.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::super::cpu::every_cpu;
use super::super::tests::{bits, check_close, cpu, tensor};
use super::*;
use crate::batch::SeqSpan;

/// One sequence's rows in a step.
fn span(rows: Range<usize>, first_position: usize, block_table: &[u32]) -> SeqSpan<'_> {
    SeqSpan { rows, first_position, block_table }
}

fn layout(seqs: Vec<SeqSpan<'_>>, block_size: usize) -> BatchLayout<'_> {
    let cache_rows = seqs
        .iter()
        .flat_map(|seq| {
            let positions = seq.first_position..seq.first_position + seq.rows.len();
            positions.map(|position| seq.cache_row(position, block_size))
        })
        .collect();
    BatchLayout { cache_rows, seqs, block_size }
}

fn pools(num_rows: usize, heads: AttentionHeads, dtype: DType) -> (Tensor, Tensor) {
    let pool = || Tensor::zeros((num_rows, heads.kv_width()), dtype, &Device::Cpu).unwrap();
    (pool(), pool())
}

fn qkv(num_rows: usize, heads: AttentionHeads, seed: f32) -> Tensor {
    (tensor(num_rows, heads.q_width() + 2 * heads.kv_width(), seed) * 3.0).unwrap()
}

/// On every level, whose bits are the same, with both types of cache.
#[test]
fn attention_equals_its_composite() {
    let shapes = [
        (AttentionHeads { num_heads: 6, num_kv_heads: 2, head_dim: 20 }, 4),
        (AttentionHeads { num_heads: 9, num_kv_heads: 3, head_dim: 64 }, 16),
        (AttentionHeads { num_heads: 7, num_kv_heads: 1, head_dim: 32 }, 24),
        (AttentionHeads { num_heads: 2, num_kv_heads: 2, head_dim: 16 }, 32),
    ];
    for (heads, block_size) in shapes {
        for dtype in [DType::F32, DType::F16] {
            let cpus: Vec<Cpu> = every_cpu().collect();
            let pools = || pools(12 * block_size, heads, dtype);
            let (composite_pools, cpu_pools) =
                (pools(), cpus.iter().map(|_| pools()).collect::<Vec<_>>());
            let tables: [&[u32]; 2] = [&[5, 0, 2, 9, 1], &[3, 8, 4, 11, 10]];
            // A whole prompt beside another's; then a decode step beside a chunk.
            let steps = [
                vec![span(0..17, 0, tables[0]), span(17..20, 0, tables[1])],
                vec![span(0..1, 17, tables[0]), span(1..13, 3, tables[1])],
                vec![span(0..1, 18, tables[0])],
            ];
            for (idx, seqs) in steps.into_iter().enumerate() {
                let layout = layout(seqs, block_size);
                let total_tokens = layout.cache_rows.len();
                let qkv = || qkv(total_tokens, heads, 0.37 + idx as f32 * 0.1);
                let cos = tensor(total_tokens, heads.head_dim / 2, 0.5);
                let sin = tensor(total_tokens, heads.head_dim / 2, 0.6);
                let (rope, (k, v)) = ((&cos, &sin), &composite_pools);
                let expected = composite::attention(&qkv(), rope, (k, v), &layout, heads).unwrap();
                let found: Vec<Tensor> = cpus
                    .iter()
                    .zip(&cpu_pools)
                    .map(|(cpu, (k, v))| {
                        attention(cpu, &qkv(), rope, (k, v), &layout, heads).unwrap()
                    })
                    .collect();
                let found_portable = found[found.len() - 1].clone();
                for (found, cpu) in found.iter().zip(&cpus) {
                    // A rotated key may be rounded to either side.
                    let tolerance = if dtype == DType::F16 { 1e-3 } else { 1e-5 };
                    check_close(found, &expected, tolerance);
                    assert_eq!(bits(found), bits(&found_portable), "{}", cpu.kernels());
                }
            }
        }
    }
}

/// Over 600 positions, three chunks: a row alone (its chunks apart), and among many (its chunks in turn).
#[test]
fn a_long_row_is_the_same_alone_and_among_others() {
    let cpu = cpu();
    let heads = AttentionHeads { num_heads: 6, num_kv_heads: 2, head_dim: 20 };
    let table: Vec<u32> = (0..40).rev().collect();
    let all = qkv(600, heads, 0.37);
    let (cos, sin) = (tensor(600, 10, 0.5), tensor(600, 10, 0.6));
    let rows = |first: usize, len: usize| {
        let part = |x: &Tensor| x.narrow(0, first, len).unwrap().copy().unwrap();
        (part(&all), part(&cos), part(&sin))
    };
    let run = |cuts: &[usize]| {
        let pools = pools(640, heads, DType::F32);
        let mut outs = Vec::new();
        for cut in cuts.windows(2) {
            let (first, len) = (cut[0], cut[1] - cut[0]);
            let (qkv, cos, sin) = rows(first, len);
            let layout = layout(vec![span(0..len, first, &table)], 16);
            outs.push(
                attention(&cpu, &qkv, (&cos, &sin), (&pools.0, &pools.1), &layout, heads).unwrap(),
            );
        }
        Tensor::cat(&outs, 0).unwrap()
    };
    let whole = run(&[0, 600]);
    assert_eq!(bits(&run(&[0, 255, 256, 257, 511, 599, 600])), bits(&whole));
    assert_eq!(bits(&run(&[0, 1, 300, 598, 600])), bits(&whole));
    // The chunks are put together as one softmax over all positions.
    let layout = layout(vec![span(0..600, 0, &table)], 16);
    let (k_rows, v_rows) = pools(640, heads, DType::F32);
    let (qkv, cos, sin) = rows(0, 600);
    let expected =
        composite::attention(&qkv, (&cos, &sin), (&k_rows, &v_rows), &layout, heads).unwrap();
    check_close(&whole, &expected, 1e-4);
}

#[test]
fn a_cache_row_outside_the_pool_is_refused() {
    let heads = AttentionHeads { num_heads: 2, num_kv_heads: 1, head_dim: 4 };
    let (k_pool, v_pool) = pools(8, heads, DType::F32);
    let layout = layout(vec![span(0..1, 0, &[2])], 4);
    let (cos, sin) = (tensor(1, 2, 0.5), tensor(1, 2, 0.6));
    assert!(
        attention(&cpu(), &qkv(1, heads, 0.3), (&cos, &sin), (&k_pool, &v_pool), &layout, heads)
            .is_err()
    );
}
