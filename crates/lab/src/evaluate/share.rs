//! Shares and their intervals.

use serde::{Deserialize, Serialize};

/// A share of a count, with its Wilson 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// How many.
    pub count: usize,
    /// Of how many.
    pub total: usize,
    /// `count / total`; 0 where the total is 0.
    pub share: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Two-sided 95 % quantile of the normal distribution.
pub(crate) const Z95: f64 = 1.959_963_984_540_054;

impl Share {
    /// The share of `count` in `total` (Wilson 1927: sensible at 0 and at 1, where the usual
    /// normal interval has width 0).
    #[must_use]
    pub fn new(count: usize, total: usize) -> Self {
        if total == 0 {
            return Self { count, total, share: 0.0, low: 0.0, high: 1.0 };
        }
        let n = total as f64;
        let share = count as f64 / n;
        let z2 = Z95 * Z95;
        let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half_width =
            Z95 / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
        let low = if count == 0 { 0.0 } else { centre - half_width };
        let high = if count == total { 1.0 } else { centre + half_width };
        Self { count, total, share, low, high }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}, {:.2}]", self.share, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(share: Share, low: f64, high: f64) {
        assert!((share.low - low).abs() < 5e-4 && (share.high - high).abs() < 5e-4, "{share:?}");
    }

    /// Values of R's `prop.test(correct = FALSE)`.
    #[test]
    fn intervals_are_wilsons() {
        close(Share::new(0, 40), 0.0, 0.0876);
        close(Share::new(5, 10), 0.2366, 0.7634);
        close(Share::new(110, 110), 0.9663, 1.0);
    }
}
