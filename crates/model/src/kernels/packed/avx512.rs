//! The packed products for AVX-512 with VNNI: a panel's 16 columns a register, four products and their sum an
//! instruction.
//!
//! Bitwise the same as [`super::portable`]: the sums within a block are exact integers, and the float
//! operations are the same ones in the same order.

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _mm256_loadu_si256, _mm512_and_si512, _mm512_cvtepi32_ps,
    _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_srli_epi16, _mm512_storeu_ps, _mm512_xor_si512,
};

use half::f16;

use super::super::prefetch::prefetch;
use super::activations::XRow;
use super::layout::{GROUP, Q4Block, Q8Block};
use super::tile::{AHEAD, FEW_ROWS, TileOut};
use super::{BLOCK, PANEL};

/// Defines a tile of up to eight rows by one whose height is known when it is compiled.
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident($block:ty) = $rows:ident) => {
        $(#[$doc])*
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        pub(super) fn $name(x: &[XRow<'_>], panel: &[$block], out: &mut TileOut) {
            match *x {
                [a, b, c, d, e, f, g, h] => $rows([a, b, c, d, e, f, g, h], panel, out),
                [a, b, c, d, e, f, g] => $rows([a, b, c, d, e, f, g], panel, out),
                [a, b, c, d, e, f] => $rows([a, b, c, d, e, f], panel, out),
                [a, b, c, d, e] => $rows([a, b, c, d, e], panel, out),
                [a, b, c, d] => $rows([a, b, c, d], panel, out),
                [a, b, c] => $rows([a, b, c], panel, out),
                [a, b] => $rows([a, b], panel, out),
                [a] => $rows([a], panel, out),
                _ => {}
            }
        }
    };
}

tile! {
    /// [`super::portable::tile_q4`] of up to eight rows.
    tile_q4(Q4Block) = q4_rows
}
tile! {
    /// [`super::portable::tile_q8`] of up to eight rows.
    tile_q8(Q8Block) = q8_rows
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q4_rows<const M: usize>(x: [XRow<'_>; M], panel: &[Q4Block], out: &mut TileOut) {
    let low_mask = _mm512_set1_epi8(15);
    let x_blocks = x.map(|x| &x.q.as_chunks::<BLOCK>().0[..panel.len()]);
    let x_scales = x.map(|x| &x.scales[..panel.len()]);
    let mut acc = [_mm512_setzero_ps(); M];
    for (idx, block) in panel.iter().enumerate() {
        if M <= FEW_ROWS {
            prefetch(std::ptr::from_ref(block).wrapping_byte_add(AHEAD), size_of_val(block));
        }
        let mut sums = [_mm512_setzero_si512(); M];
        for (group, weights) in block.q.iter().enumerate() {
            let bytes = load_u8(weights);
            let low = _mm512_and_si512(bytes, low_mask);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low_mask);
            for r in 0..M {
                let x = x_blocks[r][idx].as_chunks::<GROUP>().0;
                sums[r] = _mm512_dpbusd_epi32(sums[r], low, broadcast(x[group]));
                sums[r] = _mm512_dpbusd_epi32(sums[r], high, broadcast(x[group + 4]));
            }
        }
        let (d, m) = (widen(&block.d), widen(&block.m));
        for r in 0..M {
            let scale = x_scales[r][idx];
            let step = _mm512_mul_ps(d, _mm512_set1_ps(scale.d));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), step, acc[r]);
            acc[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(scale.sum), acc[r]);
        }
    }
    store(acc, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn q8_rows<const M: usize>(x: [XRow<'_>; M], panel: &[Q8Block], out: &mut TileOut) {
    /// Flips the highest bit: a signed byte plus 128 as an unsigned one.
    const FLIP: i8 = i8::MIN;
    let flip = _mm512_set1_epi8(FLIP);
    let x_blocks = x.map(|x| &x.q.as_chunks::<BLOCK>().0[..panel.len()]);
    let x_scales = x.map(|x| &x.scales[..panel.len()]);
    let mut acc = [_mm512_setzero_ps(); M];
    for (idx, block) in panel.iter().enumerate() {
        if M <= FEW_ROWS {
            prefetch(std::ptr::from_ref(block).wrapping_byte_add(AHEAD), size_of_val(block));
        }
        // Less what the 128 of every weight adds.
        let mut sums = [_mm512_setzero_si512(); M];
        for r in 0..M {
            sums[r] = _mm512_set1_epi32(-128 * x_scales[r][idx].sum_q);
        }
        for (group, weights) in block.q.iter().enumerate() {
            let weights = _mm512_xor_si512(load_i8(weights), flip);
            for r in 0..M {
                let x = broadcast(x_blocks[r][idx].as_chunks::<GROUP>().0[group]);
                sums[r] = _mm512_dpbusd_epi32(sums[r], weights, x);
            }
        }
        let d = widen(&block.d);
        for r in 0..M {
            let step = _mm512_mul_ps(d, _mm512_set1_ps(x_scales[r][idx].d));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), step, acc[r]);
        }
    }
    store(acc, out);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store<const M: usize>(acc: [__m512; M], out: &mut TileOut) {
    for (acc, out) in acc.into_iter().zip(out) {
        // SAFETY: `out` is sixteen floats.
        #[expect(unsafe_code, reason = "a store takes a pointer")]
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), acc);
        }
    }
}

/// Four activations in every lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(x: [i8; GROUP]) -> __m512i {
    _mm512_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned)))
}

/// The scales of sixteen columns as f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn widen(values: &[f16; PANEL]) -> __m512 {
    // SAFETY: `values` is 32 bytes.
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    let halves = unsafe { _mm256_loadu_si256(values.as_ptr().cast::<__m256i>()) };
    _mm512_cvtph_ps(halves)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_u8(group: &[u8; PANEL * GROUP]) -> __m512i {
    // SAFETY: `group` is 64 bytes.
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    unsafe {
        _mm512_loadu_si512(group.as_ptr().cast::<__m512i>())
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_i8(group: &[i8; PANEL * GROUP]) -> __m512i {
    // SAFETY: `group` is 64 bytes.
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    unsafe {
        _mm512_loadu_si512(group.as_ptr().cast::<__m512i>())
    }
}
