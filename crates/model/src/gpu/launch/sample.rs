//! The choice of tokens.

use super::{Launch, launch};
use crate::gpu::args::{SAMPLE_CHUNK, SAMPLE_PARTS, SampleArgs};

/// Chunks a block of `sample_sums`.
const BLOCK_CHUNKS: u32 = 64;
/// Threads a block of `sample_filter`, which has a row for itself.
const FILTER_THREADS: u32 = 1024;

/// The largest logits, the chunks' sums, the choice from all tokens, and that from those which a filter keeps.
#[expect(clippy::cast_possible_truncation, reason = "the constants are small")]
pub(crate) fn sample(args: &SampleArgs) -> [Launch<'_>; 4] {
    let chunks = args.vocab_size.div_ceil(SAMPLE_CHUNK as u32);
    let start = |kernel, grid| launch(("sample", kernel), grid, args);
    let filter = launch(("sample_filter", "sample_filter"), [args.rows, 1], args);
    [
        start("sample_largest", [SAMPLE_PARTS as u32, args.rows]),
        start("sample_sums", [chunks.div_ceil(BLOCK_CHUNKS), args.rows]),
        // All sums of a row, f64.
        Launch { shared_bytes: 8 * chunks, ..start("sample_choose", [args.rows, 1]) },
        Launch { block: FILTER_THREADS, ..filter },
    ]
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use bytemuck::Zeroable;

    use super::*;
    use crate::gpu::args::{AskHeader, ChosenToken, LargestLogit};

    /// The numbers of `cuda/args.cuh`.
    #[test]
    fn structures_of_sampling_lie_as_the_kernels_say() {
        assert_eq!((size_of::<AskHeader>(), offset_of!(AskHeader, unit)), (32, 8));
        assert_eq!(size_of::<LargestLogit>(), 12);
        assert_eq!(size_of::<ChosenToken>(), 12);
        assert_eq!((size_of::<SampleArgs>(), offset_of!(SampleArgs, rows)), (56, 48));
    }

    #[test]
    fn sampling_covers_the_vocabulary() {
        let args = SampleArgs { rows: 3, vocab_size: 128_256, ..Zeroable::zeroed() };
        let [largest, sums, choose, filter] = sample(&args);
        assert_eq!((largest.grid, sums.grid, choose.grid), ([32, 3, 1], [32, 3, 1], [3, 1, 1]));
        assert_eq!(choose.shared_bytes, 2004 * 8);
        assert_eq!((filter.grid, filter.block), ([3, 1, 1], 1024));
    }
}
