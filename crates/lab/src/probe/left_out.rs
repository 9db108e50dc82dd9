//! Work done once for each set of a corpus, on every core, as fits that leave one set out are.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::error::{Error, Result};
use crate::progress::Progress;

/// What `of_set` gives for each of `num_sets` sets, by index; as many at once as the machine has cores.
///
/// # Errors
/// What `of_set` returns, and then no further set is begun; [`Error::Interrupted`] when `progress` asks to stop.
pub(super) fn for_each_set<T: Send>(
    num_sets: usize,
    of_set: impl Fn(usize) -> Result<T> + Sync,
    progress: &mut dyn Progress,
) -> Result<Vec<T>> {
    let next_set = AtomicUsize::new(0);
    let (sender, results) = mpsc::sync_channel(num_sets);
    progress.start("sets left out", num_sets);
    let mut by_set: Vec<Option<T>> = (0..num_sets).map(|_| None).collect();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get).min(num_sets) {
            let (sender, next_set, of_set) = (sender.clone(), &next_set, &of_set);
            scope.spawn(move || {
                let taken = std::iter::repeat_with(|| next_set.fetch_add(1, Ordering::Relaxed));
                let sets = taken.take_while(|&set_idx| set_idx < num_sets);
                // Nobody listens any more once a set has failed.
                sets.map(|set_idx| (set_idx, of_set(set_idx)))
                    .try_for_each(|result| sender.send(result))
                    .ok();
            });
        }
        drop(sender);
        for (done, (set_idx, result)) in results.into_iter().enumerate() {
            by_set[set_idx] = Some(result?);
            if progress.advance(1).is_break() {
                return Err(Error::Interrupted { done: done + 1, total: num_sets });
            }
        }
        Ok(())
    })?;
    progress.finish();
    Ok(by_set.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::progress::NoProgress;

    #[test]
    fn results_come_in_the_order_of_the_sets() {
        let has_company = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let num_done = AtomicUsize::new(0);
        let of_set = |idx: usize| {
            // The first set is done last, where another core can do the others.
            while idx == 0 && has_company && num_done.load(Ordering::Acquire) < 49 {
                std::thread::yield_now();
            }
            num_done.fetch_add(1, Ordering::Release);
            Ok(idx * idx)
        };
        let squares = for_each_set(50, of_set, &mut NoProgress).unwrap();
        assert_eq!(squares, (0..50).map(|idx| idx * idx).collect::<Vec<_>>());
    }

    #[test]
    fn a_set_that_fails_ends_the_work() {
        let begun = AtomicUsize::new(0);
        let of_set = |idx: usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            if idx == 0 { Err(Error::Data("no prompts".to_owned())) } else { Ok(()) }
        };
        let error = for_each_set(1_000_000, of_set, &mut NoProgress).unwrap_err();
        assert!(error.to_string().contains("no prompts"), "{error}");
        assert!(begun.into_inner() < 1_000_000);
    }

    /// Stops after so many steps.
    struct StopAfter(usize);

    impl Progress for StopAfter {
        fn start(&mut self, _what: &str, _total: usize) {}

        fn advance(&mut self, num_steps: usize) -> ControlFlow<()> {
            self.0 -= num_steps;
            if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }

        fn note(&mut self, _message: &str) {}

        fn finish(&mut self) {}
    }

    #[test]
    fn it_stops_when_asked_to() {
        let error = for_each_set(9, Ok, &mut StopAfter(2)).unwrap_err();
        assert!(matches!(error, Error::Interrupted { done: 2, total: 9 }), "{error}");
    }
}
