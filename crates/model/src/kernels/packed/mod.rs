//! Matrix products on the CPU, with weights in a form made once at load.
//!
//! Files store a weight row after row; a product that reads it so must add up within a register. Here
//! 16 output columns lie side by side ([`layout`], [`dense`]), so that each lane of a register is one column's
//! sum, at width 1 and at width 256 alike. For 4-bit and 8-bit weights, rows of x are rounded to 8 bits
//! ([`activations`]) and sums within a block of 32 are integers; for float weights all is f32. Each output is made
//! of its blocks in order: its bits do not depend on the rows beside it, the tile, the thread or the processor's
//! level.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
mod embedding;
mod layout;
mod matmul;
mod portable;
mod repack;
#[cfg(test)]
mod tests;
mod tile;

use dense::DenseBlock;
use half::{bf16, f16};
use layout::{PackedBlock, Q4Block, Q8Block};
use tile::TileBlock;

pub(crate) use embedding::rows;
pub(crate) use matmul::{matmul, swiglu_matmul};

/// Inputs a block.
const BLOCK: usize = 32;
/// Output columns a panel.
const PANEL: usize = 16;

/// A matrix `[out_features, in_features]` in panels.
#[derive(Debug, Clone)]
pub(crate) struct PackedMatrix {
    panels: Panels,
    out_features: usize,
    in_features: usize,
}

/// `[num_panels, in_features / inputs of a block]` blocks.
#[derive(Debug, Clone)]
enum Panels {
    Q4(Vec<Q4Block>),
    Q8(Vec<Q8Block>),
    F32(Vec<DenseBlock<f32>>),
    F16(Vec<DenseBlock<f16>>),
    BF16(Vec<DenseBlock<bf16>>),
}

/// Runs `$run` with the blocks of a form, whatever their type.
macro_rules! with_blocks {
    ($panels:expr, $blocks:ident => $run:expr) => {
        match $panels {
            $crate::kernels::packed::Panels::Q4($blocks) => $run,
            $crate::kernels::packed::Panels::Q8($blocks) => $run,
            $crate::kernels::packed::Panels::F32($blocks) => $run,
            $crate::kernels::packed::Panels::F16($blocks) => $run,
            $crate::kernels::packed::Panels::BF16($blocks) => $run,
        }
    };
}
use with_blocks;

/// The blocks of panel `panel_idx`.
fn panel<B: TileBlock>(blocks: &[B], panel_idx: usize, in_features: usize) -> &[B] {
    let len = in_features / B::INPUTS;
    &blocks[panel_idx * len..(panel_idx + 1) * len]
}

impl PackedMatrix {
    fn num_panels(&self) -> usize {
        self.out_features.div_ceil(PANEL)
    }

    /// Whether two matrices can be multiplied in one pass over x.
    pub(crate) fn has_form_of(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.panels) == std::mem::discriminant(&other.panels)
            && (self.out_features, self.in_features) == (other.out_features, other.in_features)
    }

    /// Appends one column's weights, as f32, to `out`.
    fn column(&self, column: usize, out: &mut Vec<f32>) {
        with_blocks!(&self.panels, blocks => {
            for block in panel(blocks, column / PANEL, self.in_features) {
                block.get(column % PANEL, out);
            }
        });
    }

    /// One matrix of several that take the same input, one below the other; `None` where their forms differ or
    /// a panel would hold columns of two.
    pub(crate) fn stack(parts: &[&Self]) -> Option<Self> {
        let (first, rest) = parts.split_first()?;
        let mut stacked = (*first).clone();
        for part in rest {
            if !stacked.out_features.is_multiple_of(PANEL)
                || part.in_features != stacked.in_features
            {
                return None;
            }
            match (&mut stacked.panels, &part.panels) {
                (Panels::Q4(all), Panels::Q4(more)) => all.extend_from_slice(more),
                (Panels::Q8(all), Panels::Q8(more)) => all.extend_from_slice(more),
                (Panels::F32(all), Panels::F32(more)) => all.extend_from_slice(more),
                (Panels::F16(all), Panels::F16(more)) => all.extend_from_slice(more),
                (Panels::BF16(all), Panels::BF16(more)) => all.extend_from_slice(more),
                _ => return None,
            }
            stacked.out_features += part.out_features;
        }
        Some(stacked)
    }
}
