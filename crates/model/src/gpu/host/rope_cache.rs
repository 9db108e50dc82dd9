//! Rotary embedding, and keys and values on their way to the cache.

use super::Heads;
use super::memory::Memory;
use crate::error::Result;
use crate::gpu::args::{NONE, RopeCacheArgs, StepHeader};
use crate::gpu::memory::Element;

/// [`RopeCacheArgs`]. Padding rows are left as they are.
pub(super) fn rope_cache(memory: &mut Memory, args: &RopeCacheArgs, cache: Element) -> Result<()> {
    let step: StepHeader = memory.at(args.step, 0)?;
    let heads = Heads::new(args.heads)?;
    let (q_stride, kv_stride) = (args.q_stride as usize, args.kv_stride as usize);
    for row in 0..args.rows as usize {
        let cache_row: u32 = memory.at(step.cache_rows, row)?;
        if cache_row == NONE {
            continue;
        }
        let position: u32 = memory.at(step.positions, row)?;
        let angles: Vec<[f32; 2]> = memory.read(
            args.angles,
            position as usize * (heads.head_dim / 2),
            heads.head_dim / 2,
        )?;
        let mut q: Vec<f32> = memory.read(args.q, row * q_stride, heads.q_width())?;
        rotate(&mut q, &angles);
        memory.write(args.q, row * q_stride, &q)?;
        let mut k: Vec<f32> = memory.read(args.k, row * kv_stride, heads.kv_width())?;
        rotate(&mut k, &angles);
        let v: Vec<f32> = memory.read(args.v, row * kv_stride, heads.kv_width())?;
        for (pool, values) in [(args.k_pool, &k), (args.v_pool, &v)] {
            for (kv_head, values) in values.chunks_exact(heads.head_dim).enumerate() {
                let first = heads.in_pool(cache_row as usize, kv_head);
                memory.write_floats(cache, pool, first, values)?;
            }
        }
    }
    Ok(())
}

/// Rotates the halves of each head against each other by angles given as cosine and sine (arXiv 2104.09864).
fn rotate(row: &mut [f32], angles: &[[f32; 2]]) {
    for head in row.chunks_exact_mut(2 * angles.len()) {
        let (first, second) = head.split_at_mut(angles.len());
        for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
