//! Attention of one row over one key and value head: the arithmetic.
//!
//! The positions are walked in chunks that begin at fixed positions. Each chunk gives the largest score, the sum of the
//! exponentials and the weighted sum of the values; chunks are put together in ascending order (as in `FlashDecoding` and
//! arXiv 2205.14135). So a row's result is the same whether its chunks are computed one after the other or on
//! several threads.

use super::super::lanes::{LANES, exp, sum_lanes};
use super::super::level::per_cpu_level;
use super::AttentionHeads;
use super::accumulate::accumulate;

/// Positions a chunk, but for the rounding to whole blocks.
const CHUNK_TOKENS: usize = 256;
/// Query heads that are computed together: their sums stay in registers.
const MAX_GROUP: usize = 4;

/// What one row reads of one key and value head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    /// Pools of keys and values.
    pub(super) k_pool: &'a [f32],
    pub(super) v_pool: &'a [f32],
    /// The sequence's blocks.
    pub(super) block_table: &'a [u32],
    pub(super) block_size: usize,
    /// Positions to read, from 0.
    pub(super) kv_len: usize,
    /// Key and value head.
    pub(super) kv_head: usize,
    pub(super) heads: AttentionHeads,
}

impl<'a> Context<'a> {
    /// Blocks a chunk.
    fn chunk_blocks(&self) -> usize {
        (CHUNK_TOKENS / self.block_size).max(1)
    }

    /// Chunks that hold the row's positions.
    pub(super) fn num_chunks(&self) -> usize {
        self.kv_len.div_ceil(self.chunk_blocks() * self.block_size)
    }

    /// The head's part of a block of a pool.
    fn head<'p>(&self, pool: &'p [f32], block: u32) -> &'p [f32] {
        let len = self.block_size * self.heads.head_dim;
        let start = (block as usize * self.heads.num_kv_heads + self.kv_head) * len;
        &pool[start..start + len]
    }

    /// The blocks of a chunk, each with the number of its positions that the row reads.
    fn blocks(&self, chunk: usize) -> impl Iterator<Item = (u32, usize)> + use<'a> {
        let (kv_len, block_size, chunk_blocks) =
            (self.kv_len, self.block_size, self.chunk_blocks());
        let first = chunk * chunk_blocks;
        let blocks = self.block_table.iter().copied().enumerate().skip(first).take(chunk_blocks);
        blocks
            .map(move |(idx, block)| {
                (block, kv_len.saturating_sub(idx * block_size).min(block_size))
            })
            .take_while(|(_, len)| *len > 0)
    }
}

/// The heads of one group after some of their positions.
#[derive(Debug, Clone, Default)]
pub(super) struct Partial {
    /// `[group]`: the largest score.
    largest: Vec<f32>,
    /// `[group]`: sum of `exp(score - largest)`.
    sum: Vec<f32>,
    /// `[group, head_dim]`: sum of `exp(score - largest) * v`.
    weighted: Vec<f32>,
    /// `[group, chunk]`: scratch.
    scores: Vec<f32>,
}

impl Partial {
    /// Computes chunk `chunk` for the group's queries, `[group, head_dim]`.
    pub(super) fn compute(&mut self, q: &[f32], context: &Context<'_>, chunk: usize) {
        let group = context.heads.group();
        let stride = context.chunk_blocks() * context.block_size;
        self.largest.resize(group, 0.0);
        self.sum.resize(group, 0.0);
        self.weighted.clear();
        self.weighted.resize(q.len(), 0.0);
        self.scores.resize(group * stride, 0.0);
        attend(q, context, chunk, self);
    }

    /// Adds what follows in order of position.
    pub(super) fn merge(&mut self, next: &Self, head_dim: usize) {
        let heads =
            self.weighted.chunks_exact_mut(head_dim).zip(next.weighted.chunks_exact(head_dim));
        for (head, (weighted, next_weighted)) in heads.enumerate() {
            let largest = self.largest[head].max(next.largest[head]);
            let (old, new) = (exp(self.largest[head] - largest), exp(next.largest[head] - largest));
            self.sum[head] = self.sum[head] * old + next.sum[head] * new;
            self.largest[head] = largest;
            for (sum, next) in weighted.iter_mut().zip(next_weighted) {
                *sum = *sum * old + next * new;
            }
        }
    }

    /// The result, `[group, head_dim]`.
    pub(super) fn finish(&self, head_dim: usize, out: &mut [f32]) {
        let heads = out.chunks_exact_mut(head_dim).zip(self.weighted.chunks_exact(head_dim));
        for ((out, weighted), sum) in heads.zip(&self.sum) {
            let scale = 1.0 / sum;
            for (out, weighted) in out.iter_mut().zip(weighted) {
                *out = weighted * scale;
            }
        }
    }
}

