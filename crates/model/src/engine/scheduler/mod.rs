//! Which sequences run, and which rows of them the next step computes.
//!
//! A step takes one row of each decoding sequence, then prompt rows in order of arrival, up to the token
//! budget; then, with what is left, it admits waiting sequences first in, first out, without overtaking.
//! Blocks are taken as a sequence grows. When none is left for a sequence, the youngest running one is
//! preempted: it loses its blocks, waits in front of all others, and is computed again from its tokens.
//! So every running sequence is older than every waiting one, and the oldest advances in every step: it
//! can push out all others, and what cannot fit alone is refused before it comes here.
//!
//! A sequence starts with the blocks of the prefix cache that hold the first of its tokens, steered as it
//! wants them, and its own full blocks are entered there after each step. Its last known token is always
//! computed, since its row yields the next one and is read by its gate. A gate that reads the mean of the prompt's rows is
//! given blocks only with the sums of their rows.

use std::collections::VecDeque;

use super::block_pool::{BlockPool, Hit};
use super::config::EngineConfig;
use super::gate::{GateDecision, Question};
use super::outbox::Outbox;
use super::projection;
use super::request::SeqId;
use super::sequence::{Running, Sequence};
use super::stats::EngineStats;
use crate::hooks::ProjectionSample;

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
    enable_prefix_caching: bool,
    /// What counts up; the rest is filled in when it is asked for.
    counts: EngineStats,
}

impl Scheduler {
    pub(super) fn new(pool: BlockPool, config: &EngineConfig) -> Self {
        Self {
            waiting: VecDeque::new(),
            running: Vec::new(),
            pool,
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            enable_prefix_caching: config.enable_prefix_caching,
            counts: EngineStats::default(),
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
            num_idle_blocks: self.pool.num_idle(),
            prefix_cache_evictions: self.pool.evictions(),
            ..self.counts
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
        let preemptions_before = self.counts.preemptions;
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
        if self.counts.preemptions == preemptions_before {
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
        self.counts.preemptions += 1;
    }

    /// Starts waiting sequences in order of arrival, each with its first rows, while places, budget and
    /// blocks last. A block for each running sequence stays free, so that the next one that outgrows its
    /// blocks need not at once push out whoever was just let in.
    fn admit(&mut self, step: &mut NextStep) {
        while self.running.len() < self.max_num_seqs && step.budget > 0 {
            let Some(first) = self.waiting.front_mut() else { return };
            let hits =
                if self.enable_prefix_caching { find(&self.pool, first) } else { Vec::new() };
            let num_found = hits.len() * self.pool.block_size();
            let num_tokens = num_found + (first.num_pending() - num_found).min(step.budget);
            let num_new_blocks = self.pool.blocks_for(num_tokens) - hits.len();
            let watermark = self.running.len();
            let num_available = self.pool.num_available() - self.pool.num_idle_among(&hits);
            if num_available < num_new_blocks + watermark {
                return;
            }
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            if self.enable_prefix_caching && sequence.is_new() {
                self.counts.prefix_cache_query_tokens += sequence.prompt_len();
                self.counts.prefix_cache_hit_tokens += num_found;
            }
            sequence.found(&hits);
            self.running.push(Running { sequence, block_table: self.pool.share(&hits) });
            self.give_rows(self.running.len() - 1, step);
        }
    }

    /// Books what a step computed of a share: `measured` are its rows' figures, as
    /// [`Sequence::computed`] takes them.
    pub(super) fn computed(&mut self, share: Share, measured: Option<&[Option<f32>]>) {
        let Running { sequence, block_table } = &mut self.running[share.running_idx];
        sequence.computed(share.num_rows, measured);
        self.counts.computed_rows += share.num_rows;
        let num_full = sequence.num_computed() / self.pool.block_size();
        while self.enable_prefix_caching && block_table.num_entered() < num_full {
            let (key, figures) = sequence.block(block_table.num_entered());
            self.pool.enter(block_table, key, figures);
        }
    }

    /// Steering broke: gives up the running sequences that the vectors of these samples steer, whether or not the step
    /// computed any of their rows, and forgets the prefix cache, which may hold more such rows. Their places in
    /// `running`, for [`Self::end`].
    pub(super) fn give_up(
        &mut self,
        broken: &[ProjectionSample],
        outbox: &mut Outbox,
    ) -> Vec<usize> {
        self.pool.forget();
        let mut ended = Vec::new();
        for (idx, Running { sequence, .. }) in self.running.iter().enumerate() {
            if let Some(sample) = broken.iter().find(|sample| sequence.uses_vector_of(sample)) {
                sequence.fail(projection::failure(sample), outbox);
                ended.push(idx);
            }
        }
        ended
    }

    /// Computes a running sequence again, in its place, from the first row that it now wants steered: its gate gave it a plan.
    /// A block that was entered may be read by others, so where such a row lies in one the sequence gives all of its blocks back
    /// and takes at once what the prefix cache has of it as it is now: blocks before that row are its own again.
    pub(super) fn restart(&mut self, running_idx: usize) {
        let Running { sequence, block_table } = &mut self.running[running_idx];
        let num_computed = sequence.num_computed();
        let first = sequence.first_steered();
        if block_table.num_entered() * self.pool.block_size() <= first {
            sequence.rewind(first);
        } else {
            self.pool.give_back(std::mem::take(block_table));
            sequence.rewind(0);
            let hits = find(&self.pool, sequence);
            sequence.found(&hits);
            *block_table = self.pool.share(&hits);
        }
        self.counts.gate_recomputed_rows += num_computed - sequence.num_computed();
    }

    /// Counts what a gate said.
    pub(super) fn count_gate(&mut self, question: Question, decision: &GateDecision) {
        let counts = &mut self.counts;
        let count = match (question, decision) {
            (_, GateDecision::Steer(..)) => &mut counts.gate_steered,
            (_, GateDecision::Stop) => &mut counts.gate_stopped,
            (Question::Prompt, GateDecision::Unsteered) => &mut counts.gate_unsteered,
            (Question::Answer(_), GateDecision::Unsteered) => &mut counts.gate_rechecked,
        };
        *count += 1;
    }

    /// The sequence of a share.
    pub(super) fn sequence_mut(&mut self, share: Share) -> &mut Sequence {
        &mut self.running[share.running_idx].sequence
    }
}

/// The blocks that hold the first tokens of a sequence of which nothing is in the cache, and what its gate reads of them.
fn find(pool: &BlockPool, sequence: &mut Sequence) -> Vec<Hit> {
    let num_full = sequence.num_findable() / pool.block_size();
    (0..num_full)
        .map_while(|idx| pool.find(&sequence.block_key(idx), sequence.sum_wanted(idx).as_ref()))
        .collect()
}

#[cfg(test)]
mod tests;
