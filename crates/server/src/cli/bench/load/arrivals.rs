//! When requests arrive in an open loop.

use std::time::Duration;

use super::super::draw::Draw;

/// Arrivals of a Poisson process: gaps drawn from the exponential distribution.
#[derive(Debug)]
pub(super) struct Arrivals {
    draw: Draw,
    /// Mean number of arrivals a second; positive.
    rate: f64,
    /// Offset of the last arrival from the start.
    last: Duration,
}

impl Arrivals {
    pub(super) fn new(rate: f64, seed: u64) -> Self {
        Self { draw: Draw::new(seed), rate, last: Duration::ZERO }
    }

    /// Offset of the next arrival from the start.
    pub(super) fn next(&mut self) -> Duration {
        // Inverse of the distribution function; the argument is in (0, 1], so the logarithm is finite.
        let gap = -(1.0 - self.draw.unit()).ln() / self.rate;
        self.last = self.last.saturating_add(Duration::try_from_secs_f64(gap).unwrap_or_default());
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(rate: f64, seed: u64) -> Vec<f64> {
        let mut arrivals = Arrivals::new(rate, seed);
        let times: Vec<f64> = (0..20_000).map(|_| arrivals.next().as_secs_f64()).collect();
        std::iter::once(times[0]).chain(times.windows(2).map(|pair| pair[1] - pair[0])).collect()
    }

    #[test]
    fn gaps_have_the_mean_and_the_spread_of_an_exponential() {
        for rate in [0.5, 20.0] {
            let gaps = gaps(rate, 11);
            let number = gaps.len() as f64;
            let mean = gaps.iter().sum::<f64>() / number;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / number;
            // Four standard errors of the mean; an exponential's spread is its mean.
            assert!((mean * rate - 1.0).abs() < 4.0 / number.sqrt(), "{mean}");
            assert!((variance.sqrt() * rate - 1.0).abs() < 0.05, "{variance}");
        }
    }

    #[test]
    fn more_than_a_third_of_the_gaps_are_longer_than_their_mean() {
        let longer = gaps(4.0, 2).iter().filter(|&&gap| gap > 0.25).count();
        // exp(-1) = 0.368; evenly spaced arrivals would give about none or all.
        assert!((7000..7700).contains(&longer), "{longer}");
    }

    #[test]
    fn a_seed_gives_the_same_arrivals() {
        assert_eq!(gaps(3.0, 5), gaps(3.0, 5));
        assert_ne!(gaps(3.0, 5), gaps(3.0, 6));
    }
}
