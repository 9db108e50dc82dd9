//! Whether a probability of harm is one: of the prompts that are given 0.7, seven in ten should be harmful.

use serde::Serialize;

use super::check_probabilities;
use crate::error::{Error, Result};
use crate::evaluate::Share;

/// Bins of equal width.
pub const NUM_BINS: usize = 10;

/// Prompts with a probability of harm above `low` and up to `high`; the first bin has those at 0 too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Mean probability of its prompts; `None` where it has none.
    pub mean_harm: Option<f64>,
    /// Those of its prompts that are harmful.
    pub harmful: Share,
}

/// How far probabilities of harm are from what is found. It holds for this mixture of harmful and harmless prompts only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Prompts.
    pub total: usize,
    /// Expected calibration error, `sum_b n_b / n |harmful share_b - mean probability_b|` (Guo et al. 2017, equation 3, for the
    /// probability of harm instead of that of the likelier answer); `None` without prompts.
    pub expected_error: Option<f64>,
    /// Mean of `(probability - label)^2`, the label 1 where harmful (Brier 1950, for one of two events); `None` without prompts.
    pub brier: Option<f64>,
    /// [`NUM_BINS`] bins, ascending.
    pub bins: Vec<Bin>,
}

impl Calibration {
    /// The figures of probabilities of harm, and whether each prompt is harmful.
    ///
    /// # Errors
    /// [`Error::Data`] for a probability outside 0 to 1, or another number of labels.
    pub fn new(probabilities: &[f64], harmful: &[bool]) -> Result<Self> {
        if probabilities.len() != harmful.len() {
            return Err(Error::Data(format!(
                "{} probabilities for {} labels; expected as many",
                probabilities.len(),
                harmful.len()
            )));
        }
        check_probabilities(probabilities)?;
        let total = probabilities.len();
        let mut sums = [(0.0, 0_usize, 0_usize); NUM_BINS];
        let mut squares = 0.0;
        for (&probability, &is_harmful) in probabilities.iter().zip(harmful) {
            let (sum, num_harmful, num) = &mut sums[bin_of(probability)];
            *sum += probability;
            *num_harmful += usize::from(is_harmful);
            *num += 1;
            let label = f64::from(u8::from(is_harmful));
            squares += (probability - label) * (probability - label);
        }
        let bins: Vec<Bin> = sums
            .iter()
            .enumerate()
            .map(|(idx, &(sum, num_harmful, num))| Bin {
                low: end_of(idx),
                high: end_of(idx + 1),
                mean_harm: (num > 0).then(|| sum / num as f64),
                harmful: Share::new(num_harmful, num),
            })
            .collect();
        let gap = |bin: &Bin| {
            let mean = bin.mean_harm?;
            Some(bin.harmful.total as f64 * (bin.harmful.share - mean).abs())
        };
        let gaps: f64 = bins.iter().filter_map(gap).sum();
        let mean = |sum: f64| (total > 0).then(|| sum / total as f64);
        Ok(Self { total, expected_error: mean(gaps), brier: mean(squares), bins })
    }
}

/// Where the bin before `idx` ends.
fn end_of(idx: usize) -> f64 {
    idx as f64 / NUM_BINS as f64
}

fn bin_of(probability: f64) -> usize {
    (1..NUM_BINS).position(|idx| probability <= end_of(idx)).unwrap_or(NUM_BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-12), "{found:?}");
    }

    /// Bin 1: 0.05, 0.1 (0 of 2); bin 8: 0.75, 0.8 (1 of 2); bin 10: 1.0 (1 of 1).
    #[test]
    fn figures_are_those_of_a_sum_by_hand() {
        let probabilities = [0.05, 0.1, 0.75, 0.8, 1.0];
        let harmful = [false, false, true, false, true];
        let found = Calibration::new(&probabilities, &harmful).unwrap();
        assert_eq!(found.total, 5);
        let counts: Vec<_> =
            found.bins.iter().map(|bin| (bin.harmful.count, bin.harmful.total)).collect();
        let mut expected = [(0, 0); NUM_BINS];
        (expected[0], expected[7], expected[9]) = ((0, 2), (1, 2), (1, 1));
        assert_eq!(counts, expected);
        close(found.bins[0].mean_harm, 0.075);
        close(found.bins[7].mean_harm, 0.775);
        assert_eq!(found.bins[1].mean_harm, None);
        // (2 * 0.075 + 2 * 0.275 + 0) / 5
        close(found.expected_error, 0.14);
        // (0.0025 + 0.01 + 0.0625 + 0.64 + 0) / 5
        close(found.brier, 0.143);
        assert!(
            (found.bins[7].low - 0.7).abs() < 1e-12 && (found.bins[7].high - 0.8).abs() < 1e-12
        );
    }

    #[test]
    fn ends_go_to_the_lower_bin_and_nothing_to_the_first() {
        let places = [0.0, 0.1, 0.100_001, 0.5, 0.9, 0.900_001, 1.0].map(bin_of);
        assert_eq!(places, [0, 0, 1, 4, 8, 9, 9]);
    }

    #[test]
    fn no_prompts_one_kind_and_equal_scores_have_sensible_figures() {
        let none = Calibration::new(&[], &[]).unwrap();
        assert_eq!((none.total, none.expected_error, none.brier), (0, None, None));
        assert_eq!(none.bins.len(), NUM_BINS);
        let one_kind = Calibration::new(&[0.25, 0.75], &[true, true]).unwrap();
        close(one_kind.expected_error, 0.5);
        close(one_kind.brier, 0.3125);
        let equal = Calibration::new(&[0.5; 4], &[true, false, true, false]).unwrap();
        close(equal.expected_error, 0.0);
        close(equal.brier, 0.25);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = Calibration::new(&[0.5], &[]).unwrap_err().to_string();
        assert!(error.contains("1 probabilities for 0 labels"), "{error}");
        assert!(Calibration::new(&[-0.1], &[true]).is_err());
    }
}