/// One chunk into a [`Partial`] whose `weighted` is 0.
fn attend(q: &[f32], context: &Context<'_>, chunk: usize, partial: &mut Partial) {
    let head_dim = context.heads.head_dim;
    let stride = context.chunk_blocks() * context.block_size;
    let groups = q.chunks(MAX_GROUP * head_dim);
    for (idx, q) in groups.enumerate() {
        let first = idx * MAX_GROUP;
        let num_heads = q.len() / head_dim;
        let scores = &mut partial.scores[first * stride..(first + num_heads) * stride];
        let len = match num_heads {
            1 => scores_of::<1>(q, context, chunk, scores),
            2 => scores_of::<2>(q, context, chunk, scores),
            3 => scores_of::<3>(q, context, chunk, scores),
            _ => scores_of::<4>(q, context, chunk, scores),
        };
        for (head, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let (largest, sum) =
                (&mut partial.largest[first + head], &mut partial.sum[first + head]);
            exponentials(&mut scores[..len], largest, sum);
        }
        let out = &mut partial.weighted[first * head_dim..(first + num_heads) * head_dim];
        match num_heads {
            1 => weigh::<1>(scores, context, chunk, out),
            2 => weigh::<2>(scores, context, chunk, out),
            3 => weigh::<3>(scores, context, chunk, out),
            _ => weigh::<4>(scores, context, chunk, out),
        }
    }
}

/// Scores of G heads, `[G, chunk]`; returns the number of positions.
fn scores_of<const G: usize>(
    q: &[f32],
    context: &Context<'_>,
    chunk: usize,
    scores: &mut [f32],
) -> usize {
    let AttentionHeads { head_dim, .. } = context.heads;
    let (scale, block_size) = (context.heads.scale(), context.block_size);
    let stride = scores.len() / G;
    let q: [&[f32]; G] = std::array::from_fn(|head| &q[head * head_dim..(head + 1) * head_dim]);
    let mut done = 0;
    for (block, len) in context.blocks(chunk) {
        let k = context.head(context.k_pool, block); // [head_dim, block_size]
        for lane in (0..len).step_by(LANES) {
            let sums = weighted_rows(q, &k[lane..], block_size, [[0.0; LANES]; G]);
            let width = LANES.min(len - lane);
            for (head, sums) in sums.iter().enumerate() {
                let start = head * stride + done + lane;
                for (score, sum) in scores[start..start + width].iter_mut().zip(sums) {
                    *score = sum * scale;
                }
            }
        }
        done += len;
    }
    done
}

/// Adds `scores[head][position] * v[position]` to `out`, `[G, head_dim]`, in order of position.
fn weigh<const G: usize>(scores: &[f32], context: &Context<'_>, chunk: usize, out: &mut [f32]) {
    let AttentionHeads { head_dim, .. } = context.heads;
    let stride = scores.len() / G;
    let mut done = 0;
    for (block, len) in context.blocks(chunk) {
        let v = context.head(context.v_pool, block); // [block_size, head_dim]
        let weights: [&[f32]; G] = std::array::from_fn(|head| {
            let start = head * stride + done;
            &scores[start..start + len]
        });
        for column in (0..head_dim).step_by(LANES) {
            let width = LANES.min(head_dim - column);
            let place = |head: usize| head * head_dim + column..head * head_dim + column + width;
            let mut sums = [[0f32; LANES]; G];
            for (head, sums) in sums.iter_mut().enumerate() {
                sums[..width].copy_from_slice(&out[place(head)]);
            }
            let sums = weighted_rows(weights, &v[column..], head_dim, sums);
            for (head, sums) in sums.iter().enumerate() {
                out[place(head)].copy_from_slice(&sums[..width]);
            }
        }
        done += len;
    }
}

/// [`accumulate`], also where the last row has fewer than 16 lanes left: the lanes beyond are not used.
fn weighted_rows<const G: usize>(
    factors: [&[f32]; G],
    rows: &[f32],
    stride: usize,
    mut sums: [[f32; LANES]; G],
) -> [[f32; LANES]; G] {
    let fits = |num_rows: usize| (num_rows - 1) * stride + LANES <= rows.len();
    let num_rows = factors[0].len();
    let num_whole = (0..=num_rows).rev().find(|&rows| rows == 0 || fits(rows)).unwrap_or(0);
    accumulate(&mut sums, factors.map(|factors| &factors[..num_whole]), rows, stride);
    for i in num_whole..num_rows {
        for (sums, factors) in sums.iter_mut().zip(factors) {
            for (sum, value) in sums.iter_mut().zip(&rows[i * stride..]) {
                *sum += factors[i] * value;
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
