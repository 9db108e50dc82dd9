//! Attention of candle's operations: what the kernel is held against.
//!
//! Here a pool's rows are positions, `[num_blocks * block_size, num_kv_heads * head_dim]`.

use candle_core::{D, DType, Tensor};

use super::super::composite::rope;
use super::AttentionHeads;
use crate::batch::BatchLayout;
use crate::error::Result;

/// The axis that rows lie along.
const ROW_DIM: usize = 0;
/// The axis that heads lie along.
const HEAD_DIM: usize = 1;

/// [`super::attention`].
pub(super) fn attention(
    qkv: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    (k_pool, v_pool): (&Tensor, &Tensor),
    layout: &BatchLayout<'_>,
    heads: AttentionHeads,
) -> Result<Tensor> {
    let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
    // contiguous: candle's reshape of heads.
    let q = qkv.narrow(HEAD_DIM, 0, q_width)?.contiguous()?; // [total_tokens, num_heads * head_dim]
    let k = qkv.narrow(HEAD_DIM, q_width, kv_width)?.contiguous()?; // [total_tokens, num_kv_heads * head_dim]
    let v = qkv.narrow(HEAD_DIM, q_width + kv_width, kv_width)?.contiguous()?; // the same shape
    let q = rope(&q, cos, sin)?;
    write_rows(k_pool, &rope(&k, cos, sin)?, &layout.cache_rows)?;
    write_rows(v_pool, &v, &layout.cache_rows)?;
    paged_attention(&q, k_pool, v_pool, layout, heads)
}

/// Copies row t of `values` to row `cache_rows[t]` of `pool`, in place: one copy a run of adjacent rows.
fn write_rows(pool: &Tensor, values: &Tensor, cache_rows: &[usize]) -> Result<()> {
    let mut start = 0;
    for run in cache_rows.chunk_by(|a, b| a + 1 == *b) {
        // The pool's dtype, contiguous: what `slice_set` takes.
        let values = values.narrow(ROW_DIM, start, run.len())?.to_dtype(pool.dtype())?;
        let values = values.contiguous()?; // [run, width]
        pool.slice_set(&values, ROW_DIM, run[0])?;
        start += run.len();
    }
    Ok(())
}

/// `softmax(q k^T / sqrt(head_dim)) v`: gathers each sequence's cache and masks the future.
///
/// # Shapes
/// - `q`: `[total_tokens, num_heads * head_dim]`; `k_pool`, `v_pool`:
///   `[num_blocks * block_size, num_kv_heads * head_dim]`
/// - returns: `[total_tokens, num_heads * head_dim]`
fn paged_attention(
    q: &Tensor,
    k_pool: &Tensor,
    v_pool: &Tensor,
    layout: &BatchLayout<'_>,
    heads: AttentionHeads,
) -> Result<Tensor> {
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
                .to_dtype(DType::F32)? // f32: what the queries are.
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
