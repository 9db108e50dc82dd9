//! A bounded number of threads that work through items.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// How often the caller is asked whether to go on while no item is done.
const TICK: Duration = Duration::from_millis(200);

/// Does `work` for each item on `num_threads` threads at most, and gives index and result to `done` on this thread, as
/// they come; `None` where nothing came for a while.
///
/// After `done` has returned `Break`, or `work` has set the flag it is given, no item is begun; what is under way still
/// comes to `done`.
pub(crate) fn each<T: Sync, R: Send>(
    items: &[T],
    num_threads: usize,
    work: impl Fn(&T, &AtomicBool) -> R + Sync,
    mut done: impl FnMut(Option<(usize, R)>) -> ControlFlow<()>,
) {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // One place a thread: a result waits for this thread alone.
        let (sender, results) = sync_channel(num_threads);
        for _ in 0..num_threads.min(items.len()) {
            let (sender, next, stop, work) = (sender.clone(), &next, &stop, &work);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let idx = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(idx) else { break };
                    if sender.send((idx, work(item, stop))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        loop {
            let event = match results.recv_timeout(TICK) {
                Ok(result) => Some(result),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if done(event).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::thread::current;

    use super::*;

    #[test]
    fn as_many_threads_work_as_are_allowed_and_every_item_is_done_once() {
        let items: Vec<usize> = (0..9).collect();
        let all_here = Barrier::new(3);
        let work = |item: &usize, _: &AtomicBool| {
            all_here.wait();
            (current().id(), item * 2)
        };
        let (mut threads, mut found) = (HashSet::new(), vec![None; 9]);
        each(&items, 3, work, |event| {
            if let Some((idx, (thread, result))) = event {
                threads.insert(thread);
                assert_eq!(found[idx].replace(result), None);
            }
            ControlFlow::Continue(())
        });
        assert_eq!(threads.len(), 3);
        assert!(found.iter().enumerate().all(|(idx, result)| *result == Some(2 * idx)));
    }

    #[test]
    fn after_a_break_nothing_is_begun_and_what_is_under_way_comes() {
        let items = [(); 100];
        let mut num_done = 0;
        each(
            &items,
            2,
            |(), stop| stop.load(Ordering::Relaxed),
            |event| {
                num_done += usize::from(event.is_some());
                ControlFlow::Break(())
            },
        );
        // Both threads may have a result on the way, and one in the channel each.
        assert!((1..=6).contains(&num_done), "{num_done}");
    }
}
