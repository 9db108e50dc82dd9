//! Matrix products with 4-bit and 8-bit weights on the CPU, in a form made once at load.
//!
//! ggml stores a weight row after row; a product that reads it so must add up within a register. Here
//! 16 output columns lie side by side ([`layout`]), so that each lane of a register is one column's sum, at width 1
//! and at width 256 alike. Rows of x are rounded to 8 bits ([`activations`]); sums within a block of 32 are
//! integers, and each output is made of its blocks in order: its bits do not depend on the rows beside
//! it, the tile, the thread or the processor's level.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod embedding;
mod layout;
mod matmul;
mod portable;
mod repack;
#[cfg(test)]
mod tests;
mod tile;

use layout::{PackedBlock, Q4Block, Q8Block};

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

/// `[num_panels, in_features / 32]` blocks.
#[derive(Debug, Clone)]
enum Panels {
    Q4(Vec<Q4Block>),
    Q8(Vec<Q8Block>),
}

impl PackedMatrix {
    /// Blocks a panel.
    fn panel_len(&self) -> usize {
        self.in_features / BLOCK
    }

    fn num_panels(&self) -> usize {
        self.out_features.div_ceil(PANEL)
    }

    /// Whether two matrices can be multiplied in one pass over x.
    pub(crate) fn has_form_of(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.panels) == std::mem::discriminant(&other.panels)
            && (self.out_features, self.in_features) == (other.out_features, other.in_features)
    }

    /// Appends one column's weights, dequantised, to `out`.
    fn column(&self, column: usize, out: &mut Vec<f32>) {
        fn blocks<B: PackedBlock>(panel: &[B], column: usize, out: &mut Vec<f32>) {
            out.extend(panel.iter().flat_map(|block| block.get(column)));
        }
        let panel = column / PANEL * self.panel_len()..(column / PANEL + 1) * self.panel_len();
        match &self.panels {
            Panels::Q4(all) => blocks(&all[panel], column % PANEL, out),
            Panels::Q8(all) => blocks(&all[panel], column % PANEL, out),
        }
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
                _ => return None,
            }
            stacked.out_features += part.out_features;
        }
        Some(stacked)
    }
}
