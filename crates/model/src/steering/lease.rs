//! Ownership of slots in the engine's steering tables.

use std::sync::Arc;

/// Slots in the engine's tables, one a registered vector, held for as long as any clone lives.
///
/// The engine keeps one clone itself and frees the slots when it is the last; each running sequence
/// keeps another. So a generation of vectors that is no longer current stays in the tables until its
/// last request ends, and no message is needed to let go of it.
#[derive(Debug, Clone)]
pub struct SlotLease {
    slots: Arc<[u32]>,
}

impl SlotLease {
    /// Wraps slots handed out by an engine. Slot 0 is not a slot: it means "not steered".
    #[must_use]
    pub fn new(slots: Vec<u32>) -> Self {
        Self { slots: slots.into() }
    }

    /// The slots in the order of the registered vectors.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Whether nobody but the asker holds the slots.
    #[must_use]
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.slots) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_last_only_after_every_clone_is_dropped() {
        let held_by_engine = SlotLease::new(vec![1, 2]);
        let held_by_sequence = held_by_engine.clone();
        assert!(!held_by_engine.is_last());
        drop(held_by_sequence);
        assert!(held_by_engine.is_last());
    }
}
