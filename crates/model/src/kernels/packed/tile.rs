//! One tile, at the best level this processor has.

use super::PANEL;
use super::activations::XRow;
#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::layout::{Q4Block, Q8Block};
use super::portable;

/// Rows of x that one tile takes at most.
pub(super) const MAX_ROWS: usize = 4;

/// A block that has a product.
pub(super) trait TileBlock: Sized {
    /// Products of M rows with one panel.
    fn tile<const M: usize>(x: [XRow<'_>; M], panel: &[Self], out: &mut [[f32; PANEL]; M]);
}

macro_rules! tile_block {
    ($block:ty, $name:ident) => {
        impl TileBlock for $block {
            fn tile<const M: usize>(x: [XRow<'_>; M], panel: &[Self], out: &mut [[f32; PANEL]; M]) {
                #[cfg(target_arch = "x86_64")]
                if std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("f16c")
                {
                    // SAFETY: the processor has both features.
                    #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
                    return unsafe { avx2::$name::<M>(x, panel, out) };
                }
                portable::$name::<M>(x, panel, out);
            }
        }
    };
}

tile_block!(Q4Block, tile_q4);
tile_block!(Q8Block, tile_q8);

/// The products of up to [`MAX_ROWS`] rows with one panel, handed out row by row.
pub(super) fn rows<B: TileBlock>(
    x: &[XRow<'_>],
    panel: &[B],
    mut take: impl FnMut(usize, &[f32; PANEL]),
) {
    fn run<B: TileBlock, const M: usize>(
        x: [XRow<'_>; M],
        panel: &[B],
        take: &mut dyn FnMut(usize, &[f32; PANEL]),
    ) {
        let mut out = [[0.0; PANEL]; M];
        B::tile(x, panel, &mut out);
        for (row, out) in out.iter().enumerate() {
            take(row, out);
        }
    }
    match *x {
        [a, b, c, d] => run([a, b, c, d], panel, &mut take),
        [a, b, c] => run([a, b, c], panel, &mut take),
        [a, b] => run([a, b], panel, &mut take),
        [a] => run([a], panel, &mut take),
        _ => {}
    }
}
