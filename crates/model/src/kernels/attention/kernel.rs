//! Attention of one row over one key and value head: the arithmetic.
//!
//! The positions are walked in chunks that begin at fixed positions. Each chunk gives the largest score, the sum of the
//! exponentials and the weighted sum of the values; chunks are put together in ascending order (as in `FlashDecoding` and
//! arXiv 2205.14135). So a row's result is the same whether its chunks are computed one after the other or on
//! several threads.

use super::super::accumulate::accumulate;
use super::super::cpu::{CpuLevel, per_cpu_level};
use super::super::element::Element;
use super::super::lanes::{LANES, exp, sum_lanes};
use super::super::prefetch::prefetch;
use super::AttentionHeads;

/// Positions a chunk, but for the rounding to whole blocks.
const CHUNK_TOKENS: usize = 256;
/// Query heads that are computed together: their sums stay in registers.
const MAX_GROUP: usize = 4;

/// What one row reads of one key and value head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a, T> {
    /// Instructions in use.
    pub(super) level: CpuLevel,
    /// Pools of keys and values.
    pub(super) k_pool: &'a [T],
    pub(super) v_pool: &'a [T],
    /// The sequence's blocks.
    pub(super) block_table: &'a [u32],
    pub(super) block_size: usize,
    /// Positions to read, from 0.
    pub(super) kv_len: usize,
    /// Key and value head.
    pub(super) kv_head: usize,
    pub(super) heads: AttentionHeads,
}

impl<'a, T: Element> Context<'a, T> {
    /// Blocks a chunk.
    fn chunk_blocks(&self) -> usize {
        (CHUNK_TOKENS / self.block_size).max(1)
    }

    /// Chunks that hold the row's positions.
    pub(super) fn num_chunks(&self) -> usize {
        self.kv_len.div_ceil(self.chunk_blocks() * self.block_size)
    }

    /// The head's part of a block of a pool.
    fn head<'p>(&self, pool: &'p [T], block: u32) -> &'p [T] {
        let len = self.block_size * self.heads.head_dim;
        let start = (block as usize * self.heads.num_kv_heads + self.kv_head) * len;
        &pool[start..start + len]
    }

    /// Room for a head's scores: those of a chunk, and what the last 16 lanes write beyond.
    fn score_stride(&self) -> usize {
        self.chunk_blocks() * self.block_size + LANES
    }

    /// The blocks of a chunk, each with the number of its positions that the row reads, and the block that
    /// follows it.
    fn blocks(&self, chunk: usize) -> impl Iterator<Item = (u32, usize, u32)> + use<'a, T> {
        let (table, kv_len, block_size) = (self.block_table, self.kv_len, self.block_size);
        let first = chunk * self.chunk_blocks();
        let last = (first + self.chunk_blocks()).min(kv_len.div_ceil(block_size));
        (first..last).map(move |idx| {
            let block = table[idx];
            let next = if idx + 1 < last { table[idx + 1] } else { block };
            (block, (kv_len - idx * block_size).min(block_size), next)
        })
    }
}

/// The heads of one group after some of their positions.
#[derive(Debug, Clone, Default)]
pub(super) struct Partial {
    /// `[group]`: the largest score.
    largest: Vec<f32>,
    /// `[group]`: sum of `exp(score - largest)`.
    sum: Vec<f32>,
    /// `[head_dim / 16, group]`: sum of `exp(score - largest) * v`, 16 elements each.
    weighted: Vec<[f32; LANES]>,
    /// `[group, chunk + 16]`: scratch.
    scores: Vec<f32>,
}

impl Partial {
    /// Computes chunk `chunk` for the group's queries, `[group, head_dim]`.
    pub(super) fn compute<T: Element>(
        &mut self,
        q: &[f32],
        context: &Context<'_, T>,
        chunk: usize,
    ) {
        let group = context.heads.group();
        self.largest.resize(group, 0.0);
        self.sum.resize(group, 0.0);
        self.weighted.clear();
        self.weighted.resize(group * context.heads.head_dim.div_ceil(LANES), [0.0; LANES]);
        self.scores.resize(group * context.score_stride(), 0.0);
        attend(q, context, chunk, self);
    }

