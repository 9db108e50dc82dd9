//! Which kernel does an operation, and on how many threads: pure, and the same for a GPU and for the emulator.

mod attention;

use bytemuck::{Pod, bytes_of};

use super::args::{AddNormArgs, EmbedArgs, GatherArgs, MatmulArgs, RopeCacheArgs, SwigluArgs};
use super::memory::Element;
use crate::error::{Error, Result};

pub(crate) use attention::{attn_decode, attn_prefill};

/// Threads a block of the kernels here; their sources have the same number.
const THREADS: u32 = 256;

/// One start of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launch<'a> {
    /// Its source in `cuda/`, without the ending.
    pub(crate) module: &'static str,
    /// Its entry.
    pub(crate) kernel: &'static str,
    /// Blocks.
    pub(crate) grid: [u32; 3],
    /// Threads a block.
    pub(crate) block: u32,
    /// Dynamic shared memory a block.
    pub(crate) shared_bytes: u32,
    /// Its one parameter, a structure of [`super::args`].
    pub(crate) args: &'a [u8],
}

/// The name with the element's type at the end.
macro_rules! of_element {
    ($name:literal, $element:expr) => {
        match $element {
            Element::F32 => concat!($name, "_f32"),
            Element::F16 => concat!($name, "_f16"),
            Element::Bf16 => concat!($name, "_bf16"),
        }
    };
}

/// The norm's kernel for so many numbers a thread.
macro_rules! of_numbers {
    ($numbers:literal, $element:expr) => {
        match $element {
            Element::F32 => concat!("add_norm_f32_", $numbers),
            Element::F16 => concat!("add_norm_f16_", $numbers),
            Element::Bf16 => concat!("add_norm_bf16_", $numbers),
        }
    };
}

mod products;
mod sample;

pub(crate) use products::{SKINNY_ROWS, gated_product, product};
pub(crate) use sample::sample;

fn launch<'a>(
    (module, kernel): (&'static str, &'static str),
    grid: [u32; 2],
    args: &'a impl Pod,
) -> Launch<'a> {
    let grid = [grid[0], grid[1], 1];
    Launch { module, kernel, grid, block: THREADS, shared_bytes: 0, args: bytes_of(args) }
}

/// A block a row.
pub(crate) fn embed(args: &EmbedArgs, table: Element) -> Launch<'_> {
    launch(("rows", of_element!("embed", table)), [args.rows, 1], args)
}

/// A block a wanted row.
pub(crate) fn gather(args: &GatherArgs, element: Element) -> Launch<'_> {
    let kernel = match element {
        Element::F32 => "gather_32",
        Element::F16 | Element::Bf16 => "gather_16",
    };
    launch(("rows", kernel), [args.logit_rows, 1], args)
}

/// A thread a feature of a row: the bias alone.
pub(crate) fn add_bias(args: &MatmulArgs) -> Launch<'_> {
    launch(("rows", "add_bias"), [args.rows, args.out_features.div_ceil(THREADS)], args)
}

/// A thread four numbers.
pub(crate) fn swiglu(args: &SwigluArgs, activated: Element) -> Launch<'_> {
    let grid = [args.rows, args.width.div_ceil(4 * THREADS)];
    launch(("rows", of_element!("swiglu", activated)), grid, args)
}

/// A thread four pairs of a head, or four numbers of the values; the kernel loops where that does not fit.
pub(crate) fn rope_cache(args: &RopeCacheArgs, cache: Element) -> Launch<'_> {
    let heads = args.heads;
    let numbers = (heads.num_heads + heads.num_kv_heads) * (heads.head_dim / 2)
        + heads.num_kv_heads * heads.head_dim;
    let grid = [args.rows, numbers.div_ceil(4 * THREADS)];
    launch(("rope", of_element!("rope_cache", cache)), grid, args)
}

