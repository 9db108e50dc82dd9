//! Random steps: several sequences in shuffled blocks of the cache, steered, captured and sampled, and padding rows.

use bytemuck::Pod;

use super::support::{Draw, index, put};
use crate::gpu::args::{
    DECODE_CHUNK, HeadCounts, NONE, PREFILL_ROWS, PlanHeader, SAMPLE_ROWS, StepHeader,
};
use crate::gpu::memory::Address;
use crate::gpu::ops::DeviceOps;

/// One sequence's rows in a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeqShape {
    pub(super) first_position: usize,
    pub(super) len: usize,
    /// Whether its rows are decode items; else prefill items.
    pub(super) decodes: bool,
}

/// A single token.
pub(super) const fn decode(position: usize) -> SeqShape {
    SeqShape { first_position: position, len: 1, decodes: true }
}

/// Rows that are attended together.
pub(super) const fn prefill(first_position: usize, len: usize) -> SeqShape {
    SeqShape { first_position, len, decodes: false }
}

/// How rows divide into heads.
pub(super) const fn heads(
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    block_size: u32,
) -> HeadCounts {
    HeadCounts { num_heads, num_kv_heads, head_dim, block_size }
}

/// Sizes of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepShape<'a> {
    pub(super) seqs: &'a [SeqShape],
    pub(super) padding_rows: usize,
    pub(super) block_size: usize,
    pub(super) hidden: usize,
}

/// Token ids are below this.
pub(super) const VOCAB_SIZE: usize = 50;
pub(super) const NUM_LAYERS: usize = 3;
pub(super) const NUM_SLOTS: usize = 4;
const NUM_CAPTURES: usize = 2;
/// Rows that one capture has room for at each place.
pub(super) const CAPTURE_STRIDE: u32 = 40;

/// The rows that `captured` has.
pub(super) const CAPTURED_ROWS: usize = NUM_CAPTURES * 2 * NUM_LAYERS * CAPTURE_STRIDE as usize;

/// What [`StepHeader`] names, field for field; a test changes it before it is put on a device.
#[derive(Debug, Clone)]
pub(super) struct RandomStep {
    pub(super) hidden: usize,
    pub(super) token_ids: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) cache_rows: Vec<u32>,
    pub(super) seqs: Vec<u32>,
    pub(super) block_tables: Vec<Vec<u32>>,
    /// Blocks of the whole cache, more than are used.
    pub(super) num_blocks: usize,
    pub(super) decode_items: Vec<[u32; 2]>,
    pub(super) row_items: Vec<u32>,
    pub(super) prefill_items: Vec<[u32; 2]>,
    pub(super) logit_rows: Vec<u32>,
    pub(super) row_plans: Vec<u32>,
    pub(super) plans: Vec<PlanHeader>,
    /// `[plans][NUM_LAYERS]`.
    pub(super) plan_slots: Vec<u32>,
    /// `[2][NUM_LAYERS][NUM_SLOTS][hidden]`.
    pub(super) table: Vec<f32>,
    /// `[NUM_CAPTURES][2][NUM_LAYERS]`.
    pub(super) capture_starts: Vec<u32>,
    /// `[NUM_CAPTURES][rows]`.
    pub(super) capture_rows: Vec<u32>,
    pub(super) captures_after: bool,
    /// `[2][NUM_LAYERS]`.
    pub(super) sample_rows: Vec<u32>,
    /// `[rows]`: what `relative_norms` holds before; some are larger than any change.
    pub(super) relative_norms: Vec<f32>,
}

/// A step on a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepOnDevice {
    pub(super) header: Address,
    /// `f32[CAPTURED_ROWS][hidden]`, poisoned.
    pub(super) captured: Address,
    /// `f32[2][NUM_LAYERS][SAMPLE_ROWS][hidden]`, poisoned.
    pub(super) samples: Address,
    /// `f32[rows]`.
    pub(super) relative_norms: Address,
}

