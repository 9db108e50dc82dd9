//! Which cache blocks are free.

/// The free blocks of the KV cache. A sequence takes them one by one as it grows and gives all of them
/// back at once, so `free + held = total` at all times.
#[derive(Debug)]
pub(super) struct BlockPool {
    /// Free blocks, used last-in first-out.
    free: Vec<u32>,
    num_blocks: usize,
    block_size: usize,
}

/// The blocks of one sequence in order of position; given back by [`BlockPool::give_back`].
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    blocks: Vec<u32>,
}

impl BlockTable {
    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}

impl BlockPool {
    pub(super) fn new(num_blocks: u32, block_size: usize) -> Self {
        let free: Vec<u32> = (0..num_blocks).rev().collect();
        Self { num_blocks: free.len(), free, block_size }
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Blocks that a sequence could take.
    pub(super) fn num_available(&self) -> usize {
        self.free.len()
    }

    /// Blocks that `num_tokens` tokens need.
    pub(super) fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size)
    }

    /// Takes blocks until `table` has a place for each of `num_tokens` tokens, or none is left; how many of
    /// the tokens have one.
    pub(super) fn grow(&mut self, table: &mut BlockTable, num_tokens: usize) -> usize {
        while table.blocks.len() < self.blocks_for(num_tokens) {
            let Some(block) = self.free.pop() else { break };
            table.blocks.push(block);
        }
        num_tokens.min(table.blocks.len() * self.block_size)
    }

    pub(super) fn give_back(&mut self, table: BlockTable) {
        self.free.extend(table.blocks);
        debug_assert!(self.free.len() <= self.num_blocks, "a block was given back twice");
    }
}
