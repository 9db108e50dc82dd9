//! Which cache blocks are free, held, or kept for whoever asks the same again.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::block_key::BlockKey;
use super::row_sums::{BlockSum, SumTag};

/// Who has the blocks of the KV cache.
///
/// A block is free, held by one or more sequences, or idle: full, computed, held by nobody and kept under its
/// key until the place is needed. `free + held + idle = total` at all times. A full block is entered under
/// its key while its sequence runs; from then on nobody writes to it, and it may be shared.
///
/// A block is entered after its parent, shared only with all its ancestors, and evicted before them, so
/// what is found under a key can always be reached from the root.
#[derive(Debug)]
pub(super) struct BlockPool {
    blocks: Vec<Block>,
    /// Blocks that hold nothing, used last-in first-out.
    free: Vec<u32>,
    by_key: HashMap<BlockKey, u32>,
    /// Idle blocks in order of eviction: least recently held first, of one chain the deepest first.
    idle: BTreeSet<(u64, Reverse<usize>, u32)>,
    /// Counts the tables given back.
    clock: u64,
    evictions: usize,
    block_size: usize,
}

#[derive(Debug, Default)]
struct Block {
    num_holders: usize,
    entry: Option<Entry>,
}

/// What a full block holds.
#[derive(Debug)]
struct Entry {
    key: BlockKey,
    /// Blocks before it in its chain.
    depth: usize,
    max_relative_norm: Option<f32>,
    /// Sums of its rows, each of a tag of its own, the newest last.
    sums: Vec<BlockSum>,
    /// The clock when the last holder let go of it.
    last_held: u64,
}

/// Sums that are kept of a block: a probe's and another one's, as when a generation follows another or is compared with it.
const MAX_SUMS: usize = 2;

impl Entry {
    fn keep(&mut self, sum: BlockSum) {
        if self.sums.iter().any(|kept| kept.tag == sum.tag) {
            return;
        }
        if self.sums.len() == MAX_SUMS {
            self.sums.remove(0);
        }
        self.sums.push(sum);
    }
}

/// What was found out about a block's rows when they were computed.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct BlockFigures {
    /// What the hooks measured, the largest of them.
    pub(super) max_relative_norm: Option<f32>,
    /// The sum of its rows, if a gate reads their mean.
    pub(super) sum: Option<BlockSum>,
}

/// A block found under its key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hit {
    pub(super) block: u32,
    /// [`BlockFigures::max_relative_norm`].
    pub(super) max_relative_norm: Option<f32>,
    /// The sum that was asked for.
    pub(super) sum: Option<Arc<[f32]>>,
}

/// The blocks of one sequence in order of position; given back by [`BlockPool::give_back`].
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    blocks: Vec<u32>,
    /// How many of them, from the first, are entered under their keys.
    num_entered: usize,
}

impl BlockTable {
    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    pub(super) fn num_entered(&self) -> usize {
        self.num_entered
    }
}

