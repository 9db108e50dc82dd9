//! What the store does, whoever asked for it: each swap and each failed one into the audit log, and how long it took into the metrics.
//!
//! A swap that the store made on its own, because its `CURRENT` changed, has taken effect before it can be written down; so it is
//! not undone where the line cannot be written, but logged as an error and counted.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use skeg_vector_store::{ReloadEvent, Store};

use crate::audit_log::{AuditLog, Entry, Outcome};
use crate::operations::{Operations, SwapSeconds};
use crate::steering::SteeringSlots;

/// Follows a store from here on, in a thread that ends with the store. The audit log gets a line `start` first.
///
/// # Errors
/// When that line cannot be written, or the system gives no thread.
pub fn follow_store(
    store: &Arc<Store<SteeringSlots>>,
    operations: &Operations,
    audit: Option<AuditLog>,
) -> io::Result<JoinHandle<()>> {
    let events = store.subscribe();
    let live = store.current();
    let id = live.generation.id.to_string();
    if let Some(audit) = &audit {
        audit.record(&Entry {
            event: "start",
            who: WHO.to_owned(),
            to: Some(id.clone()),
            hash: Some(live.generation.root_hash.clone()),
            result: Outcome::Done,
            ..Entry::default()
        })?;
    }
    drop(live);
    let (store, swap_seconds) = (Arc::downgrade(store), operations.swap_seconds.clone());
    let mut follower = Follower { store, audit, swap_seconds, last: id };
    std::thread::Builder::new().name("skeg-store-events".to_owned()).spawn(move || {
        for event in events {
            follower.take(event);
        }
    })
}

/// Who swaps: the store itself. Who asked for it has a line of its own.
const WHO: &str = "store";

struct Follower {
    store: Weak<Store<SteeringSlots>>,
    audit: Option<AuditLog>,
    swap_seconds: SwapSeconds,
    /// The generation of the last event: the next one begins there, unless events were missed.
    last: String,
}

impl Follower {
    fn take(&mut self, event: ReloadEvent) {
        let entry = match event {
            ReloadEvent::Swapped { from, to } => {
                let (from, to) = (from.to_string(), to.to_string());
                let hash = self.note_swap(&to);
                let missed = (from != self.last)
                    .then(|| format!("swaps between {} and {from} were not seen", self.last));
                self.last.clone_from(&to);
                Entry {
                    from: Some(from),
                    to: Some(to),
                    hash,
                    result: Outcome::Done,
                    reason: missed,
                    ..Entry::default()
                }
            }
            ReloadEvent::Failed { reason } => Entry {
                from: Some(self.last.clone()),
                result: Outcome::Failed,
                reason: Some(reason),
                ..Entry::default()
            },
        };
        if let Some(audit) = &self.audit {
            // A failure is logged and counted there.
            audit.record(&Entry { event: "swap", who: WHO.to_owned(), ..entry }).ok();
        }
    }

    /// The time that it took, and its root hash, if no other swap was quicker than this thread.
    fn note_swap(&self, to: &str) -> Option<String> {
        let live = self.store.upgrade()?.current();
        if live.generation.id.as_str() != to {
            return None;
        }
        self.swap_seconds.0.observe(live.took.as_secs_f64());
        Some(live.generation.root_hash.clone())
    }
}
