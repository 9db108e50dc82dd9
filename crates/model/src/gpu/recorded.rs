//! Steps that a device keeps to replay.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;

/// What sets which operations a step asks for, and with which arguments, as long as no address changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StepKey {
    /// Padding included.
    pub(crate) rows: usize,
    /// Room for decode items.
    pub(crate) max_decode_items: usize,
}

/// One step as a device keeps it.
#[derive(Default)]
pub(crate) struct Recorded {
    /// How often it was run, operation by operation.
    pub(crate) num_runs: u32,
    /// What is replayed, once it was recorded.
    pub(crate) graph: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded")
            .field("num_runs", &self.num_runs)
            .field("has_graph", &self.graph.is_some())
            .finish()
    }
}

/// The recorded steps of one cache. They hold its addresses, so they are let go of when one changes.
#[derive(Debug, Default)]
pub(crate) struct Recordings {
    generation: u64,
    steps: HashMap<StepKey, Recorded>,
}

impl Recordings {
    /// The step of a key, for memory of a generation of addresses.
    pub(crate) fn of(&mut self, key: StepKey, generation: u64) -> &mut Recorded {
        if self.generation != generation {
            self.generation = generation;
            self.steps.clear();
        }
        self.steps.entry(key).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_kept_by_key_until_an_address_changes() {
        let key = |rows| StepKey { rows, max_decode_items: rows };
        let mut recordings = Recordings::default();
        recordings.of(key(1), 7).graph = Some(Box::new(1));
        recordings.of(key(2), 7).num_runs = 1;
        assert!(recordings.of(key(1), 7).graph.is_some());
        assert!(recordings.of(key(2), 7).graph.is_none());
        assert!(recordings.of(key(1), 8).graph.is_none(), "it holds an address that is gone");
        assert_eq!(recordings.of(key(2), 8).num_runs, 0);
    }
}
