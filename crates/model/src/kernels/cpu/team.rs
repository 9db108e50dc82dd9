//! Threads that help with one piece of work at a time.
//!
//! A decode step of a small model divides its work some 150 times, each for a few tens of microseconds. A pool that
//! queues tasks, or waits for every thread at a barrier, costs more than it gives there, most of all when
//! another process has a core. Here work is offered, not assigned: the caller runs it at once, a helper that is
//! awake joins, and the caller waits for those alone that did join.
//!
//! Helpers look out for work for a short while and then sleep.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// Looks that a waiting thread takes before it sleeps: some 20 to 90 microseconds, by processor.
const LOOKS: usize = 2000;

/// Helpers that have joined stand in the low bits of [`Shared::state`].
const JOINED: u64 = (1 << 16) - 1;
/// Set while helpers may join.
const OPEN: u64 = 1 << 16;
/// The number of the offer stands above.
const OFFER: u64 = 1 << 17;

type Work<'a> = dyn Fn() + Sync + 'a;

/// The caller's helpers. Dropping it ends them.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("num_threads", &self.num_threads()).finish()
    }
}

struct Shared {
    /// Number of the offer, [`OPEN`], and how many have joined.
    state: AtomicU64,
    /// The work on offer. Written by the caller that holds `offering`, while the state is closed and nobody has
    /// joined; read by those who have joined.
    work: UnsafeCell<Option<&'static Work<'static>>>,
    /// Held by the caller whose work is on offer.
    offering: Mutex<()>,
    /// Helpers that sleep and were not called since.
    num_asleep: AtomicUsize,
    /// Whether the caller sleeps until the last helper leaves.
    caller_asleep: AtomicBool,
    sleep: Mutex<()>,
    wake_helpers: Condvar,
    wake_caller: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

// SAFETY: `work` is the one part that is not `Sync`; its comment says who may touch it when, and `state`
// orders the accesses.
#[expect(unsafe_code, reason = "the work is handed to other threads by reference")]
unsafe impl Sync for Shared {}

impl Team {
    /// A team of `num_threads`, the caller included: one fewer is started.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(crate) fn new(num_threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            offering: Mutex::new(()),
            num_asleep: AtomicUsize::new(0),
            caller_asleep: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake_helpers: Condvar::new(),
            wake_caller: Condvar::new(),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let mut team = Self { shared, helpers: Vec::new() };
        for idx in 1..num_threads.min(usize::from(u16::MAX)) {
            let shared = Arc::clone(&team.shared);
            let thread = std::thread::Builder::new().name(format!("skeg-kernels-{idx}"));
            team.helpers.push(thread.spawn(move || shared.help())?);
        }
        Ok(team)
    }

