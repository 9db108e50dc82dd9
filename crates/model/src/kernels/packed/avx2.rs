//! The packed products for AVX2: eight columns a register, unsigned times signed bytes.
//!
//! Bitwise the same as [`super::portable`]: the sums within a block are exact integers, and the float
//! operations are the same ones in the same order.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8,
    _mm256_srli_epi16, _mm256_storeu_ps,
};

use half::f16;

use super::super::prefetch::prefetch;
use super::activations::XRow;
use super::layout::{GROUP, Q4Block, Q8Block};
use super::tile::{AHEAD, FEW_ROWS, TileOut};
use super::{BLOCK, PANEL};

/// Rows whose sums stay in registers.
const HEIGHT: usize = 4;
/// Columns of one register of sums.
const WIDTH: usize = 8;
/// Bytes of one group of eight columns.
const HALF_BYTES: usize = WIDTH * GROUP;

/// Defines a tile of several rows by one whose height and width are known when it is compiled. Three rows or more take
/// the halves one after the other: all sums then stay in registers.
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident($block:ty) = $columns:ident) => {
        $(#[$doc])*
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $name(x: &[XRow<'_>], panel: &[$block], out: &mut TileOut) {
            for (x, out) in x.chunks(HEIGHT).zip(out.chunks_mut(HEIGHT)) {
                match *x {
                    [a, b, c, d] => {
                        store(&$columns::<4, 1>([a, b, c, d], panel, 0), out, 0);
                        store(&$columns::<4, 1>([a, b, c, d], panel, 1), out, 1);
                    }
                    [a, b, c] => {
                        store(&$columns::<3, 1>([a, b, c], panel, 0), out, 0);
                        store(&$columns::<3, 1>([a, b, c], panel, 1), out, 1);
                    }
                    [a, b] => store(&$columns::<2, 2>([a, b], panel, 0), out, 0),
                    [a] => store(&$columns::<1, 2>([a], panel, 0), out, 0),
                    _ => {}
                }
            }
        }
    };
}

tile! {
    /// [`super::portable::tile_q4`] of several rows.
    tile_q4(Q4Block) = q4_columns
}
tile! {
    /// [`super::portable::tile_q8`] of several rows.
    tile_q8(Q8Block) = q8_columns
}

/// Sums of M rows with H halves of a panel, from half `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q4_columns<const M: usize, const H: usize>(
    x: [XRow<'_>; M],
    panel: &[Q4Block],
    first: usize,
) -> [[__m256; H]; M] {
    let low_mask = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let x_blocks = x.map(|x| &x.q.as_chunks::<BLOCK>().0[..panel.len()]);
    let x_scales = x.map(|x| &x.scales[..panel.len()]);
    let mut acc = [[_mm256_setzero_ps(); H]; M];
    for (idx, block) in panel.iter().enumerate() {
        if M <= FEW_ROWS {
            prefetch(std::ptr::from_ref(block).wrapping_byte_add(AHEAD), size_of_val(block));
        }
        // At most 8 * 2 * 15 * 127 = 30480: fits 16 bits.
        let mut pairs = [[_mm256_setzero_si256(); H]; M];
        for (group, weights) in block.q.iter().enumerate() {
            let mut low = [_mm256_setzero_si256(); H];
            let mut high = [_mm256_setzero_si256(); H];
            for h in 0..H {
                let bytes = load_u8(weights, first + h);
                low[h] = _mm256_and_si256(bytes, low_mask);
                high[h] = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low_mask);
            }
            for r in 0..M {
                let x = x_blocks[r][idx].as_chunks::<GROUP>().0;
                let (x_low, x_high) = (broadcast(x[group]), broadcast(x[group + 4]));
                for h in 0..H {
                    let product = _mm256_maddubs_epi16(low[h], x_low);
                    pairs[r][h] = _mm256_add_epi16(pairs[r][h], product);
                    let product = _mm256_maddubs_epi16(high[h], x_high);
                    pairs[r][h] = _mm256_add_epi16(pairs[r][h], product);
                }
            }
        }
        for h in 0..H {
            let (d, m) = (widen(&block.d, first + h), widen(&block.m, first + h));
            for r in 0..M {
                let scale = x_scales[r][idx];
                let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[r][h], ones));
                let step = _mm256_mul_ps(d, _mm256_set1_ps(scale.d));
                acc[r][h] = _mm256_fmadd_ps(sum, step, acc[r][h]);
                acc[r][h] = _mm256_fmadd_ps(m, _mm256_set1_ps(scale.sum), acc[r][h]);
            }
        }
    }
    acc
}

