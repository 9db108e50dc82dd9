//! Access to a tensor's rows on the CPU.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, WithDType};

use super::cpu::Cpu;

/// Where a contiguous tensor lies in its storage.
pub(super) fn range(layout: &Layout) -> candle_core::Result<std::ops::Range<usize>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a kernel was given a tensor that is not contiguous: {layout:?}");
    };
    Ok(start..end)
}

/// The elements of a contiguous tensor.
pub(super) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    Ok(&storage.as_slice::<T>()?[range(layout)?])
}

/// The elements of a contiguous f32 tensor, to be changed.
pub(super) fn slice_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a mut [f32]> {
    let range = range(layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[range]),
        other => candle_core::bail!("expected f32, found {:?}", other.dtype()),
    }
}

/// `[num_columns, num_rows]` to `[num_rows, num_columns]`.
pub(super) fn transpose(
    cpu: &Cpu,
    columns: Vec<f32>,
    num_columns: usize,
    num_rows: usize,
) -> Vec<f32> {
    /// Rows a task writes: a line of the source then serves 16 of them.
    const ROW_TILE: usize = 16;
    if num_rows == 1 {
        return columns;
    }
    let mut out = vec![0f32; columns.len()];
    cpu.for_each(out.chunks_mut(ROW_TILE * num_columns).enumerate(), |(tile, out)| {
        let first_row = tile * ROW_TILE;
        let height = out.len() / num_columns;
        for (column, values) in columns.chunks_exact(num_rows).enumerate() {
            for (i, value) in values[first_row..first_row + height].iter().enumerate() {
                out[i * num_columns + column] = *value;
            }
        }
    });
    out
}
