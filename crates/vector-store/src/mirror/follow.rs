//! A thread that looks at the place again and again.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Mirror;
use crate::error::{Error, Result};
use crate::store::Asked;

/// How a place is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowOptions {
    /// Mean time between two looks; default 2 seconds. Each is drawn between three and five quarters of it, so that a fleet
    /// that was started at once does not ask at once.
    pub interval: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self { interval: Duration::from_secs(2) }
    }
}

/// Following ends, and its thread with it, when this is dropped. A look that is under way is waited for, which takes as long as
/// the place's own bound on time.
#[derive(Debug)]
#[must_use = "following ends when the guard is dropped"]
pub struct FollowGuard {
    /// One waiting wake-up is enough: a look after it sees every change before it. `None` only while it is dropped.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FollowGuard {
    /// Looks at once, for whoever knows of a change.
    pub fn look_now(&self) {
        if let Some(wake) = &self.wake {
            // Full: a look is due already. Disconnected: the thread has ended.
            wake.try_send(()).ok();
        }
    }

    /// Ends following without waiting for a look that is under way, for a program that is about to end.
    pub fn stop_without_waiting(mut self) {
        self.wake = None;
        self.thread = None;
    }
}

impl Mirror {
    /// Looks at the place at once and then at an interval, until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Watch`] when the thread cannot be started.
    pub fn follow(self: &Arc<Self>, options: FollowOptions) -> Result<FollowGuard> {
        let (wake, woken) = sync_channel(1);
        // The first look waits for nothing.
        wake.try_send(()).ok();
        let mirror = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("skeg-mirror".to_owned());
        let thread = thread.spawn(move || run(&mirror, &woken, options.interval));
        let path = self.root().to_owned();
        let thread = thread.map_err(|source| Error::Watch { path, source })?;
        Ok(FollowGuard { wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for FollowGuard {
    fn drop(&mut self) {
        // Disconnected, the thread ends.
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows the store had panicked");
        }
    }
}

/// The thread's work: it holds the mirror only while it looks.
fn run(mirror: &Weak<Mirror>, woken: &Receiver<()>, interval: Duration) {
    loop {
        match woken.recv_timeout(jittered(interval)) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(mirror) = mirror.upgrade() else { return };
        // A fault is logged and counted where it happens, and the next look tries again.
        mirror.sync_asked(Asked::ByWatcher).ok();
    }
}

/// Between three and five quarters of an interval. The seed of a hash map is random enough for that.
fn jittered(interval: Duration) -> Duration {
    let share = u32::try_from(RandomState::new().hash_one(0_u8) % 1000).unwrap_or(0);
    interval * 3 / 4 + interval / 2 * share / 1000
}
