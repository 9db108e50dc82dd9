//! Writing keys and values into the paged cache.

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use super::rows;
use crate::error::Result;

/// The pool's axis that rows lie along.
const ROW_DIM: usize = 0;

/// Copies row t of `values` to row `cache_rows[t]` of `pool`, in place.
///
/// # Shapes
/// - `pool`: `[num_blocks * block_size, num_kv_heads * head_dim]`, f32
/// - `values`: `[total_tokens, num_kv_heads * head_dim]`, f32
/// - `cache_rows`: `[total_tokens]`, each below the pool's rows
pub(crate) fn write_cache_rows(pool: &Tensor, values: &Tensor, cache_rows: &[usize]) -> Result<()> {
    // contiguous: rows are copied whole.
    let values = values.contiguous()?;
    if pool.device().is_cpu() {
        return Ok(pool.inplace_op2(&values, &WriteRows { cache_rows })?);
    }
    write_cache_rows_composite(pool, &values, cache_rows)
}

/// [`write_cache_rows`] of candle's operations: one copy a run of adjacent rows.
pub(super) fn write_cache_rows_composite(
    pool: &Tensor,
    values: &Tensor,
    cache_rows: &[usize],
) -> Result<()> {
    let mut start = 0;
    for run in cache_rows.chunk_by(|a, b| a + 1 == *b) {
        let values = values.narrow(ROW_DIM, start, run.len())?.contiguous()?; // [run, width]
        pool.slice_set(&values, ROW_DIM, run[0])?;
        start += run.len();
    }
    Ok(())
}

struct WriteRows<'a> {
    cache_rows: &'a [usize],
}

impl InplaceOp2 for WriteRows<'_> {
    fn name(&self) -> &'static str {
        "skeg-write-cache-rows"
    }

    fn cpu_fwd(
        &self,
        pool: &mut CpuStorage,
        pool_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (num_rows, width) = values_layout.shape().dims2()?;
        let (pool_rows, pool_width) = pool_layout.shape().dims2()?;
        if num_rows != self.cache_rows.len() || width != pool_width {
            candle_core::bail!(
                "{num_rows} rows of {width} for {} places of {pool_width}",
                self.cache_rows.len()
            );
        }
        let pool = rows::slice_mut(pool, pool_layout)?;
        let values = rows::slice::<f32>(values, values_layout)?;
        for (&row, values) in self.cache_rows.iter().zip(values.chunks_exact(width)) {
            let Some(place) = pool.get_mut(row * width..(row + 1) * width) else {
                candle_core::bail!("cache row {row} of {pool_rows}");
            };
            place.copy_from_slice(values);
        }
        Ok(())
    }
}