/// Sums of M rows with H halves of a panel, from half `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
#[expect(clippy::needless_range_loop, reason = "rows and halves index several arrays alike")]
fn q8_columns<const M: usize, const H: usize>(
    x: [XRow<'_>; M],
    panel: &[Q8Block],
    first: usize,
) -> [[__m256; H]; M] {
    let ones = _mm256_set1_epi16(1);
    let x_blocks = x.map(|x| &x.q.as_chunks::<BLOCK>().0[..panel.len()]);
    let x_scales = x.map(|x| &x.scales[..panel.len()]);
    let mut acc = [[_mm256_setzero_ps(); H]; M];
    for (idx, block) in panel.iter().enumerate() {
        if M <= FEW_ROWS {
            prefetch(std::ptr::from_ref(block).wrapping_byte_add(AHEAD), size_of_val(block));
        }
        let mut sums = [[_mm256_setzero_si256(); H]; M];
        for (group, weights) in block.q.iter().enumerate() {
            for h in 0..H {
                let weights = load_i8(weights, first + h);
                let magnitudes = _mm256_abs_epi8(weights);
                for r in 0..M {
                    let x = broadcast(x_blocks[r][idx].as_chunks::<GROUP>().0[group]);
                    // |w| * (x with the sign of w); at most 2 * 128 * 127 = 32512 a pair: fits 16 bits.
                    let signed = _mm256_sign_epi8(x, weights);
                    let pairs = _mm256_maddubs_epi16(magnitudes, signed);
                    sums[r][h] = _mm256_add_epi32(sums[r][h], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for h in 0..H {
            let d = widen(&block.d, first + h);
            for r in 0..M {
                let step = _mm256_mul_ps(d, _mm256_set1_ps(x_scales[r][idx].d));
                acc[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][h]), step, acc[r][h]);
            }
        }
    }
    acc
}

#[target_feature(enable = "avx2")]
#[inline]
fn store<const M: usize, const H: usize>(
    sums: &[[__m256; H]; M],
    out: &mut [[f32; PANEL]],
    first: usize,
) {
    for (sums, out) in sums.iter().zip(out) {
        for (sums, out) in sums.iter().zip(out.as_chunks_mut::<WIDTH>().0[first..].iter_mut()) {
            // SAFETY: `out` is eight floats.
            #[expect(unsafe_code, reason = "a store takes a pointer")]
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), *sums);
            }
        }
    }
}

/// Four activations in every lane.
#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(x: [i8; GROUP]) -> __m256i {
    _mm256_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned)))
}

/// The scales of eight columns as f32.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn widen(values: &[f16; PANEL], half: usize) -> __m256 {
    let eight: &[f16; WIDTH] = &values.as_chunks::<WIDTH>().0[half];
    // SAFETY: `eight` is 16 bytes.
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    let halves = unsafe { _mm_loadu_si128(eight.as_ptr().cast::<__m128i>()) };
    _mm256_cvtph_ps(halves)
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_u8(group: &[u8; PANEL * GROUP], half: usize) -> __m256i {
    let bytes: &[u8; HALF_BYTES] = &group.as_chunks::<HALF_BYTES>().0[half];
    // SAFETY: `bytes` is 32 bytes.
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>())
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_i8(group: &[i8; PANEL * GROUP], half: usize) -> __m256i {
    let bytes: &[i8; HALF_BYTES] = &group.as_chunks::<HALF_BYTES>().0[half];
    // SAFETY: `bytes` is 32 bytes.
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>())
    }
}
