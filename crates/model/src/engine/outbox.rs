//! Events on their way to their readers: kept from the step that makes them until the device is busy with the next.

use std::sync::{Arc, Mutex, PoisonError};

use super::request::{Event, EventSink, SeqId, SinkClosed};

/// Where one sequence's events go, shared by the sequence and its events in the [`Outbox`]: the sink is let go of with the last of
/// them.
#[derive(Clone)]
pub(super) struct Outlet(Arc<Mutex<Open>>);

struct Open {
    id: SeqId,
    sink: Box<dyn EventSink>,
    /// The sink has said that nobody reads.
    is_closed: bool,
}

impl Outlet {
    pub(super) fn new(id: SeqId, sink: Box<dyn EventSink>) -> Self {
        Self(Arc::new(Mutex::new(Open { id, sink, is_closed: false })))
    }

    /// Whether the reader is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.with(|open| open.is_closed || open.sink.is_closed())
    }

    fn send(&self, event: Event) {
        self.with(|open| {
            if open.is_closed {
                return;
            }
            let is_last = !matches!(event, Event::Token { .. });
            open.is_closed = open.sink.try_send(event) == Err(SinkClosed);
            if open.is_closed && is_last {
                tracing::debug!(seq = %open.id, "the reader left before the last event");
            }
        });
    }

    /// Never waits: the engine's thread alone comes here.
    fn with<T>(&self, work: impl FnOnce(&mut Open) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Events that were made and not yet delivered, in the order in which they were made.
///
/// Bound: those of one step, a token and an end a sequence at most. Dropped, also amid a panic, it delivers what it has.
#[derive(Default)]
pub(super) struct Outbox {
    events: Vec<(Outlet, Event)>,
}

impl Outbox {
    pub(super) fn put(&mut self, outlet: &Outlet, event: Event) {
        self.events.push((outlet.clone(), event));
    }

    /// Hands over what there is. Of an outlet that turns out to be closed, later events are dropped.
    pub(super) fn deliver(&mut self) {
        for (outlet, event) in self.events.drain(..) {
            outlet.send(event);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.deliver();
    }
}
