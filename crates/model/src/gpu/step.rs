//! One step's input, from a packed batch and its hooks to the bytes that the device reads.

use bytemuck::Pod;

use super::arena;
use super::args::{AskHeader, DECODE_CHUNK, NONE, PREFILL_ROWS, PlanHeader, StepHeader};
use super::hooks::HookInput;
use super::memory::{Address, number};
use crate::batch::{BatchLayout, PackedBatch};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::sampling::Ask;

/// Numbers of rows at which steps of single tokens run; those between are filled up with padding rows, so that few CUDA graphs
/// serve all. Larger steps run as they are, and none is kept: there would be a graph for every number.
const DECODE_ROWS: [usize; 11] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128];

/// Arrays of an encoded step, at most.
const MAX_ARRAYS: usize = 32;

/// Where the asks of an encoded step lie, in bytes from its beginning.
pub(super) const ASKS_OFFSET: usize = size_of::<StepHeader>().next_multiple_of(Encoder::ALIGNMENT);

/// What a step takes of memory, and how its work divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepShape {
    /// Padding included.
    pub(super) rows: usize,
    /// Padding included.
    pub(super) logit_rows: usize,
    /// Whether every sequence has one row, all are asked, and there are few enough that the step may be kept to be replayed.
    pub(super) is_decode: bool,
    /// At least as many as there are; for steps of single tokens one of few numbers, so that few CUDA graphs serve all.
    pub(super) max_decode_items: usize,
    pub(super) num_prefill_items: usize,
    pub(super) captured_rows: usize,
    pub(super) has_samples: bool,
    /// Whether any row is asked for a token.
    pub(super) chooses: bool,
    /// Of the encoded step.
    pub(super) num_bytes: usize,
}

/// What bounds the steps of one engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepBounds {
    /// Rows of a step.
    pub(crate) rows: usize,
    /// Sequences of a step.
    pub(crate) seqs: usize,
    /// Longest sequence, in tokens.
    pub(crate) seq_len: usize,
    /// Tokens a cache block.
    pub(crate) block_size: usize,
    /// Whether a prompt's rows are attended row by row as well, as batch invariance wants it.
    pub(crate) attends_alone: bool,
}

impl StepBounds {
    /// Bytes of working memory that steps within these bounds take, but for what their hooks read, and for the ends of prompts: of
    /// fewer than [`PREFILL_ROWS`] rows each, which are attended row by row.
    pub(crate) fn num_bytes(&self, config: &LlamaConfig) -> usize {
        arena::num_bytes(config, &StepShape::largest(self))
    }
}

impl StepShape {
    /// At least what any step within bounds takes, with the exceptions of [`StepBounds::num_bytes`].
    fn largest(bounds: &StepBounds) -> Self {
        let logit_rows = decode_rows(bounds.seqs).unwrap_or(bounds.seqs);
        let rows = bounds.rows.max(logit_rows);
        let alone = if bounds.attends_alone { rows } else { bounds.seqs };
        let max_decode_items = (alone * bounds.seq_len.div_ceil(DECODE_CHUNK)).next_power_of_two();
        let num_prefill_items = rows.div_ceil(PREFILL_ROWS) + bounds.seqs;
        let block_tables = bounds.seqs * bounds.seq_len.div_ceil(bounds.block_size);
        // Of a row token, position, cache row, sequence, items, plan and capture.
        let numbers = 7 * rows + block_tables + 2 * (max_decode_items + num_prefill_items);
        let asks = logit_rows * (size_of::<AskHeader>() + size_of::<u32>());
        Self {
            rows,
            logit_rows,
            is_decode: false,
            max_decode_items,
            num_prefill_items,
            captured_rows: 0,
            has_samples: false,
            chooses: true,
            num_bytes: size_of::<StepHeader>()
                + numbers * size_of::<u32>()
                + asks
                + MAX_ARRAYS * Encoder::ALIGNMENT,
        }
    }
}

/// Addresses outside the step that its header names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OutsidePlaces {
    pub(super) table: Address,
    pub(super) num_slots: u32,
    pub(super) captured: Address,
    pub(super) samples: Address,
    pub(super) relative_norms: Address,
}

