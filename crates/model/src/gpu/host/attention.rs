//! Causal attention over the paged cache.

use std::ops::Range;

use super::memory::{Memory, bad};
use super::{Heads, dot};
use crate::error::Result;
use crate::gpu::args::{AttentionArgs, DECODE_CHUNK, PREFILL_ROWS, StepHeader};
use crate::gpu::memory::{Address, Element};

/// [`AttentionArgs`].
pub(super) fn attention(
    memory: &mut Memory,
    args: &AttentionArgs,
    cache: Element,
    z: Element,
) -> Result<()> {
    let step: StepHeader = memory.at(args.step, 0)?;
    let launch = Launch { step, args, heads: Heads::new(args.heads)?, cache, z };
    if step.num_decode_items > args.max_decode_items
        || step.num_prefill_items != args.num_prefill_items
    {
        return Err(bad(format!(
            "a step of {} decode and {} prefill items, launched with room for {} and with {}",
            step.num_decode_items,
            step.num_prefill_items,
            args.max_decode_items,
            args.num_prefill_items
        )));
    }
    for item in 0..step.num_decode_items as usize {
        launch.decode(memory, item)?;
    }
    for row in 0..args.rows as usize {
        launch.merge(memory, row)?;
    }
    for item in 0..step.num_prefill_items as usize {
        launch.prefill(memory, item)?;
    }
    Ok(())
}

struct Launch<'a> {
    step: StepHeader,
    args: &'a AttentionArgs,
    heads: Heads,
    cache: Element,
    z: Element,
}

impl Launch<'_> {
    /// Leaves the partial results of one chunk of a row.
    fn decode(&self, memory: &mut Memory, item: usize) -> Result<()> {
        let [row, chunk] = memory.at::<[u32; 2]>(self.step.decode_items, item)?;
        let row = Row::read(memory, self, row as usize)?;
        let first = chunk as usize * DECODE_CHUNK;
        let end = row.num_positions.min(first + DECODE_CHUNK);
        for head in 0..self.heads.num_heads {
            let partial = row.attend(memory, self, head, first..end)?;
            partial.write(memory, self, item, head)?;
        }
        Ok(())
    }

    /// Puts the partial results of a row together, in ascending order of chunks.
    fn merge(&self, memory: &mut Memory, row: usize) -> Result<()> {
        let [first, end] = [row, row + 1].map(|row| memory.at::<u32>(self.step.row_items, row));
        let items = first? as usize..end? as usize;
        if items.is_empty() {
            return Ok(());
        }
        self.check_chunks(memory, row, items.clone())?;
        for head in 0..self.heads.num_heads {
            let partials = items
                .clone()
                .map(|item| Partial::read(memory, self, item, head))
                .collect::<Result<Vec<Partial>>>()?;
            self.write(memory, row, head, &Partial::merge(&partials))?;
        }
        Ok(())
    }

    /// Whether a row's items are its chunks, each once, in ascending order.
    fn check_chunks(&self, memory: &Memory, row: usize, items: Range<usize>) -> Result<()> {
        let found: Vec<[u32; 2]> = memory.read(self.step.decode_items, items.start, items.len())?;
        let position: u32 = memory.at(self.step.positions, row)?;
        let chunks = 0..=position as usize / DECODE_CHUNK;
        let found = found.iter().map(|item| item.map(|value| value as usize));
        if !found.eq(chunks.map(|chunk| [row, chunk])) {
            return Err(bad(format!(
                "decode items {items:?} are not the chunks of row {row} at position {position} in ascending order"
            )));
        }
        Ok(())
    }

    /// Attention of some rows of one sequence.
    fn prefill(&self, memory: &mut Memory, item: usize) -> Result<()> {
        let [first, len] = memory.at::<[u32; 2]>(self.step.prefill_items, item)?;
        let (first, len) = (first as usize, len as usize);
        let seqs: Vec<u32> = memory.read(self.step.seqs, first, len)?;
        if len > PREFILL_ROWS || seqs.iter().any(|seq| *seq != seqs[0]) {
            return Err(bad(format!(
                "prefill item {item} of {len} rows of sequences {seqs:?}; expected at most {PREFILL_ROWS} of one"
            )));
        }
        for row_idx in first..first + len {
            let row = Row::read(memory, self, row_idx)?;
            for head in 0..self.heads.num_heads {
                let all = row.attend(memory, self, head, 0..row.num_positions)?;
                self.write(memory, row_idx, head, &all)?;
            }
        }
        Ok(())
    }

    /// Writes one head of a row's result.
    fn write(&self, memory: &mut Memory, row: usize, head: usize, all: &Partial) -> Result<()> {
        let values: Vec<f32> = all.weighted.iter().map(|value| value / all.sum).collect();
        let first = row * self.heads.q_width() + head * self.heads.head_dim;
        memory.write_floats(self.z, self.args.z, first, &values)
    }
}