impl RandomStep {
    pub(super) fn new(draw: &mut Draw, shape: StepShape<'_>) -> Self {
        let num_rows = shape.seqs.iter().map(|seq| seq.len).sum::<usize>();
        let mut step = Self::steered(draw, shape.hidden, num_rows, shape.padding_rows);
        let blocks_of = |seq: &SeqShape| (seq.first_position + seq.len).div_ceil(shape.block_size);
        step.num_blocks = shape.seqs.iter().map(blocks_of).sum::<usize>() + 2;
        let mut free = draw.shuffled(step.num_blocks);
        for (seq_idx, seq) in shape.seqs.iter().enumerate() {
            let blocks = free.split_off(free.len() - blocks_of(seq));
            let first_row = step.positions.len();
            for position in seq.first_position..seq.first_position + seq.len {
                let block = blocks[position / shape.block_size] as usize;
                let row = block * shape.block_size + position % shape.block_size;
                step.cache_rows.push(index(row));
                step.positions.push(index(position));
                step.seqs.push(index(seq_idx));
                step.row_items.push(index(step.decode_items.len()));
                if seq.decodes {
                    let row = index(step.positions.len() - 1);
                    let chunks = 0..=index(position / DECODE_CHUNK);
                    step.decode_items.extend(chunks.map(|chunk| [row, chunk]));
                }
            }
            if !seq.decodes {
                let firsts = (first_row..first_row + seq.len).step_by(PREFILL_ROWS);
                step.prefill_items.extend(firsts.map(|first| {
                    [index(first), index(PREFILL_ROWS.min(first_row + seq.len - first))]
                }));
            }
            step.block_tables.push(blocks);
        }
        let all_rows = num_rows + shape.padding_rows;
        step.cache_rows.resize(all_rows, NONE);
        step.positions.resize(all_rows, 0);
        step.seqs.resize(all_rows, 0);
        step.row_items.resize(all_rows + 1, index(step.decode_items.len()));
        step
    }

    /// A step without sequences: what hooks and row operations read.
    fn steered(draw: &mut Draw, hidden: usize, num_rows: usize, padding_rows: usize) -> Self {
        let all_rows = num_rows + padding_rows;
        // One plan of each site and operator.
        let plans: Vec<PlanHeader> = (0..6)
            .map(|plan| PlanHeader {
                site: plan % 2,
                operator: plan / 2,
                strength: draw.floats(1)[0] + if plan % 3 == 0 { -1.5 } else { 1.5 },
                padding: 0,
            })
            .collect();
        let padded = |mut rows: Vec<u32>| {
            rows.resize(all_rows, NONE);
            rows
        };
        let maybe = |draw: &mut Draw, value: u32| if draw.below(4) == 0 { NONE } else { value };
        let row_plans = padded((0..num_rows).map(|_| draw.index(7)).collect::<Vec<u32>>())
            .into_iter()
            .map(|plan| if plan == 6 { NONE } else { plan })
            .collect();
        let plan_slots = (0..6 * NUM_LAYERS).map(|_| draw.index(NUM_SLOTS)).collect();
        let capture_starts = (0..index(NUM_CAPTURES * 2 * NUM_LAYERS))
            .map(|place| maybe(draw, place * CAPTURE_STRIDE))
            .collect();
        let capture_rows = (0..NUM_CAPTURES)
            .flat_map(|_| {
                let rows = draw.shuffled(num_rows);
                padded(rows.into_iter().map(|row| maybe(draw, row)).collect())
            })
            .collect();
        let mut step = Self {
            hidden,
            token_ids: (0..all_rows).map(|_| draw.index(VOCAB_SIZE)).collect(),
            positions: Vec::new(),
            cache_rows: Vec::new(),
            seqs: Vec::new(),
            block_tables: Vec::new(),
            num_blocks: 0,
            decode_items: Vec::new(),
            row_items: Vec::new(),
            prefill_items: Vec::new(),
            logit_rows: draw.shuffled(num_rows).into_iter().take(num_rows.div_ceil(2)).collect(),
            row_plans,
            plans,
            plan_slots,
            table: draw.floats(2 * NUM_LAYERS * NUM_SLOTS * hidden),
            capture_starts,
            capture_rows,
            captures_after: draw.below(2) == 0,
            sample_rows: vec![NONE; 2 * NUM_LAYERS],
            relative_norms: (0..all_rows).map(|row| [0.0, 1e3][row % 2]).collect(),
        };
        step.logit_rows.push(0);
        for (place, site) in [0, 1].into_iter().flat_map(|site| [site; NUM_LAYERS]).enumerate() {
            let steered: Vec<usize> = (0..num_rows)
                .filter(|row| step.slot(*row, site, place % NUM_LAYERS).is_some())
                .collect();
            if !steered.is_empty() {
                step.sample_rows[place] = index(steered[draw.below(steered.len())]);
            }
        }
        step
    }

