//! Which sequences run, and which rows of them the next step computes.
//!
//! First in, first out, without overtaking: a sequence starts when a place in the running set and cache
//! blocks for its whole length, prompt and longest answer, are free. Since the blocks are reserved
//! whole, no running sequence can run out of memory and none is ever preempted. A step takes one row of
//! each decoding sequence, then prompt rows in order of arrival, up to the token budget.

use std::collections::VecDeque;

use super::block_pool::BlockPool;
use super::request::SeqId;
use super::sequence::{Running, Sequence};

/// Rows of one running sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Index in `Scheduler::running`.
    pub(super) running_idx: usize,
    /// At least 1.
    pub(super) num_rows: usize,
}

/// Waiting and running sequences, and the blocks they hold.
pub(super) struct Scheduler {
    waiting: VecDeque<Sequence>,
    running: Vec<Running>,
    pool: BlockPool,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
}

impl Scheduler {
    pub(super) fn new(pool: BlockPool, max_num_seqs: usize, max_num_batched_tokens: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            pool,
            max_num_seqs,
            max_num_batched_tokens,
        }
    }

    pub(super) fn push(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    pub(super) fn num_unfinished(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    pub(super) fn running(&self) -> &[Running] {
        &self.running
    }

    pub(super) fn running_mut(&mut self) -> &mut [Running] {
        &mut self.running
    }

    /// Drops the sequences nobody listens to any more.
    pub(super) fn drop_closed(&mut self) {
        self.drop_where(Sequence::is_closed);
    }

    /// Drops one sequence wherever it is.
    pub(super) fn drop_id(&mut self, id: SeqId) {
        self.drop_where(|sequence| sequence.id == id);
    }

    fn drop_where(&mut self, gone: impl Fn(&Sequence) -> bool) {
        self.waiting.retain(|sequence| !gone(sequence));
        let ended: Vec<usize> =
            (0..self.running.len()).filter(|&idx| gone(&self.running[idx].sequence)).collect();
        self.end(&ended);
    }

    /// Takes ended sequences, by ascending index, out of the running set and frees their blocks.
    pub(super) fn end(&mut self, ended: &[usize]) {
        for &idx in ended.iter().rev() {
            let running = self.running.remove(idx);
            self.pool.give_back(running.block_table);
        }
    }

    /// Admits what fits and shares out the rows of the next step; empty when there is nothing to do.
    pub(super) fn schedule(&mut self) -> Vec<Share> {
        self.admit();
        let mut budget = self.max_num_batched_tokens;
        let mut shares = Vec::with_capacity(self.running.len());
        for decoding in [true, false] {
            for (running_idx, running) in self.running.iter().enumerate() {
                if running.sequence.is_decoding() != decoding || budget == 0 {
                    continue;
                }
                let num_rows = running.sequence.num_pending().min(budget);
                budget -= num_rows;
                shares.push(Share { running_idx, num_rows });
            }
        }
        shares
    }

    fn admit(&mut self) {
        while self.running.len() < self.max_num_seqs {
            let Some(first) = self.waiting.front() else { return };
            let Some(block_table) = self.pool.take(first.max_tokens()) else { return };
            if let Some(sequence) = self.waiting.pop_front() {
                self.running.push(Running { sequence, block_table });
            }
        }
    }

    #[cfg(test)]
    pub(super) fn num_free_blocks(&self) -> usize {
        self.pool.num_free()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::request::{Event, EventSink, GenerationRequest, SinkClosed};
    use super::super::sequence::Advance;
    use super::*;
    use crate::sampling::SamplingParams;

    const NUM_BLOCKS: u32 = 12;
    const BLOCK_SIZE: usize = 4;
    const BUDGET: usize = 6;

    /// A reader that is there until the test says otherwise.
    struct Reader;

    impl EventSink for Reader {
        fn try_send(&mut self, _: Event) -> Result<(), SinkClosed> {
            Ok(())
        }

        fn is_closed(&self) -> bool {
            false
        }
    }

    fn scheduler(max_num_seqs: usize) -> Scheduler {
        Scheduler::new(BlockPool::new(NUM_BLOCKS, BLOCK_SIZE), max_num_seqs, BUDGET)
    }

    fn sequence(id: u64, prompt_len: usize, max_new_tokens: usize) -> Sequence {
        let request = GenerationRequest {
            prompt_token_ids: vec![0; prompt_len],
            sampling: SamplingParams::default(),
            max_new_tokens,
            stop_token_ids: Vec::new(),
            steering: None,
        };
        Sequence::new(SeqId(id), request, Box::new(Reader))
    }

    /// Does what a step does, and returns the ids that took part.
    fn step(scheduler: &mut Scheduler) -> Vec<u64> {
        let shares = scheduler.schedule();
        let rows: usize = shares.iter().map(|share| share.num_rows).sum();
        assert!(rows <= BUDGET, "{rows} rows in a step");
        let mut ids = Vec::new();
        let mut ended = Vec::new();
        for share in shares {
            let sequence = &mut scheduler.running_mut()[share.running_idx].sequence;
            ids.push(sequence.id.0);
            let yields = sequence.num_pending() == share.num_rows;
            sequence.computed(share.num_rows, None);
            if yields && sequence.advance(&[0.0, 1.0]) == Ok(Advance::Ended) {
                ended.push(share.running_idx);
            }
        }
        ended.sort_unstable();
        scheduler.end(&ended);
        ids
    }

    #[test]
    fn decoding_sequences_go_before_a_long_prompt() {
        let mut scheduler = scheduler(4);
        scheduler.push(sequence(1, 2, 8));
        assert_eq!(step(&mut scheduler), [1]);
        scheduler.push(sequence(2, 10, 1));
        let shares = scheduler.schedule();
        let decode = Share { running_idx: 0, num_rows: 1 };
        assert_eq!(shares, [decode, Share { running_idx: 1, num_rows: BUDGET - 1 }]);
    }

    #[test]
    fn nobody_overtakes_a_sequence_that_waits_for_blocks() {
        let mut scheduler = scheduler(4);
        scheduler.push(sequence(1, 20, 12)); // 8 of 12 blocks
        scheduler.push(sequence(2, 20, 12)); // waits
        scheduler.push(sequence(3, 1, 1)); // would fit
        let ids: Vec<Vec<u64>> = (0..3).map(|_| step(&mut scheduler)).collect();
        assert_eq!(ids, [[1], [1], [1]]);
    }

    proptest! {
        #[test]
        fn every_sequence_ends_and_blocks_are_conserved(
            sizes in prop::collection::vec((1_usize..20, 1_usize..12), 1..12),
            max_num_seqs in 1_usize..6,
            cancelled in 0_u64..12,
        ) {
            let mut scheduler = scheduler(max_num_seqs);
            let total: usize = sizes.iter().map(|(prompt, new)| prompt + new).sum();
            for (id, (prompt_len, max_new_tokens)) in (0..).zip(sizes) {
                scheduler.push(sequence(id, prompt_len, max_new_tokens));
            }
            let mut first_seen = Vec::new();
            for round in 0..=total {
                if round == 2 {
                    scheduler.drop_id(SeqId(cancelled));
                }
                prop_assert!(scheduler.running().len() <= max_num_seqs);
                let held: usize =
                    scheduler.running().iter().map(|r| r.block_table.blocks().len()).sum();
                prop_assert_eq!(held + scheduler.num_free_blocks(), NUM_BLOCKS as usize);
                for id in step(&mut scheduler) {
                    if !first_seen.contains(&id) {
                        first_seen.push(id);
                    }
                }
            }
            prop_assert_eq!(scheduler.num_unfinished(), 0);
            prop_assert_eq!(scheduler.num_free_blocks(), NUM_BLOCKS as usize);
            prop_assert!(first_seen.is_sorted(), "served out of turn: {:?}", first_seen);
        }
    }
}