/// What a row asks, and of whom.
struct Row {
    /// Its queries.
    q: Vec<f32>,
    /// The cache blocks of its sequence, in order of position.
    blocks: Vec<u32>,
    /// Its own and earlier positions.
    num_positions: usize,
}

impl Row {
    fn read(memory: &Memory, launch: &Launch<'_>, row: usize) -> Result<Self> {
        let (step, heads) = (&launch.step, launch.heads);
        let position: u32 = memory.at(step.positions, row)?;
        let seq: u32 = memory.at(step.seqs, row)?;
        let max_blocks = step.max_blocks as usize;
        let num_blocks = position as usize / heads.block_size + 1;
        if num_blocks > max_blocks {
            return Err(bad(format!(
                "row {row} at position {position} lies beyond tables of {max_blocks} blocks"
            )));
        }
        Ok(Self {
            q: memory.read(launch.args.q, row * launch.args.q_stride as usize, heads.q_width())?,
            blocks: memory.read(step.block_tables, seq as usize * max_blocks, num_blocks)?,
            num_positions: position as usize + 1,
        })
    }

    /// Attention of one query head over some positions.
    fn attend(
        &self,
        memory: &Memory,
        launch: &Launch<'_>,
        head: usize,
        positions: Range<usize>,
    ) -> Result<Partial> {
        let heads = launch.heads;
        let q = &self.q[head * heads.head_dim..][..heads.head_dim];
        let read = |pool: Address, position: usize| {
            let block = self.blocks[position / heads.block_size] as usize;
            let cache_row = block * heads.block_size + position % heads.block_size;
            let first = heads.in_pool(cache_row, heads.kv_head(head));
            memory.read_floats(launch.cache, pool, first, heads.head_dim)
        };
        let scale = 1.0 / (heads.head_dim as f32).sqrt();
        let scores = positions
            .clone()
            .map(|position| Ok(dot(q, &read(launch.args.k_pool, position)?) * scale))
            .collect::<Result<Vec<f32>>>()?;
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut partial = Partial { largest, sum: 0.0, weighted: vec![0.0; heads.head_dim] };
        for (position, score) in positions.zip(scores) {
            let weight = (score - largest).exp();
            partial.add(weight, 1.0, &read(launch.args.v_pool, position)?);
        }
        Ok(partial)
    }
}

/// Attention over some positions, not yet divided by the sum of their weights.
struct Partial {
    /// Largest score.
    largest: f32,
    /// Sum of `exp(score - largest)`.
    sum: f32,
    /// Sum of `exp(score - largest) * v`.
    weighted: Vec<f32>,
}

impl Partial {
    fn add(&mut self, weight: f32, sum: f32, values: &[f32]) {
        self.sum += weight * sum;
        for (all, value) in self.weighted.iter_mut().zip(values) {
            *all += weight * value;
        }
    }

    /// The order of sums is that of `partials`.
    fn merge(partials: &[Self]) -> Self {
        let largest =
            partials.iter().fold(f32::NEG_INFINITY, |largest, part| largest.max(part.largest));
        let head_dim = partials.first().map_or(0, |part| part.weighted.len());
        let mut all = Self { largest, sum: 0.0, weighted: vec![0.0; head_dim] };
        for part in partials {
            all.add((part.largest - largest).exp(), part.sum, &part.weighted);
        }
        all
    }

    /// The number in [`AttentionArgs::partials`] at which a head of an item begins.
    fn place(launch: &Launch<'_>, item: usize, head: usize) -> usize {
        (item * launch.heads.num_heads + head) * (launch.heads.head_dim + 2)
    }

    fn write(
        &self,
        memory: &mut Memory,
        launch: &Launch<'_>,
        item: usize,
        head: usize,
    ) -> Result<()> {
        let values = [&[self.largest, self.sum], self.weighted.as_slice()].concat();
        memory.write(launch.args.partials, Self::place(launch, item, head), &values)
    }

    fn read(memory: &Memory, launch: &Launch<'_>, item: usize, head: usize) -> Result<Self> {
        let first = Self::place(launch, item, head);
        let [largest, sum] = [first, first + 1].map(|at| memory.at(launch.args.partials, at));
        let weighted = memory.read(launch.args.partials, first + 2, launch.heads.head_dim)?;
        Ok(Self { largest: largest?, sum: sum?, weighted })
    }
}
