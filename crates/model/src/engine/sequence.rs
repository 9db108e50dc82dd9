//! One request on its way through the engine.

use std::ops::Range;

use super::block_key::BlockKey;
use super::block_pool::{BlockFigures, BlockTable, Hit};
use super::gate::{Gate, GateDecision, GateState, Question};
use super::outbox::{Outbox, Outlet};
use super::request::{
    Event, EventSink, Finish, FinishReason, GenerationRequest, SeqId, SteeringReport,
};
use super::row_sums::{ReadRows, SumTag};
use crate::hooks::ProjectionSample;
use crate::sampling::{Answer, Ask, Sampler};
use crate::steering::{SlotLease, SteeringId, SteeringPlan};

/// A request, what was computed and generated of it, and where its events go.
pub(super) struct Sequence {
    pub(super) id: SeqId,
    request: GenerationRequest,
    outlet: Outlet,
    sampler: Sampler,
    generated: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    num_computed: usize,
    /// Tokens the report covers: more than are in the cache while a preempted sequence is computed again.
    num_reported: usize,
    report: SteeringReport,
    caching: Caching,
    /// `None` for a request that came with its steering, or was given it by its gate.
    gate: Option<GateState>,
    /// First token that the plan may steer: above 0 where steering begins in mid-answer.
    steered_from: usize,
}

/// What the prefix cache needs to know of a sequence.
pub(super) struct Caching {
    block_size: usize,
    /// What the request's plan does to the rows it covers.
    steering_id: Option<SteeringId>,
    /// Keys of the first blocks, as far as they were asked for.
    keys: Vec<BlockKey>,
    /// Largest figure of the hooks in each block, as far as it is in the cache.
    max_relative_norms: Vec<Option<f32>>,
}

impl Caching {
    pub(super) fn new(block_size: usize, steering_id: Option<SteeringId>) -> Self {
        Self { block_size, steering_id, keys: Vec::new(), max_relative_norms: Vec::new() }
    }
}

