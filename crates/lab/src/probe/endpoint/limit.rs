//! How many requests may be under way at once.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A number of places (a counting semaphore).
#[derive(Debug)]
pub(super) struct Limit {
    num_free: Mutex<usize>,
    freed: Condvar,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Limit);

impl Limit {
    pub(super) const fn new(num_places: usize) -> Self {
        Self { num_free: Mutex::new(num_places), freed: Condvar::new() }
    }

    /// Waits for a place; `None` when none is free by the deadline.
    pub(super) fn take(&self, deadline: Instant) -> Option<Place<'_>> {
        let num_free = self.num_free.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut num_free, _) = self
            .freed
            .wait_timeout_while(num_free, left, |num_free| *num_free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *num_free = num_free.checked_sub(1)?;
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.num_free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_place_is_given_once_until_it_is_free_again() {
        let limit = Limit::new(2);
        let now = Instant::now();
        let (first, second) = (limit.take(now), limit.take(now));
        assert!(first.is_some() && second.is_some() && limit.take(now).is_none());
        drop(first);
        assert!(limit.take(now).is_some());
    }

    #[test]
    fn who_waits_gets_the_place_that_is_freed() {
        let limit = Limit::new(1);
        let place = limit.take(Instant::now());
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| limit.take(Instant::now() + Duration::from_secs(600)).is_some());
            drop(place);
            assert!(waiting.join().unwrap());
        });
    }
}