impl BlockPool {
    pub(super) fn new(num_blocks: u32, block_size: usize) -> Self {
        Self {
            blocks: (0..num_blocks).map(|_| Block::default()).collect(),
            free: (0..num_blocks).rev().collect(),
            by_key: HashMap::new(),
            idle: BTreeSet::new(),
            clock: 0,
            evictions: 0,
            block_size,
        }
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks that a sequence could take: free ones, and idle ones that would be evicted for it.
    pub(super) fn num_available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    pub(super) fn num_idle(&self) -> usize {
        self.idle.len()
    }

    /// Idle blocks that were given up for a new use, since the start.
    pub(super) fn evictions(&self) -> usize {
        self.evictions
    }

    /// Blocks that `num_tokens` tokens need.
    pub(super) fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size)
    }

    /// The block under a key; where a tag is given, only if it has the sum of it.
    pub(super) fn find(&self, key: &BlockKey, tag: Option<&SumTag>) -> Option<Hit> {
        let block = *self.by_key.get(key)?;
        let entry = self.blocks[block as usize].entry.as_ref()?;
        let sum = match tag {
            None => None,
            Some(tag) => {
                let sum = entry.sums.iter().find(|sum| sum.tag == *tag)?;
                Some(Arc::clone(&sum.values))
            }
        };
        Some(Hit { block, max_relative_norm: entry.max_relative_norm, sum })
    }

    /// How many of these blocks nobody holds.
    pub(super) fn num_idle_among(&self, hits: &[Hit]) -> usize {
        hits.iter().filter(|hit| self.blocks[hit.block as usize].num_holders == 0).count()
    }

    /// A table that begins with a chain of found blocks, from the root.
    pub(super) fn share(&mut self, hits: &[Hit]) -> BlockTable {
        for hit in hits {
            self.hold(hit.block);
        }
        let blocks: Vec<u32> = hits.iter().map(|hit| hit.block).collect();
        BlockTable { num_entered: blocks.len(), blocks }
    }

    /// Takes blocks until `table` has a place for each of `num_tokens` tokens, or none is left; how many of
    /// the tokens have one.
    pub(super) fn grow(&mut self, table: &mut BlockTable, num_tokens: usize) -> usize {
        while table.blocks.len() < self.blocks_for(num_tokens) {
            let Some(block) = self.free.pop().or_else(|| self.evict()) else { break };
            self.blocks[block as usize].num_holders = 1;
            table.blocks.push(block);
        }
        num_tokens.min(table.blocks.len() * self.block_size)
    }

    /// Enters the table's first block that is not entered yet, which must be full and computed. Where
    /// another sequence was first, its block takes the place of this one, which is freed: they hold the same. The sum is kept
    /// either way.
    pub(super) fn enter(&mut self, table: &mut BlockTable, key: BlockKey, figures: BlockFigures) {
        let BlockFigures { max_relative_norm, sum } = figures;
        let depth = table.num_entered;
        let own = table.blocks[depth];
        let block = *self.by_key.entry(key).or_insert(own);
        if block == own {
            let entry = Entry { key, depth, max_relative_norm, sums: Vec::new(), last_held: 0 };
            self.blocks[own as usize].entry = Some(entry);
        } else {
            self.hold(block);
            self.release(own);
            table.blocks[depth] = block;
        }
        let entry = self.blocks[block as usize].entry.as_mut();
        if let (Some(entry), Some(sum)) = (entry, sum) {
            entry.keep(sum);
        }
        table.num_entered += 1;
    }

    /// Takes a table back; what was entered stays findable.
    pub(super) fn give_back(&mut self, table: BlockTable) {
        self.clock += 1;
        for block in table.blocks {
            self.release(block);
        }
    }

    /// Lets nothing that was entered be found again. Who holds a block keeps it; it is free when the last one gives it
    /// back.
    pub(super) fn forget(&mut self) {
        self.by_key.clear();
        self.free.extend(std::mem::take(&mut self.idle).into_iter().map(|(_, _, block)| block));
        for block in &mut self.blocks {
            block.entry = None;
        }
    }

    fn hold(&mut self, block: u32) {
        let held = &mut self.blocks[block as usize];
        held.num_holders += 1;
        if let Some(Entry { last_held, depth, .. }) = held.entry {
            self.idle.remove(&(last_held, Reverse(depth), block));
        }
    }

    fn release(&mut self, block: u32) {
        let released = &mut self.blocks[block as usize];
        debug_assert!(released.num_holders > 0, "block {block} was given back twice");
        released.num_holders -= 1;
        if released.num_holders > 0 {
            return;
        }
        match &mut released.entry {
            Some(entry) => {
                entry.last_held = self.clock;
                self.idle.insert((entry.last_held, Reverse(entry.depth), block));
            }
            None => self.free.push(block),
        }
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, _, block) = self.idle.pop_first()?;
        if let Some(entry) = self.blocks[block as usize].entry.take() {
            self.by_key.remove(&entry.key);
        }
        self.evictions += 1;
        Some(block)
    }
}

#[cfg(test)]
mod tests;
