//! The engine that runs a real model.

mod gated;

use std::sync::Arc;

use super::block_pool::BlockPool;
use super::config::EngineConfig;
use super::gate;
use super::outbox::Outbox;
use super::projection::{LiveProbe, SharedProjections};
use super::request::{Event, EventSink, GenerationRequest, SeqId};
use super::scheduler::{Scheduler, Share};
use super::sequence::{Advance, Caching, Sequence};
use super::stats::SharedStats;
use super::{Engine, StepOutcome};
use crate::batch::PackedBatch;
use crate::error::{Error, Result};
use crate::hooks::{Hooks, ProjectionSample, SteerRows};
use crate::kv_cache::KvCache;
use crate::llama::Llama;
use crate::sampling::{Ask, StepOutput};
use crate::steering::{Registering, SlotLease, SteeringTables, SteeringVector};
use gated::GateRows;

/// A Llama with its cache, tables and scheduler.
pub struct LlamaEngine {
    llama: Arc<Llama>,
    cache: KvCache,
    tables: SteeringTables,
    scheduler: Scheduler,
    max_model_len: usize,
    next_id: u64,
    live_probe: LiveProbe,
    /// What the last step's sequences have to say, where it was not delivered yet.
    outbox: Outbox,
    stats: SharedStats,
}

impl std::fmt::Debug for LlamaEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LlamaEngine")
            .field("num_unfinished", &self.num_unfinished())
            .field("max_model_len", &self.max_model_len)
            .finish_non_exhaustive()
    }
}

impl LlamaEngine {
    /// Allocates cache and tables for a model. On the CPU the cache's memory is taken as it is used.
    ///
    /// # Errors
    /// [`Error::Request`] when a limit makes no sense, [`Error::Tensor`] when the device has no room.
    pub fn new(llama: Arc<Llama>, config: &EngineConfig) -> Result<Self> {
        config.validate()?;
        let num_blocks = u32::try_from(config.kv_cache_tokens / config.block_size)
            .map_err(|_| Error::Request("kv_cache_tokens is too large".to_owned()))?;
        let cache =
            KvCache::new(&llama, num_blocks as usize, config.block_size, config.kv_cache_dtype)?;
        let num_slots = config.num_steering_slots + 1; // slot 0 holds nothing
        Ok(Self {
            tables: SteeringTables::new(&llama, num_slots),
            scheduler: Scheduler::new(BlockPool::new(num_blocks, config.block_size), config),
            max_model_len: config.longest_sequence(llama.config()),
            live_probe: LiveProbe::new(
                config.projection_sample_interval,
                llama.config().num_hidden_layers,
            ),
            cache,
            llama,
            next_id: 0,
            outbox: Outbox::default(),
            stats: SharedStats::default(),
        })
    }

