//! Sums and functions with a fixed order of operations.
//!
//! Everything here is `#[inline(always)]`, so that it is compiled at the level of its caller. Products are fused with
//! the sum they go into (`mul_add`, rounded once): the same bits with an instruction for it and without.

/// Partial sums a dot product keeps: lane l takes elements l, l + 16, ..
pub(super) const LANES: usize = 16;

/// Adds lanes in a fixed tree: halves onto halves.
#[inline(always)]
pub(super) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `a[i] * b[i]`; the order of additions is set by the length alone.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = a.mul_add(*b, *lane);
    }
    sum_lanes(lanes)
}

/// e^x within 2 units in the last place for x in -87..=88, held at the ends outside; the same
/// operations for every x, so that a loop over it vectorises.
///
/// Source: Cephes `expf` (range reduction by ln 2 in two parts, degree 5 polynomial).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut poly = 1.987_569_1e-4_f32;
    poly = poly.mul_add(r, 1.398_199_9e-3);
    poly = poly.mul_add(r, 8.333_452e-3);
    poly = poly.mul_add(r, 4.166_579_6e-2);
    poly = poly.mul_add(r, 1.666_666_5e-1);
    poly = poly.mul_add(r, 0.5);
    let power_of_two = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (poly.mul_add(r * r, r) + 1.0) * power_of_two
}

/// x / (1 + e^-x).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for step in -8_700..=8_800 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) is off by {error}");
        }
    }

    #[test]
    fn dot_adds_every_element_once() {
        for len in [1, 15, 16, 17, 40] {
            let ones = vec![1.0; len];
            let ramp: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let expected = (len * (len - 1) / 2) as f32;
            assert!((dot(&ones, &ramp) - expected).abs() < 1e-3, "length {len}");
        }
    }
}