    /// Threads, the caller included.
    pub(crate) fn num_threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work` on this thread and, at the same time, on every helper that comes in time; it returns when all
    /// have returned. Whoever runs it must take parts of the whole until none is left. Called while another offer
    /// lasts, also from within `work`, it runs on this thread alone.
    ///
    /// # Panics
    /// When `work` does, on any thread.
    pub(crate) fn share(&self, work: &Work<'_>) {
        let shared = &*self.shared;
        let offering = match shared.offering.try_lock() {
            _ if self.helpers.is_empty() => return work(),
            Ok(guard) => guard,
            // An earlier caller's work panicked; the offer was closed all the same.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return work(),
        };
        shared.offer(work);
        let close = Close { shared };
        work();
        drop(close);
        let panic = lock(&shared.panic).take();
        drop(offering);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.call_helpers();
        for helper in self.helpers.drain(..) {
            // A helper's panics are caught and passed on: it ends with none.
            let _ended = helper.join();
        }
    }
}

impl Shared {
    /// Opens an offer; [`Close`] must follow before `work` ends.
    fn offer(&self, work: &Work<'_>) {
        // SAFETY: the caller closes the offer and waits until all who joined have left, so nobody uses the
        // reference after it ends.
        #[expect(unsafe_code, reason = "threads that outlive the work see it through a reference")]
        let work = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        // SAFETY: closed, and nobody has joined: nobody reads it.
        #[expect(unsafe_code, reason = "written while nobody may read")]
        unsafe {
            *self.work.get() = Some(work);
        }
        let number = (self.state.load(Ordering::Relaxed) & !(OPEN | JOINED)).wrapping_add(OFFER);
        self.state.store(number | OPEN, Ordering::SeqCst);
        if self.num_asleep.load(Ordering::SeqCst) > 0 {
            self.call_helpers();
        }
    }

    fn call_helpers(&self) {
        let guard = lock(&self.sleep);
        self.num_asleep.store(0, Ordering::SeqCst);
        drop(guard);
        self.wake_helpers.notify_all();
    }

    /// What a helper does all its life.
    fn help(&self) {
        let mut last = 0;
        while let Some(offer) = self.wait_for_offer(last) {
            last = offer & !(OPEN | JOINED);
            if !self.join(last) {
                continue;
            }
            // SAFETY: this thread has joined, so the caller waits for it.
            #[expect(unsafe_code, reason = "read while the caller may not write")]
            let work = unsafe { *self.work.get() };
            if let Some(work) = work
                && let Err(panic) = catch_unwind(AssertUnwindSafe(work))
            {
                lock(&self.panic).get_or_insert(panic);
            }
            self.leave();
        }
    }

    /// The state with an open offer other than `last`; `None` when the team ends.
    fn wait_for_offer(&self, last: u64) -> Option<u64> {
        let look = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state & !(OPEN | JOINED) != last).then_some(state)
        };
        loop {
            for _ in 0..LOOKS {
                if let Some(state) = look() {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            let guard = lock(&self.sleep);
            self.num_asleep.fetch_add(1, Ordering::SeqCst);
            // An offer, or the end, after this look finds the number raised and calls.
            if look().is_some() || self.stop.load(Ordering::SeqCst) {
                self.num_asleep.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            drop(self.wake_helpers.wait(guard).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Joins offer `number` if it is still open.
    fn join(&self, number: u64) -> bool {
        let joined = |state: u64| {
            (state & OPEN != 0 && state & !(OPEN | JOINED) == number).then_some(state + 1)
        };
        self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, joined).is_ok()
    }

    fn leave(&self) {
        self.state.fetch_sub(1, Ordering::SeqCst);
        if self.caller_asleep.load(Ordering::SeqCst) {
            drop(lock(&self.sleep));
            self.wake_caller.notify_all();
        }
    }

    /// Lets nobody join any more and waits until all have left.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let is_empty = || self.state.load(Ordering::SeqCst) & JOINED == 0;
        for _ in 0..LOOKS {
            if is_empty() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.caller_asleep.store(true, Ordering::SeqCst);
        while !is_empty() {
            guard = self.wake_caller.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_asleep.store(false, Ordering::SeqCst);
    }
}

/// Closes the offer, also when the caller's part panics.
struct Close<'a> {
    shared: &'a Shared,
}

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// The mutexes guard no data that a panic could leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_and_before_the_call_returns() {
        for num_threads in [1, 2, 3, 8] {
            let team = Team::new(num_threads).unwrap();
            assert_eq!(team.num_threads(), num_threads);
            for round in 0..2_000 {
                let next = AtomicUsize::new(0);
                let done = [const { AtomicUsize::new(0) }; 7];
                team.share(&|| {
                    while let Some(done) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let done = done.map(AtomicUsize::into_inner);
                assert_eq!(done, [1; 7], "{num_threads} threads, round {round}");
            }
        }
    }

    #[test]
    fn helpers_do_join() {
        let team = Team::new(2).unwrap();
        let threads = Mutex::new(std::collections::HashSet::new());
        // Each waits until both are there: without help it would not end.
        team.share(&|| {
            lock(&threads).insert(std::thread::current().id());
            while lock(&threads).len() < 2 {
                std::thread::yield_now();
            }
        });
        assert_eq!(threads.into_inner().unwrap().len(), 2);
    }

    #[test]
    fn work_within_work_and_work_of_several_callers_ends() {
        let team = Team::new(3).unwrap();
        let count = AtomicUsize::new(0);
        let add_two = || {
            let left = AtomicUsize::new(2);
            team.share(&|| {
                while left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_ok()
                {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let outer = AtomicUsize::new(3);
                        team.share(&|| {
                            while outer
                                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                                    n.checked_sub(1)
                                })
                                .is_ok()
                            {
                                add_two();
                            }
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 4 * 200 * 3 * 2);
    }

    #[test]
    fn a_panic_in_the_work_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(2).unwrap();
        let on_caller = std::thread::current().id();
        for caller_panics in [true, false] {
            let helped = AtomicBool::new(false);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.share(&|| {
                    let is_caller = std::thread::current().id() == on_caller;
                    helped.fetch_or(!is_caller, Ordering::SeqCst);
                    while !helped.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    assert!(is_caller != caller_panics, "on purpose");
                });
            }));
            assert!(outcome.is_err());
        }
        let ran = AtomicUsize::new(0);
        team.share(&|| {
            ran.fetch_add(1, Ordering::SeqCst);
        });
        assert!(ran.into_inner() >= 1);
    }
}
