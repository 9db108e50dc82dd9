//! Columns of float weights, as the products read them: an input's 16 columns side by side.

use half::{bf16, f16};

use super::super::accumulate::accumulate;
use super::super::cpu::{Cpu, CpuLevel};
use super::super::element::Element;
use super::tile::{MAX_ROWS, TileBlock, TileOut};
use super::{PANEL, Panels};
use crate::CpuKernels;

/// One input of 16 columns.
pub(super) type DenseBlock<T> = [T; PANEL];

/// An element that has a form of its own.
pub(super) trait DenseElement: Element {
    fn blocks(panels: &Panels) -> Option<&[DenseBlock<Self>]>;
}

macro_rules! dense_element {
    ($element:ty, $form:ident) => {
        impl DenseElement for $element {
            fn blocks(panels: &Panels) -> Option<&[DenseBlock<Self>]> {
                if let Panels::$form(blocks) = panels { Some(blocks) } else { None }
            }
        }
    };
}

dense_element!(f32, F32);
dense_element!(f16, F16);
dense_element!(bf16, BF16);

impl<T: DenseElement> TileBlock for DenseBlock<T> {
    const INPUTS: usize = 1;
    type Row<'x> = &'x [f32];

    fn blocks(panels: &Panels) -> Option<&[Self]> {
        T::blocks(panels)
    }

    fn with_rows<R>(_: &Cpu, x: &[f32], in_features: usize, run: impl FnOnce(&[&[f32]]) -> R) -> R {
        run(&x.chunks_exact(in_features).collect::<Vec<_>>())
    }

    fn tile(level: CpuLevel, mut x: &[&[f32]], panel: &[Self], out: &mut TileOut) {
        let rows = panel.as_flattened();
        // Rows whose sums stay in registers.
        let most = if level.kernels() == CpuKernels::Avx512 { MAX_ROWS } else { 4 };
        let mut out = out.as_mut_slice();
        while !x.is_empty() {
            let height = match x[..x.len().min(most)] {
                [a, b, c, d, e, f, g, h] => sums(level, [a, b, c, d, e, f, g, h], rows, out),
                [a, b, c, d, ..] => sums(level, [a, b, c, d], rows, out),
                [a, b, ..] => sums(level, [a, b], rows, out),
                [a, ..] => sums(level, [a], rows, out),
                [] => return,
            };
            x = &x[height..];
            out = &mut out[height..];
        }
    }
}

/// The sums of M rows; returns M.
fn sums<T: Element, const M: usize>(
    level: CpuLevel,
    x: [&[f32]; M],
    rows: &[T],
    out: &mut [[f32; PANEL]],
) -> usize {
    let mut sums = [[0.0; PANEL]; M];
    accumulate(level, &mut sums, x, rows, PANEL);
    out[..M].copy_from_slice(&sums);
    M
}