    /// Adds what follows in order of position.
    pub(super) fn merge(&mut self, level: CpuLevel, next: &Self) {
        let group = self.sum.len();
        for head in 0..group {
            let largest = self.largest[head].max(next.largest[head]);
            let (old, new) = (exp(self.largest[head] - largest), exp(next.largest[head] - largest));
            self.sum[head] = self.sum[head] * old + next.sum[head] * new;
            self.largest[head] = largest;
            let columns = self.weighted[head..].iter_mut().step_by(group);
            for (sums, next) in columns.zip(next.weighted[head..].iter().step_by(group)) {
                add_scaled(level, sums, old, next, new);
            }
        }
    }

    /// The result, `[group, head_dim]`.
    pub(super) fn finish(&self, head_dim: usize, out: &mut [f32]) {
        let group = self.sum.len();
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let scale = 1.0 / self.sum[head];
            let columns = self.weighted[head..].iter().step_by(group);
            for (out, sums) in out.chunks_mut(LANES).zip(columns) {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum * scale;
                }
            }
        }
    }
}

per_cpu_level! {
    /// `sums = sums * old + next * new`.
    fn add_scaled(sums: &mut [f32; LANES], old: f32, next: &[f32; LANES], new: f32) = add_scaled_body;
}

#[inline(always)]
fn add_scaled_body(sums: &mut [f32; LANES], old: f32, next: &[f32; LANES], new: f32) {
    for (sum, next) in sums.iter_mut().zip(next) {
        *sum = sum.mul_add(old, next * new);
    }
}

/// One chunk into a [`Partial`] whose `weighted` is 0.
fn attend<T: Element>(q: &[f32], context: &Context<'_, T>, chunk: usize, partial: &mut Partial) {
    for (idx, q) in q.chunks(MAX_GROUP * context.heads.head_dim).enumerate() {
        let first = idx * MAX_GROUP;
        match q.len() / context.heads.head_dim {
            1 => attend_heads::<T, 1>(q, context, chunk, partial, first),
            2 => attend_heads::<T, 2>(q, context, chunk, partial, first),
            3 => attend_heads::<T, 3>(q, context, chunk, partial, first),
            _ => attend_heads::<T, 4>(q, context, chunk, partial, first),
        }
    }
}

/// [`attend`] for the G heads from `first` on.
fn attend_heads<T: Element, const G: usize>(
    q: &[f32],
    context: &Context<'_, T>,
    chunk: usize,
    partial: &mut Partial,
    first: usize,
) {
    let stride = context.score_stride();
    let scores = &mut partial.scores[first * stride..(first + G) * stride];
    let len = scores_of::<T, G>(q, context, chunk, scores);
    let sums = partial.largest[first..].iter_mut().zip(&mut partial.sum[first..]);
    for (scores, (largest, sum)) in scores.chunks_exact_mut(stride).zip(sums) {
        exponentials(context.level, &mut scores[..len], largest, sum);
    }
    weigh::<T, G>(scores, context, chunk, &mut partial.weighted, first);
}