/// A block a row, which lies in its registers.
///
/// # Errors
/// [`Error::Device`] where a row is too wide for that.
pub(crate) fn add_norm(args: &AddNormArgs, normed: Element) -> Result<Launch<'_>> {
    let in_fours = args.hidden.is_multiple_of(4);
    let kernel = match (in_fours, args.hidden.div_ceil(THREADS)) {
        (true, 0..=4) => of_numbers!("4", normed),
        (true, 5..=8) => of_numbers!("8", normed),
        (true, 9..=16) => of_numbers!("16", normed),
        (true, 17..=32) => of_numbers!("32", normed),
        (true, 33..=64) => of_numbers!("64", normed),
        (false, 0..=32) => of_numbers!("any", normed),
        _ => {
            let most = if in_fours { 64 * THREADS } else { 32 * THREADS };
            let reason = format!(
                "the norm's kernel takes rows of at most {most} numbers, not {}; run this model on the CPU",
                args.hidden
            );
            return Err(Error::Device { device: "cuda".to_owned(), reason });
        }
    };
    Ok(launch(("add_norm", kernel), [args.rows, 1], args))
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use bytemuck::Zeroable;

    use super::*;
    use crate::gpu::args::{AttentionArgs, HeadCounts, MatmulArgs, PlanHeader, StepHeader};

    /// The numbers of `cuda/args.cuh`.
    #[test]
    fn structures_lie_as_the_kernels_say() {
        assert_eq!(size_of::<PlanHeader>(), 16);
        assert_eq!((size_of::<StepHeader>(), offset_of!(StepHeader, max_blocks)), (184, 152));
        assert_eq!((size_of::<EmbedArgs>(), offset_of!(EmbedArgs, rows)), (32, 24));
        assert_eq!((size_of::<AddNormArgs>(), offset_of!(AddNormArgs, eps)), (64, 56));
        assert_eq!(size_of::<HeadCounts>(), 16);
        assert_eq!((size_of::<RopeCacheArgs>(), offset_of!(RopeCacheArgs, heads)), (88, 56));
        assert_eq!((size_of::<AttentionArgs>(), offset_of!(AttentionArgs, heads)), (96, 56));
        assert_eq!((size_of::<SwigluArgs>(), offset_of!(SwigluArgs, rows)), (40, 24));
        assert_eq!((size_of::<GatherArgs>(), offset_of!(GatherArgs, logit_rows)), (32, 24));
        assert_eq!((size_of::<MatmulArgs>(), offset_of!(MatmulArgs, rows)), (48, 32));
    }

    #[test]
    fn the_norms_kernel_holds_the_row() {
        let kernel = |hidden, element| {
            let args = AddNormArgs { rows: 3, hidden, ..Zeroable::zeroed() };
            let launch = add_norm(&args, element)?;
            assert_eq!((launch.grid, launch.block), ([3, 1, 1], 256));
            assert_eq!(launch.args, bytes_of(&args));
            Ok::<_, Error>(launch.kernel)
        };
        assert_eq!(kernel(4, Element::F32).unwrap(), "add_norm_f32_4");
        assert_eq!(kernel(1024, Element::Bf16).unwrap(), "add_norm_bf16_4");
        assert_eq!(kernel(1028, Element::Bf16).unwrap(), "add_norm_bf16_8");
        assert_eq!(kernel(4096, Element::F16).unwrap(), "add_norm_f16_16");
        assert_eq!(kernel(5120, Element::F16).unwrap(), "add_norm_f16_32");
        assert_eq!(kernel(16384, Element::F32).unwrap(), "add_norm_f32_64");
        assert_eq!(kernel(577, Element::F32).unwrap(), "add_norm_f32_any");
        for too_wide in [16388, 8193] {
            let error = kernel(too_wide, Element::F32).unwrap_err().to_string();
            assert!(error.contains(&too_wide.to_string()), "{error}");
        }
    }

    /// Llama-3-8B's shape: a thread has one thing to do.
    #[test]
    fn one_row_is_spread_over_blocks() {
        let heads = HeadCounts { num_heads: 32, num_kv_heads: 8, head_dim: 128, block_size: 16 };
        let args = RopeCacheArgs { rows: 1, heads, ..Zeroable::zeroed() };
        let launch = rope_cache(&args, Element::F16);
        // 40 heads of 64 pairs and 8 of 128 values, in fours.
        assert_eq!((launch.kernel, launch.grid), ("rope_cache_f16", [1, 4, 1]));
        let args = SwigluArgs { rows: 2, width: 14336, ..Zeroable::zeroed() };
        let launch = swiglu(&args, Element::Bf16);
        assert_eq!((launch.kernel, launch.grid), ("swiglu_bf16", [2, 14, 1]));
    }
}
