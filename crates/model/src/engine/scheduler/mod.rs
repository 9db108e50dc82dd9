//! Which sequences run, and which rows of them the next step computes.
//!
//! A step takes one row of each decoding sequence, then prompt rows in order of arrival, up to the token
//! budget; then, with what is left, it admits waiting sequences first in, first out, without overtaking.
//! Blocks are taken as a sequence grows. When none is left for a sequence, the youngest running one is
//! preempted: it loses its blocks, waits in front of all others, and is computed again from its tokens.
//! So every running sequence is older than every waiting one, and the oldest advances in every step: it
//! can push out all others, and what cannot fit alone is refused before it comes here.

use std::collections::VecDeque;

use super::block_pool::{BlockPool, BlockTable};
use super::request::SeqId;
use super::sequence::{Running, Sequence};
use super::stats::EngineStats;

/// Rows of one running sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Index in `Scheduler::running`.
    pub(super) running_idx: usize,
    /// At least 1.
    pub(super) num_rows: usize,
}

/// A step being put together.
struct NextStep {
    shares: Vec<Share>,
    /// Rows that may still be given out.
    budget: usize,
}

/// Waiting and running sequences, and the blocks they hold.
pub(super) struct Scheduler {
    waiting: VecDeque<Sequence>,
    /// In order of arrival.
    running: Vec<Running>,
    pool: BlockPool,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    computed_rows: usize,
    preemptions: usize,
}

impl Scheduler {
    pub(super) fn new(pool: BlockPool, max_num_seqs: usize, max_num_batched_tokens: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            pool,
            max_num_seqs,
            max_num_batched_tokens,
            computed_rows: 0,
            preemptions: 0,
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

    /// How things stand, and what was counted.
    pub(super) fn stats(&self) -> EngineStats {
        EngineStats {
            num_waiting: self.waiting.len(),
            num_running: self.running.len(),
            num_blocks: self.pool.num_blocks(),
            num_held_blocks: self.pool.num_blocks() - self.pool.num_available(),
            computed_rows: self.computed_rows,
            preemptions: self.preemptions,
        }
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
        self.end(ended);
    }

    /// Takes ended sequences, by index, out of the running set and frees their blocks.
    pub(super) fn end(&mut self, mut ended: Vec<usize>) {
        ended.sort_unstable();
        for &idx in ended.iter().rev() {
            let running = self.running.remove(idx);
            self.pool.give_back(running.block_table);
        }
    }

    /// Shares out the rows of the next step; empty when there is nothing to do.
    pub(super) fn schedule(&mut self) -> Vec<Share> {
        let budget = self.max_num_batched_tokens;
        let mut step = NextStep { shares: Vec::with_capacity(self.max_num_seqs), budget };
        let preemptions_before = self.preemptions;
        for decoding in [true, false] {
            let mut idx = 0;
            while idx < self.running.len() && step.budget > 0 {
                if self.running[idx].sequence.is_decoding() == decoding {
                    self.give_rows(idx, &mut step);
                }
                idx += 1;
            }
        }
        // Whoever was just pushed out would take the last blocks again.
        if self.preemptions == preemptions_before {
            self.admit(&mut step);
        }
        step.shares
    }

    /// Gives a running sequence as many rows as it wants and has room for. Where not one has room, younger
    /// sequences give theirs up; the youngest itself sits the step out with the blocks it has.
    fn give_rows(&mut self, idx: usize, step: &mut NextStep) {
        loop {
            let Running { sequence, block_table } = &mut self.running[idx];
            let num_computed = sequence.num_computed();
            let wanted = num_computed + sequence.num_pending().min(step.budget);
            let num_rows = self.pool.grow(block_table, wanted) - num_computed;
            if num_rows > 0 {
                step.budget -= num_rows;
                step.shares.push(Share { running_idx: idx, num_rows });
                return;
            }
            if idx + 1 == self.running.len() {
                return;
            }
            self.preempt_youngest(step);
        }
    }

    fn preempt_youngest(&mut self, step: &mut NextStep) {
        let Some(Running { mut sequence, block_table }) = self.running.pop() else { return };
        let gone = self.running.len();
        step.shares.retain(|share| {
            let stays = share.running_idx != gone;
            if !stays {
                step.budget += share.num_rows;
            }
            stays
        });
        self.pool.give_back(block_table);
        sequence.preempt();
        self.waiting.push_front(sequence);
        self.preemptions += 1;
    }

    /// Starts waiting sequences in order of arrival, each with its first rows, while places, budget and
    /// blocks last. A block for each running sequence stays free, so that the next one that outgrows its
    /// blocks need not at once push out whoever was just let in.
    fn admit(&mut self, step: &mut NextStep) {
        while self.running.len() < self.max_num_seqs && step.budget > 0 {
            let Some(first) = self.waiting.front() else { return };
            let num_rows = first.num_pending().min(step.budget);
            let watermark = self.running.len();
            if self.pool.num_available() < self.pool.blocks_for(num_rows) + watermark {
                return;
            }
            let Some(sequence) = self.waiting.pop_front() else { return };
            self.running.push(Running { sequence, block_table: BlockTable::default() });
            self.give_rows(self.running.len() - 1, step);
        }
    }

    /// Books what a step computed of a share: `measured` are its rows' figures, as
    /// [`Sequence::computed`] takes them.
    pub(super) fn computed(&mut self, share: Share, measured: Option<&[Option<f32>]>) {
        self.running[share.running_idx].sequence.computed(share.num_rows, measured);
        self.computed_rows += share.num_rows;
    }

    /// The sequence of a share.
    pub(super) fn sequence_mut(&mut self, share: Share) -> &mut Sequence {
        &mut self.running[share.running_idx].sequence
    }
}

#[cfg(test)]
mod tests;
