//! Writing keys and values into the paged cache, on the CPU.
//!
//! Within a block the numbers lie as [`super::kernel`] reads them: keys
//! `[num_kv_heads, head_dim, block_size]`, so that the scores of adjacent positions are adjacent lanes; values
//! `[num_kv_heads, block_size, head_dim]`.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use super::super::element::Element;
use super::super::rows;
use super::AttentionHeads;
use crate::batch::BatchLayout;
use crate::error::Result;

/// Copies row t's keys and values from `qkv` to place `layout.cache_rows[t]` of the pools.
pub(super) fn write(
    k_pool: &Tensor,
    v_pool: &Tensor,
    qkv: &Tensor,
    layout: &BatchLayout<'_>,
    heads: AttentionHeads,
) -> Result<()> {
    let keys = WriteRows { layout, heads, what: What::Keys };
    k_pool.inplace_op2(qkv, &keys)?;
    Ok(v_pool.inplace_op2(qkv, &WriteRows { what: What::Values, ..keys })?)
}

#[derive(Debug, Clone, Copy)]
enum What {
    Keys,
    Values,
}

struct WriteRows<'a> {
    layout: &'a BatchLayout<'a>,
    heads: AttentionHeads,
    what: What,
}

impl InplaceOp2 for WriteRows<'_> {
    fn name(&self) -> &'static str {
        "skeg-write-cache-rows"
    }

    fn cpu_fwd(
        &self,
        pool: &mut CpuStorage,
        pool_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (total_tokens, row_width) = qkv_layout.shape().dims2()?;
        let (_, width) = pool_layout.shape().dims2()?;
        let (q_width, kv_width) = (self.heads.q_width(), self.heads.kv_width());
        let cache_rows = &self.layout.cache_rows;
        if row_width != q_width + 2 * kv_width
            || width != kv_width
            || total_tokens != cache_rows.len()
        {
            candle_core::bail!(
                "{total_tokens} rows of {row_width} for {} places of {width}",
                cache_rows.len()
            );
        }
        let qkv = rows::slice::<f32>(qkv, qkv_layout)?;
        let range = rows::range(pool_layout)?;
        match pool {
            CpuStorage::F32(pool) => self.write(&mut pool[range], qkv),
            CpuStorage::F16(pool) => self.write(&mut pool[range], qkv),
            other => candle_core::bail!("a cache of {:?}; expected f32 or f16", other.dtype()),
        }
    }
}

impl WriteRows<'_> {
    /// All rows into their blocks.
    fn write<T: Element>(&self, pool: &mut [T], qkv: &[f32]) -> candle_core::Result<()> {
        let (q_width, width) = (self.heads.q_width(), self.heads.kv_width());
        let row_width = q_width + 2 * width;
        let first = match self.what {
            What::Keys => q_width,
            What::Values => q_width + width,
        };
        let block_size = self.layout.block_size;
        for (&cache_row, row) in self.layout.cache_rows.iter().zip(qkv.chunks_exact(row_width)) {
            let (block, offset) = (cache_row / block_size, cache_row % block_size);
            let block_len = block_size * width;
            let pool_rows = pool.len() / width;
            let Some(block) = pool.get_mut(block * block_len..(block + 1) * block_len) else {
                candle_core::bail!("cache row {cache_row} of {pool_rows}");
            };
            self.write_row(&row[first..first + width], offset, block);
        }
        Ok(())
    }

    /// One row's numbers into its block.
    fn write_row<T: Element>(&self, values: &[f32], offset: usize, block: &mut [T]) {
        let (head_dim, block_size) = (self.heads.head_dim, self.layout.block_size);
        let heads =
            block.chunks_exact_mut(block_size * head_dim).zip(values.chunks_exact(head_dim));
        for (block, values) in heads {
            match self.what {
                What::Keys => {
                    for (lane, value) in block[offset..].iter_mut().step_by(block_size).zip(values)
                    {
                        *lane = T::narrow(*value);
                    }
                }
                What::Values => {
                    let row = &mut block[offset * head_dim..(offset + 1) * head_dim];
                    for (place, value) in row.iter_mut().zip(values) {
                        *place = T::narrow(*value);
                    }
                }
            }
        }
    }
}
