//! A model on a device.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::arena::Places;
use super::cache::{DeviceCache, RankCache};
use super::hooks::HookInput;
use super::memory::number;
use super::ops::DeviceOps;
use super::pass::Pass;
use super::ranks::Ranks;
use super::recorded::{Recorded, StepKey};
use super::results::StepResults;
use super::shard::Shard;
use super::step::{OutsidePlaces, StepInput, StepShape};
use super::weights::DeviceWeights;
use crate::batch::{BatchLayout, PackedBatch};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::hooks::Hooks;
use crate::llama::WeightSource;
use crate::sampling::{Ask, StepOutput};
use crate::steering::SteeringTables;

/// Weights on one device, or split over several, and the devices.
pub(crate) struct DeviceModel {
    /// Held for the whole of a step: work of two steps must not mix.
    ranks: Mutex<Ranks>,
    /// What every rank's pass is over.
    rank_config: LlamaConfig,
    /// One a rank.
    weights: Vec<DeviceWeights>,
    /// Whether a row's bits must not depend on its company.
    batch_invariant: bool,
}

/// What is run in one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceStep<'a> {
    pub(crate) config: &'a LlamaConfig,
    pub(crate) batch: &'a PackedBatch,
    pub(crate) layout: &'a BatchLayout<'a>,
    /// One a row whose logits are wanted.
    pub(crate) asks: &'a [Ask],
    /// How many blocks, from the first; without all of them there are no logits.
    pub(crate) num_blocks: usize,
}

impl DeviceModel {
    /// Takes every tensor from `source`, each once.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the model does not divide into so many ranks, and as [`DeviceWeights::load`].
    pub(crate) fn load(
        config: &LlamaConfig,
        source: &mut dyn WeightSource,
        mut ranks: Ranks,
    ) -> Result<Self> {
        let rank_config = Shard::config(config, ranks.ops.len())?;
        let weights = DeviceWeights::load(config, source, &mut ranks.ops)?;
        let batch_invariant = ranks.ops.iter().all(|ops| ops.is_batch_invariant());
        Ok(Self { ranks: Mutex::new(ranks), rank_config, weights, batch_invariant })
    }

    /// The devices.
    pub(crate) fn ranks(&self) -> MutexGuard<'_, Ranks> {
        // A step that panicked left numbers behind, and nothing that another step reads.
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model as one rank sees it: with its heads, and its width of the MLP.
    pub(crate) fn rank_config(&self) -> &LlamaConfig {
        &self.rank_config
    }

    /// As [`DeviceOps::free_bytes`], of the rank that has the least.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device cannot be asked.
    pub(crate) fn free_bytes(&self) -> Result<Option<u64>> {
        let mut least = None;
        for ops in &mut self.ranks().ops {
            least = match (least, ops.free_bytes()?) {
                (Some(least), Some(free)) => Some(u64::min(least, free)),
                (least, free) => least.or(free),
            };
        }
        Ok(least)
    }

    /// As [`DeviceOps::is_batch_invariant`].
    pub(crate) fn is_batch_invariant(&self) -> bool {
        self.batch_invariant
    }

    /// One step, and what its rows answer. `meanwhile` is called once, on this thread, after everything was asked of the devices and
    /// before they are waited for; not by a step that failed before.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when an operation fails or the device has no room. Of several ranks, [`crate::Error::Device`] when
    /// one fails amid the others; every later step fails then.
    pub(crate) fn step(
        &self,
        step: &DeviceStep<'_>,
        cache: &mut DeviceCache,
        hooks: &mut Hooks<'_>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<StepOutput> {
        let DeviceStep { config, batch, layout, asks, num_blocks } = *step;
        let asked = HookInput::new(hooks, config, (batch.total_tokens(), num_blocks))?;
        let tables = hooks.steer.as_ref().map(crate::hooks::SteerRows::tables);
        let input = StepInput::new((batch, layout), asks, asked, !self.batch_invariant)?;
        let shape = input.shape();
        let mut ranks = self.ranks();
        ranks.check()?;
        let places = self.upload(&mut ranks, cache, (&input, &shape), tables)?;
        let is_whole = num_blocks == config.num_hidden_layers;
        let key = StepKey { rows: shape.rows, max_decode_items: shape.max_decode_items };
        let key = (shape.is_decode && is_whole).then_some(key);
        let mut jobs = self.jobs(cache, &places, shape, key);
        let mut results = StepResults::default();
        // All ranks have the same; the first one's are read.
        if let Some(job) = jobs.first_mut() {
            job.results = Some(&mut results);
        }
        let ask = |ops: &mut dyn DeviceOps, Job { pass, recorded, .. }: &mut Job<'_>| {
            let run = |ops: &mut dyn DeviceOps| pass.run(ops, num_blocks);
            match recorded {
                Some(recorded) => ops.run(recorded, &run),
                None => run(ops),
            }
        };
        ranks.together(jobs, ask, meanwhile, |ops, Job { pass, results, .. }| {
            match results {
                Some(results) => {
                    *results = StepResults::read(ops, &pass.places, step, input.hooks())?;
                }
                // Waits: what fails on a device fails in this step.
                None => ops.download_all(&mut [])?,
            }
            Ok(())
        })?;
        drop(ranks);
        Ok(results.hand_out(step, input.hooks(), hooks))
    }

    /// Makes room for a step on every rank and sends it there. No rank waits for another yet: one that fails leaves all as they were.
    fn upload(
        &self,
        ranks: &mut Ranks,
        cache: &mut DeviceCache,
        (input, shape): (&StepInput, &StepShape),
        tables: Option<&SteeringTables>,
    ) -> Result<Vec<Places>> {
        let mut all = Vec::with_capacity(ranks.ops.len());
        for (rank, (ops, cache)) in ranks.ops.iter_mut().zip(&mut cache.ranks).enumerate() {
            let places = cache.arena.reserve(&self.rank_config, shape, &mut **ops)?;
            let outside = OutsidePlaces {
                table: tables.and_then(|tables| tables.on_device(rank)).unwrap_or_default(),
                num_slots: number(tables.map_or(0, SteeringTables::num_slots))?,
                captured: places.captured,
                samples: places.samples,
                relative_norms: places.relative_norms,
            };
            ops.upload(places.step, &input.encode(shape.num_bytes, places.step, outside))?;
            all.push(places);
        }
        Ok(all)
    }

    /// What each rank has to do for a step, which is one of a key where it may be replayed.
    fn jobs<'a>(
        &'a self,
        cache: &'a mut DeviceCache,
        places: &[Places],
        shape: StepShape,
        key: Option<StepKey>,
    ) -> Vec<Job<'a>> {
        // One for all ranks, so that they forget their recordings together: a sum is replayed by all or by none.
        let generation = cache.ranks.iter().map(|rank| rank.arena.generation()).sum();
        let of_rank = |((weights, cache), &places): ((&'a _, &'a mut RankCache), &Places)| {
            let RankCache { pools, recordings, .. } = cache;
            let pass = Pass { config: &self.rank_config, weights, pools, places, shape };
            let recorded = key.map(|key| recordings.of(key, generation));
            Job { pass, recorded, results: None }
        };
        self.weights.iter().zip(&mut cache.ranks).zip(places).map(of_rank).collect()
    }
}

/// One rank's part of a step.
struct Job<'a> {
    pass: Pass<'a>,
    recorded: Option<&'a mut Recorded>,
    /// Where it puts what it reads, if it does.
    results: Option<&'a mut StepResults>,
}

impl fmt::Debug for DeviceModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceModel").field("weights", &self.weights).finish_non_exhaustive()
    }
}
