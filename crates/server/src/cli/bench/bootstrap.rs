//! How sure a median is: percentile bootstrap.

use serde::Serialize;

use super::draw::Draw;
use super::stats::{median, quantile, sorted};

/// Samples drawn for one interval.
pub(super) const NUM_RESAMPLES: usize = 2000;

/// A median with the bounds between which 95 % of resampled medians lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct BoundedMedian {
    pub(super) median: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

/// The median of `values` and its 95 % bounds: the values are drawn again with replacement
/// [`NUM_RESAMPLES`] times, and the bounds are the 2.5th and 97.5th percentile of those samples' medians.
/// `None` of no value.
pub(super) fn bounded_median(values: &[f64], seed: u64) -> Option<BoundedMedian> {
    let bound = u32::try_from(values.len()).ok()?;
    let middle = median(values)?;
    let mut draw = Draw::new(seed);
    let mut sample = vec![0.0; values.len()];
    let mut medians = Vec::with_capacity(NUM_RESAMPLES);
    for _ in 0..NUM_RESAMPLES {
        sample.fill_with(|| values[draw.below(bound) as usize]);
        medians.push(median(&sample)?);
    }
    let medians = sorted(&medians);
    Some(BoundedMedian {
        median: middle,
        lower: quantile(&medians, 25)?,
        upper: quantile(&medians, 975)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_leave_no_doubt() {
        let bounded = bounded_median(&[1.25; 50], 0).unwrap();
        assert_eq!(bounded, BoundedMedian { median: 1.25, lower: 1.25, upper: 1.25 });
        assert_eq!(bounded_median(&[], 0), None);
    }

    #[test]
    fn bounds_match_the_binomial_interval_of_a_median() {
        // Of 101 sorted values the exact 95 % interval of the median runs from the 41st to the 61st.
        let values: Vec<f64> = (1..=101).map(f64::from).collect();
        let bounded = bounded_median(&values, 7).unwrap();
        assert!((bounded.median - 51.0).abs() < 1e-9, "{bounded:?}");
        assert!((bounded.lower - 41.0).abs() <= 2.0, "{bounded:?}");
        assert!((bounded.upper - 61.0).abs() <= 2.0, "{bounded:?}");
    }

    #[test]
    fn more_pairs_narrow_the_bounds() {
        let width = |number: u32| {
            let values: Vec<f64> = (0..number).map(|i| f64::from(i * 37 % number)).collect();
            let bounded = bounded_median(&values, 1).unwrap();
            (bounded.upper - bounded.lower) / f64::from(number)
        };
        assert!(width(400) < 0.6 * width(100), "{} {}", width(400), width(100));
    }

    #[test]
    fn the_seed_alone_decides_the_bounds() {
        let values: Vec<f64> = (0..37).map(|i| f64::from(i * 17 % 37)).collect();
        assert_eq!(bounded_median(&values, 3), bounded_median(&values, 3));
    }
}
