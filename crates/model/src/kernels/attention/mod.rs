//! Rotary embedding, cache and causal attention of one layer, over a packed batch.
//!
//! A row reads the keys and values of its own sequence in ascending order of position, whatever the
//! chunk it came in, the blocks they lie in and the rows beside it.

mod cache_write;
#[cfg(test)]
mod composite;
mod kernel;
mod paged;

use candle_core::Tensor;

use super::cpu::Cpu;
use super::elementwise::rope_in_place;
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

    /// Width of a row's queries.
    pub(crate) fn q_width(self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of a row's keys, and of its values.
    pub(crate) fn kv_width(self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Factor of the scores, `1 / sqrt(head_dim)`.
    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Rotates queries and keys (arXiv 2104.09864), writes keys and values to the cache and returns
/// `softmax(q k^T / sqrt(head_dim)) v` over each row's own and earlier positions.
///
/// # Shapes
/// - `qkv`: `[total_tokens, (num_heads + 2 * num_kv_heads) * head_dim]`, f32, contiguous, not shared: it is rotated in place
/// - `cos`, `sin`: `[total_tokens, head_dim / 2]`, f32
/// - `k_pool`, `v_pool`: `[num_blocks * block_size, num_kv_heads * head_dim]`, f32 or f16: keys and values are
///   rounded when they are written. The numbers of a block lie in the kernel's order, see [`cache_write`].
/// - returns: `[total_tokens, num_heads * head_dim]`, f32
///
/// # Errors
/// [`crate::Error::Tensor`] when the widths do not match.
///
/// # Cost
/// The keys and values of a group of query heads are read once a row.
pub(crate) fn attention(
    cpu: &Cpu,
    qkv: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    (k_pool, v_pool): (&Tensor, &Tensor),
    layout: &BatchLayout<'_>,
    heads: AttentionHeads,
) -> Result<Tensor> {
    rope_in_place(cpu, qkv, cos, sin, heads.q_width() + heads.kv_width())?;
    cache_write::write(k_pool, v_pool, qkv, layout, heads)?;
    paged::attention(cpu, qkv, k_pool, v_pool, layout, heads)
}

#[cfg(test)]
mod tests;
