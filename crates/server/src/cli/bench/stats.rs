//! Order statistics of repeated measurements.

use serde::Serialize;

/// The middle and the ends of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        Some(Self { median: quantile(&sorted, 500)?, min: *sorted.first()?, max: *sorted.last()? })
    }
}

/// The values in ascending order.
pub(super) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The value below which `per_mille` thousandths of a sorted list lie, on a straight line between the two
/// neighbours (numpy's default); 500 is the median. `None` of an empty list.
pub(super) fn quantile(sorted: &[f64], per_mille: usize) -> Option<f64> {
    const WHOLE: usize = 1000;
    let last_idx = sorted.len().checked_sub(1)?;
    let place = last_idx * per_mille.min(WHOLE);
    let (idx, rest) = (place / WHOLE, place % WHOLE);
    let below = sorted[idx];
    let above = sorted[(idx + 1).min(last_idx)];
    Some(below + (above - below) * rest as f64 / WHOLE as f64)
}

/// The middle value; `None` of an empty list.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 500)
}

/// Percentiles of a latency, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

impl Percentiles {
    /// Of at least one value.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        Some(Self {
            p50: quantile(&sorted, 500)?,
            p95: quantile(&sorted, 950)?,
            p99: quantile(&sorted, 990)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() < 1e-9)
    }

    #[test]
    fn quantiles_lie_on_the_line_between_neighbours() {
        let values: Vec<f64> = (1..=101).map(f64::from).collect();
        assert!(close(quantile(&values, 0), 1.0));
        assert!(close(quantile(&values, 500), 51.0));
        assert!(close(quantile(&values, 950), 96.0));
        assert!(close(quantile(&values, 1000), 101.0));
        // numpy.percentile([1, 2, 4, 8], [25, 50, 95]) = 1.75, 3.0, 7.4
        for (per_mille, expected) in [(250, 1.75), (500, 3.0), (950, 7.4)] {
            assert!(close(quantile(&[1.0, 2.0, 4.0, 8.0], per_mille), expected), "{per_mille}");
        }
    }

    #[test]
    fn the_order_of_measurements_does_not_matter() {
        let spread = Spread::of(&[3.0, -1.0, 2.0, 9.0, 4.0]).unwrap();
        assert_eq!(spread, Spread { median: 3.0, min: -1.0, max: 9.0 });
        assert!(close(median(&[9.0, 1.0]), 5.0));
    }

    #[test]
    fn one_measurement_is_all_its_percentiles_and_none_has_none() {
        let one = Percentiles::of(&[0.25]).unwrap();
        assert_eq!(one, Percentiles { p50: 0.25, p95: 0.25, p99: 0.25 });
        assert_eq!((Percentiles::of(&[]), Spread::of(&[]), median(&[])), (None, None, None));
    }

    #[test]
    fn a_tail_shows_in_the_high_percentiles_alone() {
        let percentiles = |num_slow: usize| {
            let mut values = vec![1.0; 100 - num_slow];
            values.extend(vec![50.0; num_slow]);
            Percentiles::of(&values).unwrap()
        };
        assert_eq!(percentiles(2), Percentiles { p50: 1.0, p95: 1.0, p99: 50.0 });
        assert_eq!(percentiles(6), Percentiles { p50: 1.0, p95: 50.0, p99: 50.0 });
    }
}
