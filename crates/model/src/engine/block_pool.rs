//! Which cache blocks are free, held, or kept for whoever asks the same again.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::block_key::BlockKey;

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
    /// The clock when the last holder let go of it.
    last_held: u64,
}

/// A block found under its key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hit {
    pub(super) block: u32,
    /// What the hooks measured when its rows were computed, the largest of them.
    pub(super) max_relative_norm: Option<f32>,
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

    /// The block under a key.
    pub(super) fn find(&self, key: &BlockKey) -> Option<Hit> {
        let block = *self.by_key.get(key)?;
        let entry = self.blocks[block as usize].entry.as_ref()?;
        Some(Hit { block, max_relative_norm: entry.max_relative_norm })
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
    /// another sequence was first, its block takes the place of this one, which is freed: they hold the same.
    pub(super) fn enter(
        &mut self,
        table: &mut BlockTable,
        key: BlockKey,
        max_relative_norm: Option<f32>,
    ) {
        let depth = table.num_entered;
        let own = table.blocks[depth];
        if let Some(Hit { block, .. }) = self.find(&key) {
            self.hold(block);
            self.release(own);
            table.blocks[depth] = block;
        } else {
            self.by_key.insert(key, own);
            let entry = Entry { key, depth, max_relative_norm, last_held: 0 };
            self.blocks[own as usize].entry = Some(entry);
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
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// The chain of keys of a sequence of these blocks of one token each.
    fn keys(token_ids: &[u32]) -> Vec<BlockKey> {
        let mut parent = BlockKey::ROOT;
        let chain = token_ids.iter().map(|&token_id| {
            parent = parent.child([(token_id, None)].into_iter());
            parent
        });
        chain.collect()
    }

    /// Runs a sequence of blocks of one token to its end: holds what is found, computes the rest.
    fn run(pool: &mut BlockPool, token_ids: &[u32]) -> usize {
        let (table, num_found) = start(pool, token_ids);
        pool.give_back(table);
        num_found
    }

    fn start(pool: &mut BlockPool, token_ids: &[u32]) -> (BlockTable, usize) {
        let keys = keys(token_ids);
        let hits: Vec<Hit> = keys.iter().map_while(|key| pool.find(key)).collect();
        let mut table = pool.share(&hits);
        assert_eq!(pool.grow(&mut table, token_ids.len()), token_ids.len());
        for key in &keys[hits.len()..] {
            pool.enter(&mut table, *key, None);
        }
        (table, hits.len())
    }

    fn num_found(pool: &BlockPool, token_ids: &[u32]) -> usize {
        keys(token_ids).iter().filter(|key| pool.find(key).is_some()).count()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_of_a_chain_its_end() {
        let mut pool = BlockPool::new(6, 1);
        run(&mut pool, &[1, 2, 3]);
        run(&mut pool, &[4, 5]);
        assert_eq!(run(&mut pool, &[1, 2]), 2); // its third block is now the least recent
        run(&mut pool, &[6, 7]); // one free block, one evicted
        assert_eq!((num_found(&pool, &[1, 2, 3]), num_found(&pool, &[4, 5])), (2, 2));
        run(&mut pool, &[8]);
        let found: Vec<bool> = keys(&[4, 5]).iter().map(|key| pool.find(key).is_some()).collect();
        assert_eq!(found, [true, false], "the deepest of the older chain");
        run(&mut pool, &[9]);
        assert_eq!((num_found(&pool, &[4, 5]), num_found(&pool, &[1, 2])), (0, 2));
        assert_eq!(pool.evictions(), 3);
    }

    #[test]
    fn a_block_somebody_holds_is_not_evicted() {
        let mut pool = BlockPool::new(4, 1);
        run(&mut pool, &[1, 2]);
        let (first, _) = start(&mut pool, &[1, 2]);
        let (second, shared) = start(&mut pool, &[1, 2]);
        assert_eq!((shared, pool.num_available()), (2, 2));
        pool.give_back(first);
        assert_eq!(pool.num_available(), 2, "the second still holds them");
        let mut table = BlockTable::default();
        assert_eq!(pool.grow(&mut table, 3), 2, "nothing but the free ones");
        pool.give_back(second);
        assert_eq!(pool.grow(&mut table, 3), 3);
    }

    #[test]
    fn of_two_that_compute_the_same_one_block_stays() {
        let mut pool = BlockPool::new(4, 1);
        let mut tables = [BlockTable::default(), BlockTable::default()];
        for table in &mut tables {
            pool.grow(table, 2);
        }
        assert_eq!(pool.num_available(), 0);
        for key in keys(&[1, 2]) {
            for table in &mut tables {
                pool.enter(table, key, None);
            }
        }
        assert_eq!(tables[0].blocks(), tables[1].blocks());
        assert_eq!(pool.num_available(), 2);
        let [first, second] = tables;
        pool.give_back(first);
        pool.give_back(second);
        assert_eq!((pool.num_available(), pool.num_idle()), (4, 2));
    }

    /// A sequence of blocks of few tokens, so that chains meet, and whether it stays.
    fn any_visits() -> impl Strategy<Value = Vec<(Vec<u32>, bool)>> {
        prop::collection::vec((prop::collection::vec(0_u32..3, 1..5), any::<bool>()), 1..30)
    }

    proptest! {
        #[test]
        fn what_is_found_can_be_reached_from_the_root_and_no_block_is_lost(visits in any_visits()) {
            let mut pool = BlockPool::new(8, 1);
            let mut staying = VecDeque::new();
            for (token_ids, stays) in &visits {
                while pool.num_available() < token_ids.len() {
                    pool.give_back(staying.pop_front().unwrap());
                }
                let (table, _) = start(&mut pool, token_ids);
                if *stays {
                    staying.push_back(table);
                } else {
                    pool.give_back(table);
                }
                let held: BTreeSet<u32> =
                    staying.iter().flat_map(|table| table.blocks()).copied().collect();
                prop_assert_eq!(held.len() + pool.num_available(), 8);
                for (token_ids, _) in &visits {
                    let found: Vec<bool> =
                        keys(token_ids).iter().map(|key| pool.find(key).is_some()).collect();
                    prop_assert!(found.is_sorted_by(|a, b| a >= b), "{:?}: {:?}", token_ids, found);
                }
            }
        }
    }

    #[test]
    fn what_was_forgotten_is_not_found_and_all_blocks_come_back() {
        let mut pool = BlockPool::new(6, 1);
        run(&mut pool, &[1, 2]);
        let (held, _) = start(&mut pool, &[3, 4]);
        pool.forget();
        assert_eq!((pool.num_available(), pool.num_idle()), (4, 0));
        assert_eq!(run(&mut pool, &[1, 2]), 0);
        assert_eq!(run(&mut pool, &[3, 4]), 0);
        assert_eq!(run(&mut pool, &[3, 4]), 2);
        pool.give_back(held);
        assert_eq!((pool.num_available(), pool.num_idle()), (6, 4));
    }
}