    /// Rows of the packed batch, with padding.
    pub(super) fn num_rows(&self) -> usize {
        self.row_plans.len()
    }

    /// The plan and the slot by which a row is steered at a site of a layer.
    pub(super) fn slot(&self, row: usize, site: u32, layer: usize) -> Option<(PlanHeader, usize)> {
        let plan = self.row_plans[row] as usize;
        let header = self.plans.get(plan).filter(|plan| plan.site == site)?;
        let slot = self.plan_slots[plan * NUM_LAYERS + layer] as usize;
        (slot != 0).then_some((*header, slot))
    }

    /// The vectors of a site and layer, `[NUM_SLOTS][hidden]`.
    pub(super) fn vectors(&self, site: u32, layer: usize) -> &[f32] {
        let len = NUM_SLOTS * self.hidden;
        &self.table[(site as usize * NUM_LAYERS + layer) * len..][..len]
    }

    /// Puts the step on a device; what it leaves is poisoned.
    pub(super) fn put(&self, device: &mut dyn DeviceOps) -> StepOnDevice {
        let poison = |rows: usize| vec![f32::NAN; rows * self.hidden];
        let captured = put(device, &poison(CAPTURED_ROWS));
        let samples = put(device, &poison(2 * NUM_LAYERS * SAMPLE_ROWS));
        let relative_norms = put(device, &self.relative_norms);
        let table = put(device, &self.table);
        let elsewhere =
            StepHeader { captured, samples, relative_norms, table, ..StepHeader::default() };
        let num_bytes = self.blob(Address::NONE, elsewhere).len();
        let header = put(device, &vec![0xFF_u8; num_bytes]);
        device.upload(header, &self.blob(header, elsewhere)).unwrap();
        StepOnDevice { header, captured, samples, relative_norms }
    }

    /// The piece of memory that begins with the header, as it is at `base`.
    fn blob(&self, base: Address, elsewhere: StepHeader) -> Vec<u8> {
        let max_blocks = self.block_tables.iter().map(Vec::len).max().unwrap_or(0);
        let padded = |table: &Vec<u32>| {
            let mut table = table.clone();
            table.resize(max_blocks, NONE);
            table
        };
        let block_tables: Vec<u32> = self.block_tables.iter().flat_map(padded).collect();
        let mut blob = Blob { base, bytes: vec![0; size_of::<StepHeader>()] };
        let header = StepHeader {
            token_ids: blob.push(&self.token_ids),
            positions: blob.push(&self.positions),
            cache_rows: blob.push(&self.cache_rows),
            seqs: blob.push(&self.seqs),
            block_tables: blob.push(&block_tables),
            decode_items: blob.push(&self.decode_items),
            row_items: blob.push(&self.row_items),
            prefill_items: blob.push(&self.prefill_items),
            logit_rows: blob.push(&self.logit_rows),
            row_plans: blob.push(&self.row_plans),
            plans: blob.push(&self.plans),
            plan_slots: blob.push(&self.plan_slots),
            capture_starts: blob.push(&self.capture_starts),
            capture_rows: blob.push(&self.capture_rows),
            sample_rows: blob.push(&self.sample_rows),
            max_blocks: index(max_blocks),
            num_decode_items: index(self.decode_items.len()),
            num_prefill_items: index(self.prefill_items.len()),
            num_layers: index(NUM_LAYERS),
            num_slots: index(NUM_SLOTS),
            num_captures: index(NUM_CAPTURES),
            captures_after: u32::from(self.captures_after),
            padding: 0,
            ..elsewhere
        };
        blob.bytes[..size_of::<StepHeader>()].copy_from_slice(bytemuck::bytes_of(&header));
        blob.bytes
    }
}

/// Arrays one after the other, each at a multiple of 16.
struct Blob {
    base: Address,
    bytes: Vec<u8>,
}

impl Blob {
    fn push<T: Pod>(&mut self, values: &[T]) -> Address {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = self.base.add(self.bytes.len());
        self.bytes.extend_from_slice(bytemuck::cast_slice(values));
        address
    }
}
