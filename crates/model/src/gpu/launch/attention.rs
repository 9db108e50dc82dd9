//! The kernels of attention: which is tuned for a shape, and how many blocks it starts.

use bytemuck::bytes_of;

use super::Launch;
use crate::error::{Error, Result};
use crate::gpu::args::{AttentionArgs, HeadCounts, PREFILL_ROWS};
use crate::gpu::memory::Element;

/// As `ATTENTION_THREADS` in `cuda/attention.cuh`.
const THREADS: u32 = 128;
/// As `ATTENTION_WARPS`: the tuned prefill's blocks have at most so many heads.
const WARPS: u32 = 4;
/// As `MAX_SET`: query heads that a block computes together at most.
const MAX_SET: u32 = 8;
/// As `MAX_HEAD_DIM`.
const MAX_HEAD_DIM: u32 = 256;
/// As `TILE` in `cuda/attn_prefill.cu`: positions.
const PREFILL_TILE: u32 = 64;
/// Rows of a prefill item: the slow prefill has a block for each.
const ITEM_ROWS: u32 = 16;
const _: () = assert!(ITEM_ROWS as usize == PREFILL_ROWS);
/// Multiprocessors of an H100 or H200. On a card with fewer some blocks begin late; the result is the same.
const MULTIPROCESSORS: u32 = 132;

/// The entry for a head size, a set of heads and the cache's type.
macro_rules! decode_kernel {
    ($tuned:literal, $cache:expr) => {
        match $cache {
            Element::F32 => concat!("attn_decode", $tuned, "_f32"),
            Element::F16 => concat!("attn_decode", $tuned, "_f16"),
            Element::Bf16 => concat!("attn_decode", $tuned, "_bf16"),
        }
    };
}

/// The entry for a head size and the types of cache and result.
macro_rules! prefill_kernel {
    ($cache:literal, $z:expr) => {
        match $z {
            Element::F32 => concat!("attn_prefill", $cache, "_f32"),
            Element::F16 => concat!("attn_prefill", $cache, "_f16"),
            Element::Bf16 => concat!("attn_prefill", $cache, "_bf16"),
        }
    };
}

/// Decode items to rows: as many blocks as the card holds at once, which walk over the items that the header counts.
///
/// Heads of 64 and 128 have tuned kernels, for groups of up to 4 query heads and for larger ones.
///
/// # Errors
/// [`Error::Device`] for heads of more than 256.
pub(crate) fn attn_decode(args: &AttentionArgs, cache: Element) -> Result<Launch<'_>> {
    let group = group(&args.heads)?;
    // Blocks that a multiprocessor holds, by registers and shared memory (`cargo xtask cuda kernels`).
    let (kernel, set, resident) = match (args.heads.head_dim, group) {
        (64, ..=4) => (decode_kernel!("_d64_g4", cache), 4, 5),
        (64, _) => (decode_kernel!("_d64_g8", cache), MAX_SET, 3),
        (128, ..=4) => (decode_kernel!("_d128_g4", cache), 4, 5),
        (128, _) => (decode_kernel!("_d128_g8", cache), MAX_SET, 3),
        _ => (decode_kernel!("", cache), MAX_SET, 8),
    };
    let works = args.max_decode_items * args.heads.num_kv_heads * group.div_ceil(set);
    let blocks = works.min(MULTIPROCESSORS * resident);
    Ok(launch(("attn_decode", kernel), blocks, 0, args))
}

/// Prefill items to rows.
///
/// Heads of 64 and 128 with a 16-bit cache have tuned kernels, a block an item and up to 4 query heads of a group; else a block
/// has one row of an item and up to 8 query heads, and is slow.
///
/// # Errors
/// [`Error::Device`] for heads of more than 256.
pub(crate) fn attn_prefill(args: &AttentionArgs, cache: Element, z: Element) -> Result<Launch<'_>> {
    let group = group(&args.heads)?;
    let (kernel, is_tuned) = match (args.heads.head_dim, cache) {
        (64, Element::F16) => (prefill_kernel!("_d64_f16", z), true),
        (64, Element::Bf16) => (prefill_kernel!("_d64_bf16", z), true),
        (128, Element::F16) => (prefill_kernel!("_d128_f16", z), true),
        (128, Element::Bf16) => (prefill_kernel!("_d128_bf16", z), true),
        (_, Element::F32) => (prefill_kernel!("_f32", z), false),
        (_, Element::F16) => (prefill_kernel!("_f16", z), false),
        (_, Element::Bf16) => (prefill_kernel!("_bf16", z), false),
    };
    let items = args.num_prefill_items * args.heads.num_kv_heads;
    let (blocks, shared_bytes) = if is_tuned {
        // Two tiles of keys and two of values, of 2 bytes a number, and two tiles' places.
        let shared_bytes = 4 * PREFILL_TILE * args.heads.head_dim * 2 + 2 * PREFILL_TILE * 4;
        (items * group.div_ceil(WARPS), shared_bytes)
    } else {
        (items * group.div_ceil(MAX_SET) * ITEM_ROWS, 0)
    };
    Ok(launch(("attn_prefill", kernel), blocks, shared_bytes, args))
}

