//! Sums of a prompt's rows, a block of the cache at a time, for gates that read their mean.
//!
//! A row that the prefix cache gives is not computed, so nobody can read it. What is read is therefore kept as a sum beside the
//! block that its rows fill, and whoever shares the block takes its sum. A sum is made row by row and sums are added block by
//! block, in f32 and in order of position: the mean is the same to the last bit whatever the chunks of the prefill, the company,
//! and how much was found. A sum takes 4 bytes for each layer that is read and dimension of the model, a block (3 layers of 576:
//! 7 kB, beside the 737 kB that 32 tokens of 30 layers with 3 heads of 64 take in f16).

use std::sync::Arc;

use crate::steering::Site;

/// What a sum is of: of equal tags and blocks the sums are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SumTag {
    pub(super) site: Site,
    /// Blocks of the model, ascending.
    pub(super) layers: Arc<[usize]>,
    /// First row of the cache block that counts; those before it do not.
    pub(super) first: usize,
}

/// The sum of a full block's rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BlockSum {
    pub(super) tag: SumTag,
    /// `[num_layers, hidden_size]`.
    pub(super) values: Arc<[f32]>,
}

/// Rows that a step read of one sequence, at least one.
pub(super) struct ReadRows {
    pub(super) num_rows: usize,
    /// `[num_rows, hidden_size]` of each layer that is read.
    pub(super) layers: Vec<Vec<f32>>,
}

impl ReadRows {
    /// One row, layer by layer: `[hidden_size]` each.
    fn row(&self, row: usize) -> impl Iterator<Item = &[f32]> {
        self.layers.iter().map(move |values| {
            let hidden_size = values.len() / self.num_rows;
            &values[row * hidden_size..(row + 1) * hidden_size]
        })
    }

    /// The last row, `[num_layers, hidden_size]`.
    pub(super) fn last(&self) -> Vec<f32> {
        self.row(self.num_rows - 1).flatten().copied().collect()
    }
}

/// The sums of one sequence, of all rows that are in the cache so far.
#[derive(Debug)]
pub(super) struct RowSums {
    site: Site,
    layers: Arc<[usize]>,
    /// First row of the sequence that counts.
    from: usize,
    block_size: usize,
    /// `[num_layers, hidden_size]` of each block as far as its rows are in the cache; `None` where no row counts.
    blocks: Vec<Option<Arc<[f32]>>>,
}

impl RowSums {
    pub(super) fn new((site, layers): (Site, &[usize]), from: usize, block_size: usize) -> Self {
        Self { site, layers: layers.into(), from, block_size, blocks: Vec::new() }
    }

    /// First row that counts.
    pub(super) fn from(&self) -> usize {
        self.from
    }

    /// Forgets all rows.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }

    /// What a sum of block `idx` is of; `None` where none of its rows counts.
    pub(super) fn tag(&self, idx: usize) -> Option<SumTag> {
        let first = self.from.saturating_sub(idx * self.block_size);
        let (site, layers) = (self.site, Arc::clone(&self.layers));
        (first < self.block_size).then_some(SumTag { site, layers, first })
    }

    /// Notes what was found of the next block.
    pub(super) fn found(&mut self, sum: Option<Arc<[f32]>>) {
        self.blocks.push(sum);
    }

    /// The sum of block `idx`, which is full; `None` where there is none.
    pub(super) fn of_block(&self, idx: usize) -> Option<BlockSum> {
        let values = Arc::clone(self.blocks.get(idx)?.as_ref()?);
        Some(BlockSum { tag: self.tag(idx)?, values })
    }

    /// Adds rows that were computed, the first of them at position `first`: all that count, in order.
    pub(super) fn add(&mut self, first: usize, read: &ReadRows) {
        let width = read.row(0).map(<[f32]>::len).sum();
        for row in 0..read.num_rows {
            let block_idx = (first + row) / self.block_size;
            if self.blocks.len() <= block_idx {
                self.blocks.resize(block_idx + 1, None);
            }
            let sum = self.blocks[block_idx].get_or_insert_with(|| vec![0.0; width].into());
            // Nobody else has the sum of a block that is not full yet.
            let sum = Arc::make_mut(sum);
            let per_layer = sum.chunks_exact_mut(width / read.layers.len());
            for (values, sum) in read.row(row).zip(per_layer) {
                add(sum, values);
            }
        }
    }

    /// The mean of the rows from the first that counts up to `end`: `[num_layers, hidden_size]`. `None` where one of them was not
    /// read.
    pub(super) fn mean(&self, end: usize) -> Option<Vec<f32>> {
        let blocks = self.from / self.block_size..end.div_ceil(self.block_size);
        let mut mean: Vec<f32> = Vec::new();
        for block in self.blocks.get(blocks)? {
            let sum = block.as_ref()?;
            mean.resize(sum.len(), 0.0);
            add(&mut mean, sum);
        }
        let num_rows = end.checked_sub(self.from)? as f32;
        mean.iter_mut().for_each(|value| *value /= num_rows);
        Some(mean)
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}