impl Sequence {
    pub(super) fn new(
        id: SeqId,
        request: GenerationRequest,
        sink: Box<dyn EventSink>,
        caching: Caching,
    ) -> Self {
        let sampler = Sampler::new(request.sampling.clone(), &request.prompt_token_ids);
        let gate = request.gate.clone().map(|gate| GateState::new(gate, caching.block_size));
        Self {
            id,
            request,
            outlet: Outlet::new(id, sink),
            sampler,
            generated: Vec::new(),
            num_computed: 0,
            num_reported: 0,
            report: SteeringReport::default(),
            caching,
            gate,
            steered_from: 0,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.outlet.is_closed()
    }

    pub(super) fn prompt_len(&self) -> usize {
        self.request.prompt_token_ids.len()
    }

    /// Tokens whose keys and values are in the cache.
    pub(super) fn num_computed(&self) -> usize {
        self.num_computed
    }

    /// Tokens that are known and not computed: the rest of the prompt, the last new token, or both again
    /// after a preemption.
    pub(super) fn num_pending(&self) -> usize {
        self.prompt_len() + self.generated.len() - self.num_computed
    }

    /// Whether its next step is one row that continues an answer.
    pub(super) fn is_decoding(&self) -> bool {
        !self.generated.is_empty() && self.num_pending() == 1
    }

    /// Its blocks were taken away: everything known is to be computed again. What was sampled, sent and
    /// reported stays.
    pub(super) fn preempt(&mut self) {
        self.rewind(0);
        if let Some(state) = &mut self.gate {
            state.restart();
        }
    }

    /// All rows from `first` on are to be computed again.
    pub(super) fn rewind(&mut self, first: usize) {
        self.num_computed = first;
        self.caching.max_relative_norms.truncate(first.div_ceil(self.caching.block_size));
    }

    /// Tokens at its beginning whose rows need not be computed if they are in the cache: all but the last known one, whose row
    /// yields the next and is what its gate reads.
    pub(super) fn num_findable(&self) -> usize {
        self.prompt_len() + self.generated.len() - 1
    }

    /// The sum without which block `idx` is of no use to it.
    pub(super) fn sum_wanted(&self, idx: usize) -> Option<SumTag> {
        self.gate.as_ref()?.sums.as_ref()?.tag(idx)
    }

    /// Whether a step has done anything for it yet.
    pub(super) fn is_new(&self) -> bool {
        self.num_reported == 0
    }

    /// The next `num_rows` tokens and the position of the first.
    pub(super) fn next_rows(&self, num_rows: usize) -> (usize, impl Iterator<Item = u32> + '_) {
        let tokens = self.request.prompt_token_ids.iter().chain(&self.generated).copied();
        (self.num_computed, tokens.skip(self.num_computed).take(num_rows))
    }

    /// The plan of the token at `position`, `None` where it is not steered.
    pub(super) fn plan_at(&self, position: usize) -> Option<&SteeringPlan> {
        let (plan, _lease) = self.request.steering.as_ref()?;
        let covers = plan.positions.covers(position, self.prompt_len());
        (covers && position >= self.steered_from).then_some(plan)
    }

    /// Which of the next `num_rows` rows are read for its gate, counted from the first of them, and the gate; `None` if none.
    pub(super) fn next_rows_read(&self, num_rows: usize) -> Option<(Range<usize>, &dyn Gate)> {
        let state = self.gate.as_ref()?;
        let first_read = match &state.sums {
            Some(sums) => sums.from().saturating_sub(self.num_computed),
            None => {
                state.question(self.generated.len())?;
                self.num_pending() - 1
            }
        };
        (first_read < num_rows).then_some((first_read..num_rows, &*state.gate))
    }

    /// Keeps what was read of the next `num_rows` rows, as [`Self::next_rows_read`] says, until its gate is asked.
    pub(super) fn keep_for_gate(&mut self, num_rows: usize, read: &ReadRows) {
        let (end, is_last) = (self.num_computed + num_rows, num_rows == self.num_pending());
        let Some(state) = &mut self.gate else { return };
        if is_last {
            state.last = read.last();
        }
        if let Some(sums) = &mut state.sums {
            sums.add(end - read.num_rows, read);
        }
    }

    /// Asks its gate if it is its turn, once the last known row is computed and what it reads was kept.
    pub(super) fn ask_gate(&mut self) -> Option<Result<(Question, GateDecision), String>> {
        let prompt_len = self.prompt_len();
        let state = self.gate.as_mut()?;
        let question = state.question(self.generated.len())?;
        Some(state.ask(question, prompt_len).map(|decision| (question, decision)))
    }

    /// The gate said that nothing is due, for now.
    pub(super) fn goes_on_unsteered(&mut self) {
        if let Some(state) = &mut self.gate {
            state.is_decided = true;
        }
    }

    /// The gate gave it a plan: for all rows that the plan covers where the prompt was asked about, from the next row on where
    /// the answer was. It is not asked again. After an answer to [`Question::Prompt`] the rows from the first that a plan which
    /// acts steers are to be computed again.
    pub(super) fn steer(
        &mut self,
        question: Question,
        steering: (SteeringPlan, SlotLease),
        steering_id: Option<SteeringId>,
    ) {
        self.gate = None;
        self.request.steering = Some(steering);
        self.caching.steering_id = steering_id;
        match question {
            Question::Prompt => {
                // Nothing was steered so far, so there is nothing in the report to keep.
                let first = self.first_steered();
                self.num_reported = first;
                self.caching.keys.truncate(first / self.caching.block_size);
            }
            // The row of the last generated token is computed.
            Question::Answer(num_generated) => {
                self.steered_from = self.prompt_len() + num_generated;
            }
        }
    }

    /// The first token that its plan covers; 0 without a plan.
    pub(super) fn first_steered(&self) -> usize {
        let of_prompt = (0..self.prompt_len()).find(|&position| self.plan_at(position).is_some());
        of_prompt.unwrap_or(0)
    }

    /// The gate ended it.
    pub(super) fn stop(&self, outbox: &mut Outbox) {
        self.finish(FinishReason::Gated, outbox);
    }

    /// Whether its plan uses the vector of a sample where the sample was taken.
    pub(super) fn uses_vector_of(&self, sample: &ProjectionSample) -> bool {
        self.request.steering.as_ref().is_some_and(|(plan, _lease)| {
            let slot = plan.slot_by_layer[sample.layer] as usize;
            plan.acts() && plan.site == sample.site && slot == sample.slot
        })
    }

    /// Notes what a step did to this sequence's rows: `measured[i]` is the hook's figure for the row at
    /// `num_computed + i`, and `None` for all on devices that do not measure.
    pub(super) fn computed(&mut self, num_rows: usize, measured: Option<&[Option<f32>]>) {
        for offset in 0..num_rows {
            let relative_norm = measured.and_then(|measured| measured[offset]);
            self.in_cache(relative_norm);
        }
    }

    /// Notes that the rows of these blocks, the sequence's first, are in the cache from before. They were
    /// steered then as this sequence would have them, so its report counts them, with what was measured.
    pub(super) fn found(&mut self, hits: &[Hit]) {
        for hit in hits {
            for _ in 0..self.caching.block_size {
                self.in_cache(hit.max_relative_norm);
            }
            if let Some(sums) = self.gate.as_mut().and_then(|state| state.sums.as_mut()) {
                sums.found(hit.sum.clone());
            }
        }
    }

    /// Notes that the next row is in the cache.
    fn in_cache(&mut self, relative_norm: Option<f32>) {
        let position = self.num_computed;
        let norms = &mut self.caching.max_relative_norms;
        norms.resize(position / self.caching.block_size + 1, None);
        if let Some(largest) = norms.last_mut() {
            *largest = larger(*largest, relative_norm);
        }
        self.report_row(position, relative_norm);
        self.num_computed += 1;
        self.num_reported = self.num_reported.max(self.num_computed);
    }

    /// The key of block `idx`, whose tokens must all be known.
    pub(super) fn block_key(&mut self, idx: usize) -> BlockKey {
        while self.caching.keys.len() <= idx {
            let first = self.caching.keys.len() * self.caching.block_size;
            let tokens = (first..first + self.caching.block_size).map(|position| {
                let steered = self.plan_at(position).and(self.caching.steering_id);
                (self.token_at(position), steered)
            });
            let parent = self.caching.keys.last().unwrap_or(&BlockKey::ROOT);
            let key = parent.child(tokens);
            self.caching.keys.push(key);
        }
        self.caching.keys[idx]
    }

    /// Key and figures of block `idx`, which must be full and in the cache.
    pub(super) fn block(&mut self, idx: usize) -> (BlockKey, BlockFigures) {
        let sums = self.gate.as_ref().and_then(|state| state.sums.as_ref());
        let sum = sums.and_then(|sums| sums.of_block(idx));
        let max_relative_norm = self.caching.max_relative_norms[idx];
        (self.block_key(idx), BlockFigures { max_relative_norm, sum })
    }

    fn token_at(&self, position: usize) -> u32 {
        let prompt = &self.request.prompt_token_ids;
        if position < prompt.len() {
            prompt[position]
        } else {
            self.generated[position - prompt.len()]
        }
    }

    /// Takes the row at `position` into the report, once.
    fn report_row(&mut self, position: usize, relative_norm: Option<f32>) {
        let steered = self.plan_at(position).is_some_and(SteeringPlan::acts);
        if !steered || position < self.num_reported {
            return;
        }
        let prompt_len = self.prompt_len();
        let report = &mut self.report;
        report.started_at_token.get_or_insert(position);
        if position < prompt_len {
            report.steered_prompt_tokens += 1;
        }
        // The row at position p yields the token at p + 1.
        if position + 1 >= prompt_len {
            report.steered_completion_tokens += 1;
        }
        report.max_relative_norm = larger(report.max_relative_norm, relative_norm);
    }

    /// What is asked of the row that yields its next token: the row itself where its gate is asked first, since the gate may
    /// have the token dropped, and no draw that is dropped may move its generator on.
    pub(super) fn ask(&mut self) -> Ask {
        let question = self.gate.as_ref().and_then(|state| state.question(self.generated.len()));
        if question.is_some() { Ask::Logits } else { self.sampler.ask() }
    }

    /// Takes the next token from what [`Self::ask`] got and reports it.
    ///
    /// # Errors
    /// A text for [`Event::Failed`] when the logits are not finite.
    pub(super) fn advance(
        &mut self,
        answer: Answer<'_>,
        outbox: &mut Outbox,
    ) -> Result<Advance, String> {
        let sampled = self.sampler.accept(answer, &self.request.stop_token_ids)?;
        let token_id = sampled.token.token_id;
        self.generated.push(token_id);
        let stops =
            !self.request.sampling.ignore_eos && self.request.stop_token_ids.contains(&token_id);
        let reason = if stops {
            Some(FinishReason::Stop)
        } else if self.generated.len() >= self.request.max_new_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        let (token, top) = (sampled.token, sampled.top);
        outbox.put(&self.outlet, Event::Token { token, top, steering: self.report });
        let Some(reason) = reason else { return Ok(Advance::Continues) };
        self.finish(reason, outbox);
        Ok(Advance::Ended)
    }

    /// Gives the sequence up.
    pub(super) fn fail(&self, reason: String, outbox: &mut Outbox) {
        outbox.put(&self.outlet, Event::Failed(reason));
    }

    fn finish(&self, reason: FinishReason, outbox: &mut Outbox) {
        let finish = Finish {
            reason,
            prompt_tokens: self.prompt_len(),
            completion_tokens: self.generated.len(),
            steering: self.report,
        };
        outbox.put(&self.outlet, Event::Finished(finish));
    }
}

/// The larger of two figures, of which either may not have been measured.
fn larger(one: Option<f32>, other: Option<f32>) -> Option<f32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

/// Whether a sequence needs another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advance {
    Continues,
    Ended,
}

/// A sequence with its place in the cache.
pub(super) struct Running {
    pub(super) sequence: Sequence,
    pub(super) block_table: BlockTable,
}
