//! Which cache blocks are free.

/// The free blocks of the KV cache. Blocks are taken whole for a sequence and given back whole, so
/// `free + taken = total` at all times.
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

    /// Blocks that `num_tokens` tokens need.
    pub(super) fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size)
    }

    /// Takes room for `num_tokens` tokens, or nothing where there is not enough.
    pub(super) fn take(&mut self, num_tokens: usize) -> Option<BlockTable> {
        let rest = self.free.len().checked_sub(self.blocks_for(num_tokens))?;
        Some(BlockTable { blocks: self.free.split_off(rest) })
    }

    pub(super) fn give_back(&mut self, table: BlockTable) {
        self.free.extend(table.blocks);
        debug_assert!(self.free.len() <= self.num_blocks, "a block was given back twice");
    }

    #[cfg(test)]
    pub(super) fn num_free(&self) -> usize {
        self.free.len()
    }
}
