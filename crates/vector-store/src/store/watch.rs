//! A thread that reloads when the store's folder changes.
//!
//! The folder is watched, not the file, because `CURRENT` is replaced by renaming and may be a link. Network file systems
//! send no events, so the thread also looks at a fixed interval.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::{Asked, Store};
use crate::error::{Error, Result};

/// How a store is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// Time between two looks at `CURRENT` where no event comes; default 5 seconds.
    pub poll_interval: Duration,
    /// Whether to listen to the file system's events as well; default true.
    pub file_events: bool,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { poll_interval: Duration::from_secs(5), file_events: true }
    }
}

/// Watching ends, and its thread with it, when this is dropped.
#[derive(Debug)]
#[must_use = "watching ends when the guard is dropped"]
pub struct WatchGuard {
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// One pending wake-up is enough: a look at `CURRENT` after it sees every change before it.
#[derive(Debug, Clone)]
struct Waker {
    wake: SyncSender<()>,
    stop: Arc<AtomicBool>,
}

impl Waker {
    fn wake(&self) {
        // Full: a wake-up is pending already. Disconnected: the thread has ended.
        self.wake.try_send(()).ok();
    }
}

impl<T: Send + Sync + 'static> Store<T> {
    /// Reloads whenever `CURRENT` changes, until the guard is dropped; see [`WatchOptions`] for how.
    ///
    /// # Errors
    /// [`Error::Watch`] when the thread cannot be started. Where the system sends no events, that is logged and the
    /// interval alone serves.
    pub fn watch(self: &Arc<Self>) -> Result<WatchGuard> {
        self.watch_with(WatchOptions::default())
    }

    /// [`Store::watch`] with options.
    ///
    /// # Errors
    /// As [`Store::watch`].
    pub fn watch_with(self: &Arc<Self>, options: WatchOptions) -> Result<WatchGuard> {
        // One waiting wake-up: changes that come together are one reload.
        let (wake, woken) = sync_channel(1);
        let waker = Waker { wake, stop: Arc::new(AtomicBool::new(false)) };
        let watcher = if options.file_events { listen(self.root(), &waker) } else { None };
        // What changed between the last look and the first event counts too.
        waker.wake();
        let store = Arc::downgrade(self);
        let stop = Arc::clone(&waker.stop);
        let thread = std::thread::Builder::new().name("skeg-store-watch".to_owned());
        let thread = thread.spawn(move || {
            follow(&store, &woken, &stop, options.poll_interval);
            drop(watcher);
        });
        let path = self.root().to_owned();
        let thread = thread.map_err(|source| Error::Watch { path, source })?;
        Ok(WatchGuard { waker, thread: Some(thread) })
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.waker.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's watching thread had panicked");
        }
    }
}

/// The thread's work: it holds the store only while it reloads.
fn follow<T>(store: &Weak<Store<T>>, woken: &Receiver<()>, stop: &AtomicBool, interval: Duration) {
    loop {
        match woken.recv_timeout(interval) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Some(store) = store.upgrade() else { return };
        // A failure is logged and counted where it happens, and the next look tries again.
        store.reload_asked(Asked::ByWatcher).ok();
    }
}

/// Starts listening to events; `None`, logged, where the system has none.
fn listen(root: &Path, waker: &Waker) -> Option<RecommendedWatcher> {
    let waker = waker.clone();
    let on_event = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !is_own_reading(event.kind)) {
            waker.wake();
        }
    };
    let started = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        for dir in watched_dirs(root) {
            watcher.watch(&dir, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    match started {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            let root = root.display();
            tracing::warn!(%root, %error, "no file events; the store is looked at at an interval alone");
            None
        }
    }
}

/// The root, and where the root is a link that may be swapped, the folder that holds the link.
fn watched_dirs(root: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![root.to_owned()];
    if root.is_symlink()
        && let Some(parent) = root.parent()
    {
        let here = Path::new(".");
        dirs.push(if parent.as_os_str().is_empty() { here } else { parent }.to_owned());
    }
    dirs
}

/// Reading a file is an event too; answering it by reading would never end.
fn is_own_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
