//! How often the store may be changed: so many times a minute, evenly in the long run, a minute's worth at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// The generic cell rate algorithm: each one taken moves the time at which all of them are paid for.
#[derive(Debug)]
pub(super) struct RateLimit {
    interval: Duration,
    paid_at: Mutex<Option<Instant>>,
}

impl RateLimit {
    pub(super) fn per_minute(count: u32) -> Self {
        Self { interval: MINUTE / count.max(1), paid_at: Mutex::new(None) }
    }

    /// Takes one, if there is one.
    pub(super) fn try_take(&self) -> bool {
        let now = Instant::now();
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = paid_at.map_or(now, |paid_at| paid_at.max(now)) + self.interval;
        if next.saturating_duration_since(now) > MINUTE {
            return false;
        }
        *paid_at = Some(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minute_s_worth_comes_at_once_and_then_one_by_one() {
        let limit = RateLimit::per_minute(3);
        let taken = || (0..10).filter(|_| limit.try_take()).count();
        assert_eq!(taken(), 3);
        tokio::time::advance(Duration::from_secs(19)).await;
        assert_eq!(taken(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(), 1);
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(taken(), 3);
    }
}