    /// Longest sequence it serves, prompt and answer, in tokens.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.max_model_len
    }

    fn check(&self, request: &GenerationRequest) -> Result<()> {
        let refuse = |reason: String| Err(Error::Request(reason));
        let vocab_size = self.llama.config().vocab_size;
        let prompt_tokens = request.prompt_token_ids.len();
        if prompt_tokens == 0 {
            return refuse("the prompt has no token".to_owned());
        }
        if request.max_new_tokens == 0 {
            return refuse("max_new_tokens is 0; expected at least 1".to_owned());
        }
        if prompt_tokens.saturating_add(request.max_new_tokens) > self.max_model_len {
            return refuse(format!(
                "{prompt_tokens} prompt tokens and {} new ones do not fit the context of {}",
                request.max_new_tokens, self.max_model_len
            ));
        }
        if let Some(id) = request.prompt_token_ids.iter().find(|&&id| id as usize >= vocab_size) {
            return refuse(format!("prompt token {id} is not below the vocabulary's {vocab_size}"));
        }
        request.sampling.validate(vocab_size)?;
        if let Some((plan, lease)) = &request.steering {
            self.tables.check_plan(plan, lease)?;
        }
        match &request.gate {
            Some(_) if request.steering.is_some() => {
                refuse("a plan and a gate; expected one of them, or none".to_owned())
            }
            Some(gate) => gate::check(&**gate, self.llama.config(), prompt_tokens),
            None => Ok(()),
        }
    }

    /// Packs the shares' rows; logits are asked of each sequence whose known tokens end in this step.
    fn pack(&self, shares: &[Share]) -> PackedBatch {
        let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
        for share in shares {
            let running = &self.scheduler.running()[share.running_idx];
            let (first, token_ids) = running.sequence.next_rows(share.num_rows);
            batch.token_ids.extend(token_ids);
            batch.positions.extend(first..first + share.num_rows);
            batch.cu_seqlens.push(batch.token_ids.len());
            batch.block_tables.push(running.block_table.blocks().to_vec());
            if yields_token(&running.sequence, *share) {
                batch.logit_rows.push(batch.token_ids.len() - 1);
            }
        }
        batch
    }

    /// What the shares' sequences ask of the batch's rows of logits.
    fn asks(&mut self, shares: &[Share]) -> Vec<Ask> {
        let mut asks = Vec::new();
        for share in shares {
            let sequence = self.scheduler.sequence_mut(*share);
            if yields_token(sequence, *share) {
                asks.push(sequence.ask());
            }
        }
        asks
    }

    /// Runs the batch with every row's plan, and reads the rows that gates are to see. What is in the outbox is delivered meanwhile.
    fn forward(&mut self, shares: &[Share], batch: &PackedBatch, asks: &[Ask]) -> Result<Computed> {
        let mut plans = Vec::with_capacity(batch.total_tokens());
        for share in shares {
            let sequence = &self.scheduler.running()[share.running_idx].sequence;
            let (first, _) = sequence.next_rows(share.num_rows);
            plans
                .extend((first..first + share.num_rows).map(|position| sequence.plan_at(position)));
        }
        let mut read = GateRows::of_step(self.scheduler.running(), shares, batch);
        let steer = plans.iter().any(Option::is_some).then(|| {
            let probe = self.live_probe.of_step(&plans);
            SteerRows::new(&self.tables, plans).probed_by(probe)
        });
        let capture = read.as_mut().map(GateRows::capture);
        let mut hooks = Hooks { steer, capture };
        let outbox = &mut self.outbox;
        let mut deliver = || outbox.deliver();
        let output = self.llama.step(batch, &mut self.cache, &mut hooks, asks, &mut deliver)?;
        let measured = hooks.steer.map(|steer| steer.measured().to_vec());
        Ok(Computed { output, measured, read })
    }

    /// Books what the step computed, hands each sequence its next token, and lets ended sequences go. `broken` are
    /// the live probe's samples in which steering did not happen: the sequences of their vectors end.
    fn distribute(
        &mut self,
        shares: &[Share],
        batch: &PackedBatch,
        computed: Computed,
        broken: &[ProjectionSample],
    ) {
        let Computed { output, measured, read } = computed;
        if let Some(read) = read {
            self.keep_for_gates(shares, read);
        }
        let mut answers = output.answers();
        let mut ended = match broken {
            [] => Vec::new(),
            broken => self.scheduler.give_up(broken, &mut self.outbox),
        };
        for (share, rows) in shares.iter().zip(batch.cu_seqlens.windows(2)) {
            let yields = yields_token(self.scheduler.sequence_mut(*share), *share);
            let answer = if yields { answers.next() } else { None };
            if ended.contains(&share.running_idx) {
                continue;
            }
            let measured = measured.as_ref().map(|measured| &measured[rows[0]..rows[1]]);
            self.scheduler.computed(*share, measured);
            if !yields {
                continue;
            }
            let gated = self.ask_gate(*share);
            let sequence = self.scheduler.sequence_mut(*share);
            let outcome = gated.unwrap_or_else(|| {
                let answer = answer.ok_or_else(|| "the step gave too few answers".to_owned());
                answer.and_then(|answer| sequence.advance(answer, &mut self.outbox))
            });
            match outcome {
                Ok(Advance::Continues) => {}
                Ok(Advance::Ended) => ended.push(share.running_idx),
                Err(reason) => {
                    sequence.fail(reason, &mut self.outbox);
                    ended.push(share.running_idx);
                }
            }
        }
        self.scheduler.end(ended);
    }

    /// Gives up every sequence of a step that failed.
    fn give_up(&mut self, shares: &[Share], reason: &str) {
        for share in shares {
            let sequence = self.scheduler.sequence_mut(*share);
            sequence.fail(reason.to_owned(), &mut self.outbox);
        }
        self.scheduler.end(shares.iter().map(|share| share.running_idx).collect());
    }

    /// One step, whose events come into the outbox.
    fn advance(&mut self) -> Result<StepOutcome> {
        self.scheduler.drop_closed();
        let shares = self.scheduler.schedule();
        if shares.is_empty() {
            return Ok(StepOutcome::Idle);
        }
        let batch = self.pack(&shares);
        let asks = self.asks(&shares);
        match self.forward(&shares, &batch, &asks) {
            Ok(computed) => {
                let broken = self.live_probe.book();
                self.distribute(&shares, &batch, computed, &broken);
                Ok(StepOutcome::Advanced)
            }
            Err(error) => {
                self.give_up(&shares, &format!("the forward pass failed: {error}"));
                Err(error)
            }
        }
    }
}

