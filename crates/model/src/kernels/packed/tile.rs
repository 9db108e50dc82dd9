//! Products of a few rows with one panel, at the level in use.

use super::super::cpu::{Cpu, CpuLevel};
use super::activations::{QuantizedRows, XRow};
#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::layout::{Q4Block, Q8Block};
use super::{BLOCK, PANEL, Panels, portable};
#[cfg(target_arch = "x86_64")]
use crate::CpuKernels;

/// Rows of x that one call takes at most.
pub(super) const MAX_ROWS: usize = 8;

/// Up to so many rows, a product waits for its weights to come from memory.
#[cfg(target_arch = "x86_64")]
pub(super) const FEW_ROWS: usize = 2;

/// Bytes of weights that are asked for ahead of use; panels follow each other in memory.
#[cfg(target_arch = "x86_64")]
pub(super) const AHEAD: usize = 4096;

/// Results of one call: `[rows, columns]`; rows beyond those given are left as they are.
pub(super) type TileOut = [[f32; PANEL]; MAX_ROWS];

/// A block that has a product.
pub(super) trait TileBlock: Copy + Send + Sync {
    /// Inputs a block.
    const INPUTS: usize;
    /// A row of x as the product takes it.
    type Row<'x>: Copy + Send + Sync;

    /// The blocks, if they are of this kind.
    fn blocks(panels: &Panels) -> Option<&[Self]>;

    /// Runs `run` with rows of x, `[num_rows, in_features]`.
    fn with_rows<R>(
        cpu: &Cpu,
        x: &[f32],
        in_features: usize,
        run: impl FnOnce(&[Self::Row<'_>]) -> R,
    ) -> R;

    /// Products of at most [`MAX_ROWS`] rows with one panel.
    fn tile(level: CpuLevel, x: &[Self::Row<'_>], panel: &[Self], out: &mut TileOut);
}

macro_rules! tile_block {
    ($block:ty, $form:ident, $name:ident) => {
        impl TileBlock for $block {
            const INPUTS: usize = BLOCK;
            type Row<'x> = XRow<'x>;

            fn blocks(panels: &Panels) -> Option<&[Self]> {
                if let Panels::$form(blocks) = panels { Some(blocks) } else { None }
            }

            fn with_rows<R>(
                cpu: &Cpu,
                x: &[f32],
                in_features: usize,
                run: impl FnOnce(&[XRow<'_>]) -> R,
            ) -> R {
                let x = QuantizedRows::new(cpu, x, in_features);
                run(&(0..x.num_rows()).map(|row| x.row(row)).collect::<Vec<_>>())
            }

            fn tile(level: CpuLevel, x: &[XRow<'_>], panel: &[Self], out: &mut TileOut) {
                match level.kernels() {
                    #[cfg(target_arch = "x86_64")]
                    CpuKernels::Avx512 => {
                        // SAFETY: the level says that the processor has the features.
                        #[expect(unsafe_code, reason = "calls a copy for a level")]
                        unsafe {
                            avx512::$name(x, panel, out);
                        }
                    }
                    #[cfg(target_arch = "x86_64")]
                    CpuKernels::Avx2 => {
                        // SAFETY: the level says that the processor has the features.
                        #[expect(unsafe_code, reason = "calls a copy for a level")]
                        unsafe {
                            avx2::$name(x, panel, out);
                        }
                    }
                    _ => {
                        for (x, out) in x.iter().zip(out) {
                            portable::$name(*x, panel, out);
                        }
                    }
                }
            }
        }
    };
}

tile_block!(Q4Block, Q4, tile_q4);
tile_block!(Q8Block, Q8, tile_q8);
