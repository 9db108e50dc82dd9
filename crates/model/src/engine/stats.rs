//! What an engine counts, readable from any thread without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers of one engine after its last step: how things stand, and what was counted since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Sequences queued, those pushed out of the running set included.
    pub num_waiting: usize,
    /// Sequences that hold cache blocks and take part in steps.
    pub num_running: usize,
    /// Blocks of the KV cache.
    pub num_blocks: usize,
    /// Blocks that running sequences hold.
    pub num_held_blocks: usize,
    /// Blocks that nobody holds and the prefix cache keeps.
    pub num_idle_blocks: usize,
    /// Rows computed, prompt and decode; counts up.
    pub computed_rows: usize,
    /// Times a running sequence lost its blocks to an older one; counts up.
    pub preemptions: usize,
    /// Prompt tokens looked up in the prefix cache; counts up.
    pub prefix_cache_query_tokens: usize,
    /// Prompt tokens found there, and not computed; counts up.
    pub prefix_cache_hit_tokens: usize,
    /// Blocks the prefix cache gave up for a new use; counts up.
    pub prefix_cache_evictions: usize,
    /// Prompts that a gate found nothing due for; counts up.
    pub gate_unsteered: usize,
    /// Sequences that a gate had steered, by their prompt or by their answer; counts up.
    pub gate_steered: usize,
    /// Sequences that a gate ended; counts up.
    pub gate_stopped: usize,
    /// Looks at an answer that found nothing due; counts up.
    pub gate_rechecked: usize,
    /// Rows given up because a gate had them steered, to be computed again; counts up.
    pub gate_recomputed_rows: usize,
}

const NUM_FIELDS: usize = 15;

impl EngineStats {
    fn to_array(self) -> [usize; NUM_FIELDS] {
        [
            self.num_waiting,
            self.num_running,
            self.num_blocks,
            self.num_held_blocks,
            self.num_idle_blocks,
            self.computed_rows,
            self.preemptions,
            self.prefix_cache_query_tokens,
            self.prefix_cache_hit_tokens,
            self.prefix_cache_evictions,
            self.gate_unsteered,
            self.gate_steered,
            self.gate_stopped,
            self.gate_rechecked,
            self.gate_recomputed_rows,
        ]
    }

    fn from_array(values: [usize; NUM_FIELDS]) -> Self {
        let [
            num_waiting,
            num_running,
            num_blocks,
            num_held_blocks,
            num_idle_blocks,
            computed_rows,
            preemptions,
            prefix_cache_query_tokens,
            prefix_cache_hit_tokens,
            prefix_cache_evictions,
            gate_unsteered,
            gate_steered,
            gate_stopped,
            gate_rechecked,
            gate_recomputed_rows,
        ] = values;
        Self {
            num_waiting,
            num_running,
            num_blocks,
            num_held_blocks,
            num_idle_blocks,
            computed_rows,
            preemptions,
            prefix_cache_query_tokens,
            prefix_cache_hit_tokens,
            prefix_cache_evictions,
            gate_unsteered,
            gate_steered,
            gate_stopped,
            gate_rechecked,
            gate_recomputed_rows,
        }
    }
}

/// Where an engine writes its [`EngineStats`] and others read them; clones share the place.
///
/// Each number is an atomic of its own, so neither side ever waits; a reader during a write may see some
/// numbers of this step and some of the last.
#[derive(Debug, Clone, Default)]
pub struct SharedStats(Arc<[AtomicUsize; NUM_FIELDS]>);

impl SharedStats {
    /// What was written last; zeros before.
    #[must_use]
    pub fn read(&self) -> EngineStats {
        EngineStats::from_array(self.0.each_ref().map(|cell| cell.load(Ordering::Relaxed)))
    }

    /// Replaces what readers see.
    pub fn write(&self, stats: &EngineStats) {
        for (cell, value) in self.0.iter().zip(stats.to_array()) {
            cell.store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_every_clone() {
        let numbers = std::array::from_fn(|idx| idx + 1);
        let written = SharedStats::default();
        let read = written.clone();
        assert_eq!(read.read(), EngineStats::default());
        written.write(&EngineStats::from_array(numbers));
        assert_eq!(read.read().to_array(), numbers);
    }
}