/// What a step computed.
struct Computed {
    /// An answer for each of the batch's rows of logits.
    output: StepOutput,
    /// Where rows were steered, what the hooks measured of each row.
    measured: Option<Vec<Option<f32>>>,
    /// What gates are to see.
    read: Option<GateRows>,
}

/// Whether a share reaches the last known token, whose row gives the next one.
fn yields_token(sequence: &Sequence, share: Share) -> bool {
    sequence.num_pending() == share.num_rows
}

impl Engine for LlamaEngine {
    fn submit(
        &mut self,
        request: GenerationRequest,
        mut sink: Box<dyn EventSink>,
    ) -> Result<SeqId> {
        if let Err(error) = self.check(&request) {
            if sink.try_send(Event::Failed(error.to_string())).is_err() {
                tracing::debug!("a refused request had no reader any more");
            }
            return Err(error);
        }
        let id = SeqId(self.next_id);
        self.next_id += 1;
        let steering_id =
            request.steering.as_ref().and_then(|(plan, _lease)| self.tables.steering_id(plan));
        let caching = Caching::new(self.cache.block_size(), steering_id);
        self.scheduler.push(Sequence::new(id, request, sink, caching));
        Ok(id)
    }

    fn cancel(&mut self, seq_id: SeqId) {
        self.outbox.deliver();
        self.scheduler.drop_id(seq_id);
    }

    fn register_vectors(&mut self, vectors: &[SteeringVector]) -> Result<SlotLease> {
        self.tables.register(vectors)
    }

    fn begin_registering(&mut self, vectors: Vec<SteeringVector>) -> Result<Registering> {
        self.tables.begin(vectors)
    }

    fn go_on_registering(&mut self, registering: &mut Registering) -> Result<bool> {
        self.tables.go_on(registering)
    }

    fn step(&mut self) -> Result<StepOutcome> {
        let outcome = self.step_ahead();
        self.outbox.deliver();
        self.scheduler.drop_closed();
        self.stats.write(&self.scheduler.stats());
        outcome
    }

    fn step_ahead(&mut self) -> Result<StepOutcome> {
        let outcome = self.advance();
        self.stats.write(&self.scheduler.stats());
        let is_followed = matches!(outcome, Ok(StepOutcome::Advanced)) && self.num_unfinished() > 0;
        if !is_followed {
            self.outbox.deliver();
        }
        outcome
    }

    fn num_unfinished(&self) -> usize {
        self.scheduler.num_unfinished()
    }

    fn stats(&self) -> SharedStats {
        self.stats.clone()
    }

    fn projections(&self) -> SharedProjections {
        self.live_probe.found()
    }
}

#[cfg(test)]
mod tests;
