//! What sampling reads of a row of logits.

use super::cpu::{CpuLevel, per_cpu_level};
use super::lanes::{LANES, exp};

/// The largest logit, and whether all are finite.
///
/// # Shapes
/// - `logits`: `[vocab_size]`
pub(crate) fn largest(logits: &[f32]) -> (f32, bool) {
    let (mut largest, mut all_finite) = (f32::NEG_INFINITY, true);
    scan(CpuLevel::best(), logits, &mut largest, &mut all_finite);
    (largest, all_finite)
}

per_cpu_level! {
    /// [`largest`].
    fn scan(logits: &[f32], largest: &mut f32, all_finite: &mut bool) = scan_body;
}

#[inline(always)]
fn scan_body(logits: &[f32], largest: &mut f32, all_finite: &mut bool) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let mut products = [0f32; LANES];
    let (blocks, rest) = logits.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            maxima[lane] = if block[lane] > maxima[lane] { block[lane] } else { maxima[lane] };
            // 0 as long as all are finite, and not a number ever after.
            products[lane] = block[lane].mul_add(0.0, products[lane]);
        }
    }
    for (lane, logit) in rest.iter().enumerate() {
        maxima[lane] = if *logit > maxima[lane] { *logit } else { maxima[lane] };
        products[lane] = logit.mul_add(0.0, products[lane]);
    }
    *largest = maxima.into_iter().fold(f32::NEG_INFINITY, f32::max);
    *all_finite = products.iter().all(|product| *product == 0.0);
}

/// `exp((logit - largest) / temperature)` of each: softmax without the division by the sum. Minus infinity weighs
/// 0, and nothing else less than 1e-38.
///
/// # Shapes
/// - `logits`, returns: `[vocab_size]`
pub(crate) fn weights(logits: &[f32], largest: f32, temperature: f32) -> Vec<f32> {
    let mut weights = vec![0f32; logits.len()];
    fill_weights(CpuLevel::best(), logits, largest, 1.0 / temperature, &mut weights);
    weights
}

per_cpu_level! {
    /// [`weights`].
    fn fill_weights(logits: &[f32], largest: f32, scale: f32, weights: &mut [f32]) = fill_weights_body;
}

#[inline(always)]
fn fill_weights_body(logits: &[f32], largest: f32, scale: f32, weights: &mut [f32]) {
    for (weight, &logit) in weights.iter_mut().zip(logits) {
        let value = exp((logit - largest) * scale);
        *weight = if logit == f32::NEG_INFINITY { 0.0 } else { value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_found_and_what_is_not_finite_is_noticed() {
        let mut logits: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        for place in [0, 15, 16, 31, 32, 36] {
            let before = logits[place];
            logits[place] = 7.5;
            assert_eq!(largest(&logits), (7.5, true));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                logits[place] = bad;
                assert!(!largest(&logits).1, "{bad} at {place}");
            }
            logits[place] = before;
        }
    }

    #[test]
    fn weights_are_the_softmax_without_its_sum() {
        let logits: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
        let (largest, _) = largest(&logits);
        for temperature in [0.01, 0.7, 1.0, 2.0] {
            let found = weights(&logits, largest, temperature);
            for (found, logit) in found.iter().zip(&logits) {
                let exact = (f64::from(logit - largest) / f64::from(temperature)).exp();
                let error = (f64::from(*found) - exact).abs();
                assert!(error < 1e-5 * exact + 1e-37, "{found}, not {exact}");
            }
        }
        assert_eq!(weights(&[0.0, f32::NEG_INFINITY], 0.0, 1.0), [1.0, 0.0]);
    }
}