/// Scores of G heads, `[G, chunk]`; returns the number of positions. What lies beyond them is undefined.
fn scores_of<T: Element, const G: usize>(
    q: &[f32],
    context: &Context<'_, T>,
    chunk: usize,
    scores: &mut [f32],
) -> usize {
    let AttentionHeads { head_dim, .. } = context.heads;
    let (scale, block_size) = (context.heads.scale(), context.block_size);
    let stride = context.score_stride();
    let q: [&[f32]; G] = std::array::from_fn(|head| &q[head * head_dim..(head + 1) * head_dim]);
    let mut done = 0;
    for (block, len, next) in context.blocks(chunk) {
        let k = context.head(context.k_pool, block); // [head_dim, block_size]
        let next = context.head(context.k_pool, next);
        prefetch(next.as_ptr(), size_of_val(next));
        for lane in (0..len).step_by(LANES) {
            let sums = weighted_rows(context.level, q, &k[lane..], block_size, [[0.0; LANES]; G]);
            for (head, sums) in sums.iter().enumerate() {
                let start = head * stride + done + lane;
                scores[start..start + LANES].copy_from_slice(&sums.map(|sum| sum * scale));
            }
        }
        done += len;
    }
    done
}

/// Adds `scores[head][position] * v[position]` to the sums of the G heads from `first` on, in order of position.
fn weigh<T: Element, const G: usize>(
    scores: &[f32],
    context: &Context<'_, T>,
    chunk: usize,
    weighted: &mut [[f32; LANES]],
    first: usize,
) {
    let AttentionHeads { head_dim, .. } = context.heads;
    let (group, stride) = (context.heads.group(), context.score_stride());
    let mut done = 0;
    for (block, len, next) in context.blocks(chunk) {
        let v = context.head(context.v_pool, block); // [block_size, head_dim]
        let next = context.head(context.v_pool, next);
        prefetch(next.as_ptr(), size_of_val(next));
        let weights: [&[f32]; G] = std::array::from_fn(|head| {
            let start = head * stride + done;
            &scores[start..start + len]
        });
        for (column, sums) in weighted.chunks_exact_mut(group).enumerate() {
            if let Some(sums) = sums[first..].first_chunk_mut::<G>() {
                *sums =
                    weighted_rows(context.level, weights, &v[column * LANES..], head_dim, *sums);
            }
        }
        done += len;
    }
}

/// [`accumulate`], also where the last row has fewer than 16 lanes left: the lanes beyond are not used.
fn weighted_rows<T: Element, const G: usize>(
    level: CpuLevel,
    factors: [&[f32]; G],
    rows: &[T],
    stride: usize,
    mut sums: [[f32; LANES]; G],
) -> [[f32; LANES]; G] {
    let num_rows = factors[0].len();
    // Rows that have 16 numbers from their start on.
    let num_whole = match rows.len().checked_sub(LANES) {
        Some(last_start) => num_rows.min(last_start / stride + 1),
        None => 0,
    };
    accumulate(level, &mut sums, factors.map(|factors| &factors[..num_whole]), rows, stride);
    for i in num_whole..num_rows {
        for (sums, factors) in sums.iter_mut().zip(factors) {
            for (sum, value) in sums.iter_mut().zip(&rows[i * stride..]) {
                *sum = factors[i].mul_add(value.widen(), *sum);
            }
        }
    }
    sums
}

per_cpu_level! {
    /// Exponentials of the scores less the largest, in place, and their sum, which is made in [`LANES`] fixed
    /// parts.
    fn exponentials(scores: &mut [f32], largest: &mut f32, sum: &mut f32) = exponentials_body;
}

#[inline(always)]
fn exponentials_body(scores: &mut [f32], largest_score: &mut f32, sum: &mut f32) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = scores.as_chunks_mut::<LANES>();
    for block in &mut *blocks {
        for (largest, score) in maxima.iter_mut().zip(block) {
            *largest = if *score > *largest { *score } else { *largest };
        }
    }
    let largest = maxima.iter().chain(&*rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0f32; LANES];
    for block in blocks {
        for (lane, score) in lanes.iter_mut().zip(block) {
            *score = exp(*score - largest);
            *lane += *score;
        }
    }
    for (lane, score) in lanes.iter_mut().zip(rest) {
        *score = exp(*score - largest);
        *lane += *score;
    }
    (*largest_score, *sum) = (largest, sum_lanes(lanes));
}