/// One step's input.
#[derive(Debug, Clone, Default)]
pub(super) struct StepInput {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    cache_rows: Vec<u32>,
    seqs: Vec<u32>,
    block_tables: Vec<u32>,
    max_blocks: usize,
    decode_items: Vec<[u32; 2]>,
    row_items: Vec<u32>,
    prefill_items: Vec<[u32; 2]>,
    logit_rows: Vec<u32>,
    /// One a row of `logit_rows`.
    asks: Vec<AskHeader>,
    hooks: HookInput,
    is_decode: bool,
}

impl StepInput {
    /// Lays out a checked batch. Sequences of at least [`PREFILL_ROWS`] rows are attended in prefill items if `prefills`, all others
    /// row by row.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when a number does not fit 32 bits.
    pub(super) fn new(
        (batch, layout): (&PackedBatch, &BatchLayout<'_>),
        asks: &[Ask],
        hooks: HookInput,
        prefills: bool,
    ) -> Result<Self> {
        let max_blocks = layout.seqs.iter().map(|seq| seq.block_table.len()).max().unwrap_or(0);
        let is_single = layout.seqs.iter().all(|seq| seq.rows.len() == 1)
            && batch.logit_rows.len() == batch.total_tokens();
        let padded_rows = decode_rows(batch.total_tokens()).filter(|_| is_single);
        let mut input = Self {
            token_ids: batch.token_ids.clone(),
            positions: numbers(batch.positions.iter().copied())?,
            cache_rows: numbers(layout.cache_rows.iter().copied())?,
            logit_rows: numbers(batch.logit_rows.iter().copied())?,
            asks: asks.iter().copied().map(AskHeader::from).collect(),
            max_blocks,
            block_tables: Vec::with_capacity(layout.seqs.len() * max_blocks),
            hooks,
            is_decode: padded_rows.is_some(),
            ..Self::default()
        };
        for (idx, seq) in layout.seqs.iter().enumerate() {
            input.seqs.extend(std::iter::repeat_n(number(idx)?, seq.rows.len()));
            let padding = max_blocks - seq.block_table.len();
            input.block_tables.extend(seq.block_table);
            input.block_tables.extend(std::iter::repeat_n(0, padding));
            if prefills && seq.rows.len() >= PREFILL_ROWS {
                input.prefill(seq.rows.clone())?;
            } else {
                for row in seq.rows.clone() {
                    input.decode(row, batch.positions[row])?;
                }
            }
        }
        input.row_items.push(number(input.decode_items.len())?);
        if let Some(rows) = padded_rows {
            input.pad_to(rows);
        }
        Ok(input)
    }

    /// The items of a row that is attended alone.
    fn decode(&mut self, row: usize, position: usize) -> Result<()> {
        self.row_items.push(number(self.decode_items.len())?);
        let row = number(row)?;
        let num_chunks = number((position + 1).div_ceil(DECODE_CHUNK))?;
        self.decode_items.extend((0..num_chunks).map(|chunk| [row, chunk]));
        Ok(())
    }

    /// The items of a sequence's rows that are attended together.
    fn prefill(&mut self, rows: std::ops::Range<usize>) -> Result<()> {
        let no_items = number(self.decode_items.len())?;
        self.row_items.extend(std::iter::repeat_n(no_items, rows.len()));
        for first in rows.clone().step_by(PREFILL_ROWS) {
            let num_rows = PREFILL_ROWS.min(rows.end - first);
            self.prefill_items.push([number(first)?, number(num_rows)?]);
        }
        Ok(())
    }

    /// Adds rows that write nothing.
    fn pad_to(&mut self, rows: usize) {
        let end = self.row_items.last().copied().unwrap_or(0);
        self.token_ids.resize(rows, 0);
        self.positions.resize(rows, 0);
        self.cache_rows.resize(rows, NONE);
        self.seqs.resize(rows, 0);
        self.row_items.resize(rows + 1, end);
        self.logit_rows.resize(rows, 0);
        self.asks.resize(rows, AskHeader::default());
        self.hooks.pad_to(rows);
    }

    /// What it takes.
    pub(super) fn shape(&self) -> StepShape {
        let mut counted = Encoder { writes: false, ..Encoder::new(Address::NONE) };
        self.encode_into(&mut counted, OutsidePlaces::default());
        StepShape {
            rows: self.token_ids.len(),
            logit_rows: self.logit_rows.len(),
            is_decode: self.is_decode,
            max_decode_items: match self.decode_items.len() {
                items if self.is_decode => items.next_power_of_two(),
                items => items,
            },
            num_prefill_items: self.prefill_items.len(),
            captured_rows: self.hooks.captured_rows,
            has_samples: self.hooks.has_samples(),
            chooses: self.asks.iter().any(|ask| ask.kind != AskHeader::default().kind),
            num_bytes: counted.len,
        }
    }

    /// What is hooked into the step.
    pub(super) fn hooks(&self) -> &HookInput {
        &self.hooks
    }

    /// The bytes that the device reads at `base`; `num_bytes` are those of [`Self::shape`].
    pub(super) fn encode(
        &self,
        num_bytes: usize,
        base: Address,
        outside: OutsidePlaces,
    ) -> Vec<u8> {
        let mut encoder = Encoder { bytes: Vec::with_capacity(num_bytes), ..Encoder::new(base) };
        self.encode_into(&mut encoder, outside);
        encoder.bytes
    }

    fn encode_into(&self, to: &mut Encoder, outside: OutsidePlaces) {
        let hooks = &self.hooks;
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        to.put(&[StepHeader::default()]);
        // First: its place is an argument, and so the same in every step.
        to.put(&self.asks);
        let header = StepHeader {
            token_ids: to.put(&self.token_ids),
            positions: to.put(&self.positions),
            cache_rows: to.put(&self.cache_rows),
            seqs: to.put(&self.seqs),
            block_tables: to.put(&self.block_tables),
            decode_items: to.put(&self.decode_items),
            row_items: to.put(&self.row_items),
            prefill_items: to.put(&self.prefill_items),
            logit_rows: to.put(&self.logit_rows),
            row_plans: to.put(&hooks.row_plans),
            plans: to.put::<PlanHeader>(&hooks.plans),
            plan_slots: to.put(&hooks.plan_slots),
            table: outside.table,
            capture_starts: to.put(&hooks.capture_starts),
            capture_rows: to.put(&hooks.capture_rows),
            captured: outside.captured,
            sample_rows: to.put(&hooks.sample_rows),
            samples: outside.samples,
            relative_norms: outside.relative_norms,
            max_blocks: count(self.max_blocks),
            num_decode_items: count(self.decode_items.len()),
            num_prefill_items: count(self.prefill_items.len()),
            num_layers: count(hooks.num_layers),
            num_slots: outside.num_slots,
            num_captures: count(hooks.num_captures),
            captures_after: u32::from(hooks.captures_after),
            padding: 0,
        };
        to.put_first(&header);
    }
}

/// The number of rows at which a step of `rows` single tokens runs, if it is filled up.
fn decode_rows(rows: usize) -> Option<usize> {
    DECODE_ROWS.into_iter().find(|&size| size >= rows)
}

/// Arrays one after the other.
struct Encoder {
    base: Address,
    /// Whether bytes are written; else they are counted alone.
    writes: bool,
    bytes: Vec<u8>,
    len: usize,
}

impl Encoder {
    /// Of every array's place: whole vectors can be read.
    const ALIGNMENT: usize = 16;

    fn new(base: Address) -> Self {
        Self { base, writes: true, bytes: Vec::new(), len: 0 }
    }

    /// Appends an array and says where it lies.
    fn put<T: Pod>(&mut self, values: &[T]) -> Address {
        let start = self.len.next_multiple_of(Self::ALIGNMENT);
        self.len = start + size_of_val(values);
        if self.writes {
            self.bytes.resize(start, 0);
            self.bytes.extend_from_slice(bytemuck::cast_slice(values));
        }
        self.base.add(start)
    }

    /// Writes over what was appended first.
    fn put_first<T: Pod>(&mut self, value: &T) {
        if self.writes {
            let bytes = bytemuck::bytes_of(value);
            self.bytes[..bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn numbers(values: impl Iterator<Item = usize>) -> Result<Vec<u32>> {
    values.map(number).collect()
}

#[cfg(test)]
mod tests;