/// Query heads that share a key and value head.
fn group(heads: &HeadCounts) -> Result<u32> {
    if heads.head_dim > MAX_HEAD_DIM {
        let reason = format!(
            "the kernels of attention take heads of at most {MAX_HEAD_DIM} numbers, not {}; run this model on the CPU",
            heads.head_dim
        );
        return Err(Error::Device { device: "cuda".to_owned(), reason });
    }
    Ok(heads.num_heads / heads.num_kv_heads)
}

fn launch<'a>(
    (module, kernel): (&'static str, &'static str),
    blocks: u32,
    shared_bytes: u32,
    args: &'a AttentionArgs,
) -> Launch<'a> {
    let grid = [blocks, 1, 1];
    Launch { module, kernel, grid, block: THREADS, shared_bytes, args: bytes_of(args) }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    fn args(heads: [u32; 3], rows: u32, items: [u32; 2]) -> AttentionArgs {
        let [num_heads, num_kv_heads, head_dim] = heads;
        AttentionArgs {
            heads: HeadCounts { num_heads, num_kv_heads, head_dim, block_size: 16 },
            rows,
            max_decode_items: items[0],
            num_prefill_items: items[1],
            ..Zeroable::zeroed()
        }
    }

    #[test]
    fn decode_blocks_are_those_that_the_card_holds_at_once() {
        let decode = |heads, items, cache| {
            let args = args(heads, 1, [items, 0]);
            let launch = attn_decode(&args, cache).unwrap();
            assert_eq!((launch.block, launch.shared_bytes), (128, 0));
            (launch.kernel, launch.grid[0])
        };
        let llama_3_8b = [32, 8, 128];
        assert_eq!(decode(llama_3_8b, 4, Element::F16), ("attn_decode_d128_g4_f16", 32));
        assert_eq!(decode(llama_3_8b, 4096, Element::Bf16), ("attn_decode_d128_g4_bf16", 660));
        assert_eq!(decode([64, 8, 128], 4096, Element::F16), ("attn_decode_d128_g8_f16", 396));
        // A group of 16 is two sets, one of 5 is one.
        assert_eq!(decode([32, 2, 64], 3, Element::F16), ("attn_decode_d64_g8_f16", 12));
        assert_eq!(decode([5, 1, 64], 3, Element::F32), ("attn_decode_d64_g8_f32", 3));
        assert_eq!(decode([9, 3, 64], 1, Element::F32), ("attn_decode_d64_g4_f32", 3));
        assert_eq!(decode([32, 32, 96], 1, Element::F16), ("attn_decode_f16", 32));
    }

    #[test]
    fn prefill_is_tuned_for_heads_of_64_and_128_and_16_bits() {
        let prefill = |heads, cache, z| {
            let args = args(heads, 1, [0, 10]);
            let launch = attn_prefill(&args, cache, z).unwrap();
            (launch.kernel, launch.grid[0], launch.shared_bytes)
        };
        let (f32, f16, bf16) = (Element::F32, Element::F16, Element::Bf16);
        assert_eq!(prefill([32, 8, 128], f16, bf16), ("attn_prefill_d128_f16_bf16", 80, 66048));
        assert_eq!(prefill([28, 4, 128], bf16, f16), ("attn_prefill_d128_bf16_f16", 80, 66048));
        assert_eq!(prefill([9, 3, 64], f16, f32), ("attn_prefill_d64_f16_f32", 30, 33280));
        assert_eq!(prefill([9, 3, 64], f32, f32), ("attn_prefill_f32_f32", 480, 0));
        assert_eq!(prefill([32, 2, 80], bf16, f16), ("attn_prefill_bf16_f16", 640, 0));
    }

    #[test]
    fn heads_that_no_kernel_holds_are_refused() {
        let args = args([8, 8, 320], 1, [1, 1]);
        let decode = attn_decode(&args, Element::F16).unwrap_err().to_string();
        let prefill = attn_prefill(&args, Element::F16, Element::F16).unwrap_err().to_string();
        assert!(decode.contains("320") && prefill == decode, "{decode}");
    }
}
