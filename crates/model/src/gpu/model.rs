//! A model on a device.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cache::DeviceCache;
use super::hooks::HookInput;
use super::memory::number;
use super::ops::DeviceOps;
use super::pass::Pass;
use super::recorded::StepKey;
use super::results::StepResults;
use super::step::{OutsidePlaces, StepInput, StepShape};
use super::weights::DeviceWeights;
use crate::batch::{BatchLayout, PackedBatch};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::llama::WeightSource;
use crate::sampling::{Ask, StepOutput};
use crate::steering::SteeringTables;

/// Weights on a device, and the device.
pub(crate) struct DeviceModel {
    /// Held for the whole of a step: work of two steps must not mix.
    ops: Mutex<Box<dyn DeviceOps>>,
    weights: DeviceWeights,
}

/// What is run in one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceStep<'a> {
    pub(crate) config: &'a LlamaConfig,
    pub(crate) batch: &'a PackedBatch,
    pub(crate) layout: &'a BatchLayout,
    /// One a row whose logits are wanted.
    pub(crate) asks: &'a [Ask],
    /// How many blocks, from the first; without all of them there are no logits.
    pub(crate) num_blocks: usize,
}

impl DeviceModel {
    /// Takes every tensor from `source`, each once.
    ///
    /// # Errors
    /// As [`DeviceWeights::load`].
    pub(crate) fn load(
        config: &LlamaConfig,
        source: &mut dyn WeightSource,
        mut ops: Box<dyn DeviceOps>,
    ) -> Result<Self> {
        let weights = DeviceWeights::load(config, source, &mut *ops)?;
        Ok(Self { ops: Mutex::new(ops), weights })
    }

    /// The device.
    pub(crate) fn ops(&self) -> MutexGuard<'_, Box<dyn DeviceOps>> {
        // A step that panicked left numbers behind, and nothing that another step reads.
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step, and what its rows answer.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when an operation fails or the device has no room.
    pub(crate) fn step(
        &self,
        step: &DeviceStep<'_>,
        cache: &mut DeviceCache,
        hooks: &mut Hooks<'_>,
    ) -> Result<StepOutput> {
        let DeviceStep { config, batch, layout, asks, num_blocks } = *step;
        let asked = HookInput::new(hooks, config, (batch.total_tokens(), num_blocks))?;
        let tables = hooks.steer.as_ref().map(crate::hooks::SteerRows::tables);
        let input = StepInput::new((batch, layout), asks, &asked, true)?;
        let shape = input.shape();
        let mut ops = self.ops();
        let places = cache.arena.reserve(config, &shape, &mut **ops)?;
        let outside = OutsidePlaces {
            table: tables.and_then(SteeringTables::on_device).unwrap_or_default(),
            num_slots: number(tables.map_or(0, SteeringTables::num_slots))?,
            captured: places.captured,
            samples: places.samples,
            relative_norms: places.relative_norms,
        };
        ops.upload(places.step, &input.encode(places.step, outside))?;
        let pass = Pass { config, weights: &self.weights, pools: &cache.pools, places, shape };
        let run = |ops: &mut dyn DeviceOps| pass.run(ops, num_blocks);
        if shape.is_decode && num_blocks == config.num_hidden_layers {
            let StepShape { rows, max_decode_items, .. } = shape;
            let key = StepKey { rows, max_decode_items };
            ops.run(cache.recordings.of(key, cache.arena.generation()), &run)?;
        } else {
            run(&mut **ops)?;
        }
        let results = StepResults::read(&mut **ops, &places, step, &asked)?;
        drop(ops);
        Ok(results.hand_out(step, &asked, hooks))
    }
}

impl fmt::Debug for DeviceModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceModel").field("weights", &self.weights).finish_non_exhaustive()
    }
}
