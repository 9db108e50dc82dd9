//! Products.

use super::{Launch, launch};
use crate::gpu::args::MatmulArgs;
use crate::gpu::memory::Element;

/// Rows up to which a product is ours; above, a library's is faster, and its bits may depend on how many rows there are.
pub(crate) const SKINNY_ROWS: u32 = 32;
/// Numbers of 16 bits that a lane copies at once; rows begin at multiples of it.
const PIECE: u32 = 8;
/// Features a block of the kernels without matrix units.
const PLAIN_FEATURES: u32 = 8;

/// What a block of `skinny` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    rows: u32,
    features: u32,
    /// The kernels for f16 and bf16.
    plain: [&'static str; 2],
    /// Those that end with SwiGLU.
    gated: [&'static str; 2],
}

macro_rules! tile {
    ($rows:literal, $features:literal) => {
        Tile {
            rows: $rows,
            features: $features,
            plain: [
                concat!("skinny_f16_", $rows, "x", $features),
                concat!("skinny_bf16_", $rows, "x", $features),
            ],
            gated: [
                concat!("gated_f16_", $rows, "x", $features),
                concat!("gated_bf16_", $rows, "x", $features),
            ],
        }
    };
}

impl Tile {
    /// Every block reads its rows of x from the L2 cache, beside the weights that it reads from memory: `rows / features` as
    /// many bytes. At most half as many are wanted, and fewer where there are features enough for two blocks on each of
    /// 132 multiprocessors; more where fewer than 96 blocks would have to read it all.
    fn of(rows: u32, out_features: u32) -> Self {
        let suffices = |features: u32| out_features >= 2 * 132 * features;
        match rows {
            5..=8 if suffices(64) => tile!(8, 64),
            3..=8 if suffices(32) => tile!(8, 32),
            0..=8 => tile!(8, 16),
            9..=16 if suffices(64) => tile!(16, 64),
            9..=16 => tile!(16, 32),
            17..=24 if out_features < 96 * 64 => tile!(24, 32),
            17..=24 => tile!(24, 64),
            _ if out_features < 96 * 64 => tile!(32, 32),
            _ => tile!(32, 64),
        }
    }

    /// The ring of the block's 8 warps, as `skinny.cu` counts it: of 4 stages, or as many as fit into half of a
    /// multiprocessor's memory. Every 8 features or rows of a stage are 16 bytes a lane.
    fn shared_bytes(self) -> u32 {
        let stage_bytes = 8 * (self.features / 8 + self.rows / 8) * 32 * 16;
        stage_bytes * (114_688 / stage_bytes).min(4)
    }
}

/// A product of any number of rows, in an order of sums that `in_features` alone decides.
pub(crate) fn product(args: &MatmulArgs, element: Element) -> Launch<'_> {
    let tile = Tile::of(args.rows, args.out_features);
    if !args.in_features.is_multiple_of(PIECE) {
        return plain(args, of_element!("product", element));
    }
    match element {
        Element::F16 => tiled(args, tile, tile.plain[0]),
        Element::Bf16 => tiled(args, tile, tile.plain[1]),
        Element::F32 => plain(args, "product_f32"),
    }
}

/// A product of gates and what they let through, in the order of sums of [`product`], and SwiGLU of the two; `None` where no
/// kernel does both.
pub(crate) fn gated_product(args: &MatmulArgs, element: Element) -> Option<Launch<'_>> {
    let tile = Tile::of(args.rows, args.out_features);
    let is_tiled = args.in_features.is_multiple_of(PIECE) && !args.bias.is_some();
    let kernel = match element {
        Element::F16 => tile.gated[0],
        Element::Bf16 => tile.gated[1],
        Element::F32 => return None,
    };
    is_tiled.then(|| tiled(args, tile, kernel))
}

fn tiled<'a>(args: &'a MatmulArgs, tile: Tile, kernel: &'static str) -> Launch<'a> {
    let grid = [args.out_features.div_ceil(tile.features), args.rows.div_ceil(tile.rows)];
    Launch { shared_bytes: tile.shared_bytes(), ..launch(("skinny", kernel), grid, args) }
}

/// A warp one feature of one row.
fn plain<'a>(args: &'a MatmulArgs, kernel: &'static str) -> Launch<'a> {
    launch(("skinny", kernel), [args.out_features.div_ceil(PLAIN_FEATURES), args.rows], args)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    /// Llama-3-8B's products.
    #[test]
    fn blocks_are_many_and_x_seldom_more_than_half_of_what_they_read() {
        for out_features in [4096, 6144, 28_672, 128_256] {
            for rows in 1..=SKINNY_ROWS {
                let tile = Tile::of(rows, out_features);
                let blocks = out_features / tile.features;
                assert!(tile.rows >= rows, "{tile:?}");
                assert!(tile.features >= 2 * tile.rows || blocks < 2 * 96, "{blocks} of {tile:?}");
                assert!(blocks >= 96, "{blocks} blocks of {tile:?}");
                // Two blocks a multiprocessor of 228 KiB, which keeps 1 KiB of each for itself.
                assert!(2 * (tile.shared_bytes() + 1024) <= 228 * 1024, "{tile:?}");
            }
        }
        assert_eq!(Tile::of(1, 28_672), tile!(8, 16));
        assert_eq!(Tile::of(8, 28_672), tile!(8, 64));
        assert_eq!(Tile::of(16, 4096), tile!(16, 32));
        assert_eq!(Tile::of(20, 4096), tile!(24, 32));
        assert_eq!(Tile::of(32, 4096), tile!(32, 32));
    }

    /// A tile of 16 features is 8 gates and the 8 that they let through.
    #[test]
    fn gated_products_cover_both_halves() {
        let args =
            MatmulArgs { rows: 1, in_features: 4096, out_features: 28_672, ..Zeroable::zeroed() };
        let launch = gated_product(&args, Element::Bf16).unwrap();
        assert_eq!((launch.kernel, launch.grid), ("gated_bf16_8x16", [1792, 1, 1]));
        assert_eq!(launch.shared_bytes, product(&args, Element::Bf16).shared_bytes);
        assert_eq!(gated_product(&args, Element::F32), None);
        for args in [
            MatmulArgs { in_features: 4095, ..args },
            MatmulArgs { bias: crate::gpu::memory::Address(1), ..args },
        ] {
            assert_eq!(gated_product(&args, Element::F16), None);
        }
    }

    #[test]
    fn a_product_covers_all_features_and_rows() {
        let args = MatmulArgs { rows: 40, in_features: 64, out_features: 65, ..Zeroable::zeroed() };
        let launch = product(&args, Element::Bf16);
        assert_eq!((launch.kernel, launch.grid), ("skinny_bf16_32x32", [3, 2, 1]));
        // 3 stages of 8 warps and 8 pieces of 512 bytes.
        assert_eq!(launch.shared_bytes, 98_304);
        let launch = product(&args, Element::F32);
        assert_eq!((launch.kernel, launch.grid), ("product_f32", [9, 40, 1]));
        let odd = MatmulArgs { in_features: 63, ..args };
        assert_eq!(product(&odd, Element::F16).kernel, "product_f16");
    }
}
