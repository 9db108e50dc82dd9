//! Causal attention over the paged cache.
//!
//! A row reads the keys and values of its own sequence in ascending order of position, whatever the
//! chunk it came in, the blocks they lie in and the rows beside it.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::lanes::{LANES, dot, exp, sum_lanes};
use super::level::per_cpu_level;
use super::rows;
use crate::batch::BatchLayout;
use crate::error::Result;

/// How the width of a row divides into heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionHeads {
    /// Query heads.
    pub(crate) num_heads: usize,
    /// Key and value heads; query heads `g * num_heads / num_kv_heads..` share head g.
    pub(crate) num_kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
}

impl AttentionHeads {
    /// Query heads a key and value head.
    fn group(self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Factor of the scores, `1 / sqrt(head_dim)`.
    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v` over each row's own and earlier positions.
///
/// # Shapes
/// - `q`: `[total_tokens, num_heads * head_dim]`, f32
/// - `k_pool`, `v_pool`: `[num_blocks * block_size, num_kv_heads * head_dim]`, f32, the step's own
///   keys and values already written
/// - returns: `[total_tokens, num_heads * head_dim]`, f32
///
/// # Cost
/// The keys and values of a group of query heads are read once a row.
pub(crate) fn attention(
    q: &Tensor,
    k_pool: &Tensor,
    v_pool: &Tensor,
    layout: &BatchLayout,
    heads: AttentionHeads,
) -> Result<Tensor> {
    if q.device().is_cpu() {
        return Ok(q.apply_op3_no_bwd(k_pool, v_pool, &PagedAttention { layout, heads })?);
    }
    attention_composite(q, k_pool, v_pool, layout, heads)
}

/// [`attention`] of candle's operations: gathers each sequence's cache and masks the future.
pub(super) fn attention_composite(
    q: &Tensor,
    k_pool: &Tensor,
    v_pool: &Tensor,
    layout: &BatchLayout,
    heads: AttentionHeads,
) -> Result<Tensor> {
    const ROW_DIM: usize = 0;
    let device = q.device();
    let AttentionHeads { num_heads, num_kv_heads, head_dim } = heads;
    let mut outs = Vec::with_capacity(layout.seqs.len());
    for seq in &layout.seqs {
        let seq_len = seq.rows.len();
        let kv_len = seq.first_position + seq_len;
        let cache_rows = (0..kv_len)
            .map(|position| u32::try_from(seq.cache_row(position, layout.block_size)))
            .collect::<Result<Vec<u32>, _>>()
            .map_err(candle_core::Error::wrap)?;
        let cache_rows = Tensor::from_vec(cache_rows, kv_len, device)?;
        let gather = |pool: &Tensor| {
            pool.index_select(&cache_rows, ROW_DIM)? // [kv_len, num_kv_heads * head_dim]
                .reshape((kv_len, num_kv_heads, 1, head_dim))?
                .broadcast_as((kv_len, num_kv_heads, heads.group(), head_dim))?
                .reshape((kv_len, num_heads, head_dim))?
                .transpose(0, 1)? // [num_heads, kv_len, head_dim]
                .contiguous() // contiguous: candle's batched matmul.
        };
        let (k, v) = (gather(k_pool)?, gather(v_pool)?);
        let q = q
            .narrow(ROW_DIM, seq.rows.start, seq_len)?
            .reshape((seq_len, num_heads, head_dim))?
            .transpose(0, 1)? // [num_heads, seq_len, head_dim]
            .contiguous()?; // contiguous: candle's batched matmul.
        let scores = (q.matmul(&k.t()?)? * f64::from(heads.scale()))?; // [num_heads, seq_len, kv_len]
        let mask: Vec<f32> = (0..seq_len)
            .flat_map(|row| (0..kv_len).map(move |position| (row, position)))
            .map(
                |(row, position)| {
                    if position <= seq.first_position + row { 0.0 } else { f32::NEG_INFINITY }
                },
            )
            .collect();
        let mask = Tensor::from_vec(mask, (seq_len, kv_len), device)?.to_dtype(DType::F32)?;
        let scores = scores.broadcast_add(&mask)?;
        let largest = scores.max_keepdim(D::Minus1)?; // [num_heads, seq_len, 1]
        let weights = scores.broadcast_sub(&largest)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let out = weights.matmul(&v)?; // [num_heads, seq_len, head_dim]
        outs.push(out.transpose(0, 1)?.reshape((seq_len, num_heads * head_dim))?);
    }
    Ok(Tensor::cat(&outs, ROW_DIM)?) // [total_tokens, num_heads * head_dim]
}

struct PagedAttention<'a> {
    layout: &'a BatchLayout,
    heads: AttentionHeads,
}

/// What one row may read.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    /// Pools of keys and values, `[num_blocks * block_size, num_kv_heads * head_dim]`.
    k_pool: &'a [f32],
    v_pool: &'a [f32],
    /// The sequence's blocks.
    block_table: &'a [u32],
    block_size: usize,
    /// Positions to read, from 0.
    kv_len: usize,
    /// Key and value head.
    kv_head: usize,
    heads: AttentionHeads,
}

impl CustomOp3 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        "skeg-paged-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k_pool: &CpuStorage,
        k_layout: &Layout,
        v_pool: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let heads = self.heads;
        let (total_tokens, width) = q_layout.shape().dims2()?;
        let (_, kv_width) = k_layout.shape().dims2()?;
        if width != heads.num_heads * heads.head_dim
            || kv_width != heads.num_kv_heads * heads.head_dim
            || total_tokens != self.layout.cache_rows.len()
        {
            candle_core::bail!(
                "attention of [{total_tokens}, {width}] over rows of {kv_width} with {heads:?}"
            );
        }
        let q = rows::slice::<f32>(q, q_layout)?;
        let k_pool = rows::slice::<f32>(k_pool, k_layout)?;
        let v_pool = rows::slice::<f32>(v_pool, v_layout)?;
        let contexts: Vec<Context<'_>> = self
            .layout
            .seqs
            .iter()
            .flat_map(|seq| seq.rows.clone().map(move |row| (seq, row)))
            .map(|(seq, row)| Context {
                k_pool,
                v_pool,
                block_table: &seq.block_table,
                block_size: self.layout.block_size,
                kv_len: seq.first_position + (row - seq.rows.start) + 1,
                kv_head: 0,
                heads,
            })
            .collect();
        let group_width = heads.group() * heads.head_dim;
        let mut out = vec![0f32; q.len()];
        out.par_chunks_mut(group_width).zip(q.par_chunks(group_width)).enumerate().for_each_init(
            Vec::new,
            |scores, (idx, (out, q))| {
                let kv_head = idx % heads.num_kv_heads;
                let context = Context { kv_head, ..contexts[idx / heads.num_kv_heads] };
                attend(q, &context, scores, out);
            },
        );
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }
}

per_cpu_level! {
    /// The query heads of one row that share a key and value head: `q` and `out` are
    /// `[group, head_dim]`; `scores` is scratch.
    fn attend(q: &[f32], context: &Context<'_>, scores: &mut Vec<f32>, out: &mut [f32]) = attend_body;
}

#[inline(always)]
fn attend_body(q: &[f32], context: &Context<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    let Context { heads, kv_len, .. } = *context;
    let head_dim = heads.head_dim;
    scores.clear();
    scores.resize(heads.group() * kv_len, 0.0); // [group, kv_len]
    let scale = heads.scale();
    context.for_each_position(context.k_pool, |position, k| {
        for (head, q) in q.chunks_exact(head_dim).enumerate() {
            scores[head * kv_len + position] = dot(q, k) * scale;
        }
    });
    for scores in scores.chunks_exact_mut(kv_len) {
        softmax(scores);
    }
    out.fill(0.0);
    context.for_each_position(context.v_pool, |position, v| {
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let weight = scores[head * kv_len + position];
            for (out, v) in out.iter_mut().zip(v) {
                *out += weight * v;
            }
        }
    });
}

impl Context<'_> {
    /// Walks one pool's rows of the head in ascending order of position.
    #[inline(always)]
    fn for_each_position(&self, pool: &[f32], mut visit: impl FnMut(usize, &[f32])) {
        let head_dim = self.heads.head_dim;
        let width = self.heads.num_kv_heads * head_dim;
        for (block_idx, &block) in self.block_table.iter().enumerate() {
            let first = block_idx * self.block_size;
            if first >= self.kv_len {
                break;
            }
            let rows = &pool[block as usize * self.block_size * width..];
            let block_len = self.block_size.min(self.kv_len - first);
            for (offset, row) in rows.chunks_exact(width).take(block_len).enumerate() {
                visit(first + offset, &row[self.kv_head * head_dim..(self.kv_head + 1) * head_dim]);
            }
        }
    }
}

/// Exponentials over their sum, in place; the sum is made in [`LANES`] fixed parts.
#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = scores.as_chunks_mut::<LANES>();
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
    let scale = 1.0 / sum_lanes(lanes);
    for score in scores {
        *score *= scale;
    }
}
