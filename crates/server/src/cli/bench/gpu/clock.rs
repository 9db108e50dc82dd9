//! How long a run may take, and what that leaves for one measurement.

use std::time::{Duration, Instant};

/// The share of the time left that one measurement may take: what comes after it is to be measured as well.
const LARGEST_SHARE: f64 = 0.5;

/// Runs from when it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
    budget: Duration,
}

impl Clock {
    pub(super) fn start(budget: Duration) -> Self {
        Self { started: Instant::now(), budget }
    }

    /// Seconds since the start.
    pub(super) fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn left(&self) -> f64 {
        self.budget.saturating_sub(self.started.elapsed()).as_secs_f64()
    }

    /// Why a measurement that will take so long is left out; `None` where there is time for it.
    pub(super) fn refuses(&self, seconds: f64) -> Option<String> {
        let left = self.left();
        (left <= 0.0 || seconds > left * LARGEST_SHARE).then(|| {
            format!("it would take about {seconds:.0} s, and {left:.0} s of --budget are left")
        })
    }

    /// How many repetitions of `seconds` each are made, in `least..=most`: no more than take `share` of what is left.
    pub(super) fn repetitions(
        &self,
        share: f64,
        seconds: f64,
        (least, most): (usize, usize),
    ) -> usize {
        repetitions(self.left() * share, seconds, (least, most))
    }
}

/// The largest number in `least..=most` of which `allowed` seconds have room for, `least` where they have for none.
fn repetitions(allowed: f64, seconds: f64, (least, most): (usize, usize)) -> usize {
    let fits = |&number: &usize| number as f64 * seconds <= allowed;
    (least..=most).rev().find(fits).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_more_than_half_of_the_time_left_is_refused() {
        let clock = Clock::start(Duration::from_secs(1_000_000));
        assert_eq!(clock.refuses(400_000.0), None);
        assert!(clock.refuses(600_000.0).is_some_and(|reason| reason.contains("600000 s")));
        assert!(Clock::start(Duration::ZERO).refuses(0.0).is_some());
    }

    #[test]
    fn repetitions_are_as_many_as_there_is_time_for() {
        assert_eq!(repetitions(10.0, 1.0, (4, 32)), 10);
        assert_eq!(repetitions(10.0, 0.01, (4, 32)), 32);
        assert_eq!(repetitions(10.0, 100.0, (4, 32)), 4);
        let clock = Clock::start(Duration::from_secs(1_000_000));
        assert_eq!(clock.repetitions(0.1, 1_000.0, (4, 1000)), 99);
    }
}
