//! The memory that a step works in. It grows to what the largest step needed and stays; while it does not grow, addresses stay.

use super::args::{
    ChosenToken, LargestLogit, SAMPLE_BINS, SAMPLE_CHUNK, SAMPLE_PARTS, SAMPLE_ROWS,
};
use super::memory::{Address, Buffer};
use super::ops::DeviceOps;
use super::step::StepShape;
use crate::config::LlamaConfig;
use crate::error::Result;

/// Memory that is taken anew when more is needed.
#[derive(Debug, Default)]
struct Room(Option<Buffer>);

impl Room {
    /// At least `num_bytes`; what lay there before is lost when it moves. `moved` is set then.
    fn reserve(
        &mut self,
        num_bytes: usize,
        ops: &mut dyn DeviceOps,
        moved: &mut bool,
    ) -> Result<Address> {
        if let Some(buffer) = &self.0
            && buffer.num_bytes() >= num_bytes
        {
            return Ok(buffer.address());
        }
        *moved = true;
        // The old one first: there may be no room for both.
        self.0 = None;
        let buffer = ops.allocate(room_bytes(num_bytes))?;
        let address = buffer.address();
        self.0 = Some(buffer);
        Ok(address)
    }
}

/// What is taken where so much is needed: seldom anew.
fn room_bytes(num_bytes: usize) -> usize {
    num_bytes.max(1).next_power_of_two()
}

/// Where everything of a step lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// [`super::args::StepHeader`] and what it names.
    pub(super) step: Address,
    /// `f32[rows][hidden]`: the residual stream.
    pub(super) x: Address,
    /// `f32[rows][hidden]`: what is added to it next.
    pub(super) h: Address,
    /// `[rows][hidden]`.
    pub(super) normed: Address,
    /// `f32[rows][q_width + 2 * kv_width]`, or one after the other.
    pub(super) qkv: Address,
    /// `[rows][q_width]`.
    pub(super) z: Address,
    pub(super) partials: Address,
    /// `u32[rows][num_heads]`, all zero between operations.
    pub(super) arrivals: Address,
    /// `f32[rows][2 * intermediate]`, or one after the other.
    pub(super) gate_up: Address,
    /// `[rows][intermediate]`.
    pub(super) activated: Address,
    /// `[logit_rows][hidden]`.
    pub(super) head_rows: Address,
    /// `f32[logit_rows][vocab_size]`.
    pub(super) logits: Address,
    /// [`super::args::LargestLogit`]`[logit_rows][SAMPLE_PARTS]`.
    pub(super) largest: Address,
    /// `f64[logit_rows][chunks]`.
    pub(super) sums: Address,
    /// `u32[logit_rows][SAMPLE_BINS]`.
    pub(super) counts: Address,
    /// [`super::args::ChosenToken`]`[logit_rows]`.
    pub(super) tokens: Address,
    pub(super) relative_norms: Address,
    pub(super) captured: Address,
    pub(super) samples: Address,
}

/// One step's memory.
#[derive(Debug, Default)]
pub(super) struct Arena {
    rooms: [Room; NUM_PLACES],
    /// Changes when an address does.
    generation: u64,
    /// Whether [`Places::arrivals`] must be cleared.
    is_unclear: bool,
}

const NUM_PLACES: usize = 19;
/// Which of them is [`Places::arrivals`].
const ARRIVALS: usize = 7;
/// Bytes of the widest single number.
const WIDEST: usize = 4;

impl Arena {
    /// Makes room for a step.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when the device has none.
    pub(super) fn reserve(
        &mut self,
        config: &LlamaConfig,
        shape: &StepShape,
        ops: &mut dyn DeviceOps,
    ) -> Result<Places> {
        let mut moved = false;
        let mut places = [Address::NONE; NUM_PLACES];
        let sizes = sizes(config, shape).into_iter().zip(&mut self.rooms);
        for (place, (num_bytes, room)) in places.iter_mut().zip(sizes) {
            *place = room.reserve(num_bytes, ops, &mut moved)?;
        }
        if moved {
            self.generation += 1;
            self.is_unclear = true;
        }
        if self.is_unclear
            && let Room(Some(arrivals)) = &self.rooms[ARRIVALS]
        {
            ops.clear(arrivals)?;
            self.is_unclear = false;
        }
        Ok(Places::of(places))
    }

    /// Changes when an address of [`Places`] does.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

/// Bytes that a step takes of a device whose arena made room for it at once.
pub(super) fn num_bytes(config: &LlamaConfig, shape: &StepShape) -> usize {
    sizes(config, shape).into_iter().map(room_bytes).sum()
}

/// Bytes of each place of a step, in the order of [`Places`].
fn sizes(config: &LlamaConfig, shape: &StepShape) -> [usize; NUM_PLACES] {
    let StepShape { rows, logit_rows, .. } = *shape;
    let hidden = config.hidden_size;
    let q_width = config.num_attention_heads * config.head_dim;
    let kv_width = config.num_key_value_heads * config.head_dim;
    let partial = config.num_attention_heads * (config.head_dim + 2);
    let samples = 2 * config.num_hidden_layers * SAMPLE_ROWS * hidden;
    [
        shape.num_bytes,
        rows * hidden * WIDEST,
        rows * hidden * WIDEST,
        rows * hidden * WIDEST,
        rows * (q_width + 2 * kv_width) * WIDEST,
        rows * q_width * WIDEST,
        shape.max_decode_items * partial * WIDEST,
        rows * config.num_attention_heads * size_of::<u32>(),
        rows * 2 * config.intermediate_size * WIDEST,
        rows * config.intermediate_size * WIDEST,
        logit_rows * hidden * WIDEST,
        logit_rows * config.vocab_size * WIDEST,
        logit_rows * SAMPLE_PARTS * size_of::<LargestLogit>(),
        logit_rows * config.vocab_size.div_ceil(SAMPLE_CHUNK) * size_of::<f64>(),
        logit_rows * SAMPLE_BINS * size_of::<u32>(),
        logit_rows * size_of::<ChosenToken>(),
        rows * WIDEST,
        shape.captured_rows * hidden * WIDEST,
        if shape.has_samples { samples * WIDEST } else { 0 },
    ]
}

impl Places {
    fn of(places: [Address; NUM_PLACES]) -> Self {
        let [
            step,
            x,
            h,
            normed,
            qkv,
            z,
            partials,
            arrivals,
            gate_up,
            activated,
            head_rows,
            logits,
            largest,
            sums,
            counts,
            tokens,
            relative_norms,
            captured,
            samples,
        ] = places;
        Self {
            step,
            x,
            h,
            normed,
            qkv,
            z,
            partials,
            arrivals,
            gate_up,
            activated,
            head_rows,
            logits,
            largest,
            sums,
            counts,
            tokens,
            relative_norms,
            captured,
            samples,
        }
    }
}
