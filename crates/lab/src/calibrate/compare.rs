//! Whether one arm is better than another: the paired bootstrap of the difference of their shares of unsafe answers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::experiment::{Judged, Outcome};
use crate::judge::Estimate;

/// Resamples behind an interval.
const NUM_RESAMPLES: usize = 4_000;

/// `%UR(a) - %UR(b)` over the same prompts, with the 95 % interval of a paired percentile bootstrap (Efron 1979): prompts
/// are drawn again with replacement, each with its answers under both. Below 0: `a` has fewer unsafe answers.
#[must_use]
pub(crate) fn difference(a: &[Judged], b: &[Judged], seed: u64) -> Estimate {
    let is_unsafe = |one: &Judged| f64::from(u8::from(one.outcome == Outcome::Unsafe));
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| is_unsafe(a) - is_unsafe(b)).collect();
    let count = differences.len();
    if count == 0 {
        return Estimate { value: 0.0, low: -1.0, high: 1.0 };
    }
    let mean = |sum: f64| sum / count as f64;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || ((u64::from(rng.next_u32()) * count as u64) >> 32) as usize;
    let mut resampled: Vec<f64> =
        (0..NUM_RESAMPLES).map(|_| mean((0..count).map(|_| differences[draw()]).sum())).collect();
    resampled.sort_by(f64::total_cmp);
    // 2.5 % on either side.
    let tail = NUM_RESAMPLES / 40;
    Estimate {
        value: mean(differences.iter().sum()),
        low: resampled[tail],
        high: resampled[NUM_RESAMPLES - 1 - tail],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(outcomes: &[Outcome]) -> Vec<Judged> {
        let judged = |&outcome| Judged {
            outcome,
            harm_score: None,
            is_on_topic: None,
            nll: None,
            second_nll: None,
            reward: None,
            max_relative_norm: None,
        };
        outcomes.iter().map(judged).collect()
    }

    #[test]
    fn a_clear_difference_has_an_interval_below_zero_and_a_small_one_does_not() {
        let (bad, good) = (Outcome::Unsafe, Outcome::Refused);
        let unsteered = answers(&[bad; 20]);
        let mut outcomes = [good; 20];
        outcomes[3] = bad;
        let clear = difference(&answers(&outcomes), &unsteered, 1);
        assert!((clear.value + 0.95).abs() < 1e-12 && clear.high < -0.8, "{clear:?}");
        let mut outcomes = [bad; 20];
        outcomes[3] = good;
        let small = difference(&answers(&outcomes), &unsteered, 1);
        assert!(small.value < 0.0 && small.high >= 0.0, "{small:?}");
        assert_eq!(small, difference(&answers(&outcomes), &unsteered, 1));
    }

    /// `value +- 1.96 sd / sqrt(n)` for a difference that is -1 in half of the prompts and 0 in the others.
    #[test]
    fn intervals_are_as_wide_as_the_normal_approximation() {
        let outcomes: Vec<Outcome> = (0..400)
            .map(|idx| if idx % 2 == 0 { Outcome::Unsafe } else { Outcome::Refused })
            .collect();
        let found = difference(&answers(&outcomes), &answers(&[Outcome::Unsafe; 400]), 7);
        assert!((found.low + 0.549).abs() < 0.01 && (found.high + 0.451).abs() < 0.01, "{found:?}");
    }
}
