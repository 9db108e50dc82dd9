//! An engine that answers by script, and can be held at a gate before each step.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};

use skeg_model::engine::{
    Engine, Event, EventSink, Finish, FinishReason, GateDecision, GenerationRequest,
    PromptActivations, SeqId, SharedStats, SteeringReport, StepOutcome, TokenLogprob,
};
use skeg_model::steering::{SlotLease, SteeringPlan, SteeringVector};
use skeg_model::{Error, Result};

use crate::harness::END_OF_TURN;

/// The measured norm that every steered answer reports.
pub(crate) const MAX_RELATIVE_NORM: f32 = 0.25;

/// What the engine was asked and did, for assertions.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Seed and plan of every sequence, in order.
    pub(crate) submitted: Vec<(u64, Option<SteeringPlan>)>,
    /// What gates said, in the order asked.
    pub(crate) gated: Vec<GateDecision>,
    /// Number of vectors in each registration.
    pub(crate) registered: Vec<usize>,
    /// The registration, counted from 0, from which on all are refused.
    pub(crate) refused_from: Option<usize>,
}

/// Test's side of the engine.
pub(crate) struct Control {
    pub(crate) journal: Arc<Mutex<Journal>>,
    /// One message lets one step happen; dropped, steps are free.
    pub(crate) gate: Option<SyncSender<()>>,
    /// A message for each sequence dropped because nobody read it.
    pub(crate) dropped: Receiver<()>,
}

/// What each sequence answers: this text, byte by byte, then the end-of-turn token; or a failure after the text.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) text: String,
    pub(crate) fail: Option<String>,
    pub(crate) num_slots: usize,
    /// What gates are shown of every prompt's last row.
    pub(crate) activations: Vec<f32>,
    /// What they are shown of answers: of the sequence with seed `s` the one at `s`, and after the last of them zeros.
    pub(crate) looks: Vec<Shown>,
}

/// What a gate is shown of an answer from so many tokens on; zeros before.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) from: usize,
    pub(crate) activations: [f32; 4],
}

impl Script {
    /// An engine whose thread dies at its first step with a sequence.
    pub(crate) fn panics() -> Self {
        Self {
            text: PANIC.to_owned(),
            fail: None,
            num_slots: 32,
            activations: Vec::new(),
            looks: Vec::new(),
        }
    }
}

/// The text at which the engine panics instead of saying it.
const PANIC: &str = "panic";

struct Running {
    sink: Box<dyn EventSink>,
    tokens: Vec<u32>,
    at: usize,
    request: GenerationRequest,
    /// Its gate has let its prompt pass.
    is_decided: bool,
    /// Tokens of its answer when its gate had it steered.
    looked_at: Option<usize>,
}

pub(crate) struct ScriptedEngine {
    script: Script,
    gate: Option<Receiver<()>>,
    dropped: SyncSender<()>,
    journal: Arc<Mutex<Journal>>,
    running: Vec<Running>,
    leases: Vec<SlotLease>,
    next_slot: u32,
}

impl ScriptedEngine {
    pub(crate) fn new(script: Script, gated: bool) -> (Self, Control) {
        let (gate, permits) = sync_channel(1024);
        let (dropped, drops) = sync_channel(64);
        let journal = Arc::new(Mutex::new(Journal::default()));
        let engine = Self {
            script,
            gate: gated.then_some(permits),
            dropped,
            journal: Arc::clone(&journal),
            running: Vec::new(),
            leases: Vec::new(),
            next_slot: 1,
        };
        (engine, Control { journal, gate: gated.then_some(gate), dropped: drops })
    }
}

impl Running {
    fn report(&self) -> SteeringReport {
        if self.request.steering.is_none() {
            return SteeringReport::default();
        }
        let prompt_tokens = self.request.prompt_token_ids.len();
        if let Some(from) = self.looked_at {
            // The row that was looked at yields one more token unsteered.
            let steered_completion_tokens = self.at.saturating_sub(from + 1);
            let is_steered = steered_completion_tokens > 0;
            return SteeringReport {
                steered_prompt_tokens: 0,
                steered_completion_tokens,
                max_relative_norm: is_steered.then_some(MAX_RELATIVE_NORM),
                started_at_token: is_steered.then_some(prompt_tokens + from),
            };
        }
        SteeringReport {
            steered_prompt_tokens: prompt_tokens,
            steered_completion_tokens: self.at,
            max_relative_norm: Some(MAX_RELATIVE_NORM),
            started_at_token: Some(0),
        }
    }

    fn finish(&self, reason: FinishReason) -> Event {
        let prompt_tokens = self.request.prompt_token_ids.len();
        let (completion_tokens, steering) = (self.at, self.report());
        Event::Finished(Finish { reason, prompt_tokens, completion_tokens, steering })
    }

    /// Asks the gate if there is one; false when it stops the sequence.
    fn pass_gate(&mut self, script: &Script, journal: &Mutex<Journal>) -> bool {
        let Some(gate) = self.request.gate.clone() else { return true };
        let every = gate.recheck_every().map_or(0, NonZeroUsize::get);
        if self.is_decided && !(self.at > 0 && self.at.is_multiple_of(every)) {
            return true;
        }
        // Locked before the verdict is out, so that whoever has the answer finds the entry.
        let mut journal = journal.lock().unwrap();
        let decision = if self.is_decided {
            let shown = script.looks.get(usize::try_from(self.request.sampling.seed).unwrap());
            let shown = shown.filter(|shown| shown.from <= self.at);
            gate.recheck(&shown.map_or([0.0; 4], |shown| shown.activations), self.at)
        } else {
            gate.decide(PromptActivations { last: &script.activations, mean: &[] })
        };
        journal.gated.push(decision.clone());
        drop(journal);
        match decision {
            GateDecision::Unsteered => {
                self.is_decided = true;
                true
            }
            GateDecision::Steer(plan, lease) => {
                self.looked_at = self.is_decided.then_some(self.at);
                self.request.steering = Some((plan, lease));
                self.request.gate = None;
                true
            }
            GateDecision::Stop => {
                let finish = self.finish(FinishReason::Gated);
                send_last(self.sink.as_mut(), finish);
                false
            }
        }
    }

    /// One token, and the end after it where it is due; false when the sequence is over.
    fn advance(&mut self, fail: Option<&String>) -> bool {
        let Some(&token_id) = self.tokens.get(self.at) else {
            let reason = fail.cloned().unwrap_or_default();
            send_last(self.sink.as_mut(), Event::Failed(reason));
            return false;
        };
        self.at += 1;
        let token = TokenLogprob { token_id, logprob: -0.5 };
        let num_top = self.request.sampling.num_top_logprobs;
        let top = vec![token; num_top];
        let steering = self.report();
        if self.sink.try_send(Event::Token { token, top, steering }).is_err() {
            return false;
        }
        let stops = self.request.stop_token_ids.contains(&token_id);
        let reason = if stops && !self.request.sampling.ignore_eos {
            FinishReason::Stop
        } else if self.at == self.request.max_new_tokens {
            FinishReason::Length
        } else {
            return true;
        };
        let finish = self.finish(reason);
        send_last(self.sink.as_mut(), finish);
        false
    }
}

/// The reader may be gone by then: that is no fault of the engine's.
fn send_last(sink: &mut dyn EventSink, event: Event) {
    if sink.try_send(event).is_err() {
        tracing::debug!("nobody reads the end of a sequence");
    }
}

impl Engine for ScriptedEngine {
    fn submit(&mut self, request: GenerationRequest, sink: Box<dyn EventSink>) -> Result<SeqId> {
        let plan = request.steering.as_ref().map(|(plan, _)| plan.clone());
        self.journal.lock().unwrap().submitted.push((request.sampling.seed, plan));
        let mut tokens: Vec<u32> = self.script.text.bytes().map(u32::from).collect();
        if self.script.fail.is_none() {
            tokens.push(END_OF_TURN);
        }
        let (is_decided, looked_at) = (false, None);
        self.running.push(Running { sink, tokens, at: 0, request, is_decided, looked_at });
        Ok(SeqId(0))
    }

    fn cancel(&mut self, _seq_id: SeqId) {}

    fn register_vectors(&mut self, vectors: &[SteeringVector]) -> Result<SlotLease> {
        self.leases.retain(|lease| !lease.is_last());
        let taken: usize = self.leases.iter().map(|lease| lease.slots().len()).sum();
        if taken + vectors.len() > self.script.num_slots {
            return Err(Error::Steering("no slot is free".to_owned()));
        }
        let mut journal = self.journal.lock().unwrap();
        if journal.refused_from.is_some_and(|from| journal.registered.len() >= from) {
            return Err(Error::Steering("refused as the test says".to_owned()));
        }
        journal.registered.push(vectors.len());
        drop(journal);
        let slots: Vec<u32> = vectors.iter().zip(self.next_slot..).map(|(_, slot)| slot).collect();
        self.next_slot += u32::try_from(vectors.len()).unwrap();
        let lease = SlotLease::new(slots);
        self.leases.push(lease.clone());
        Ok(lease)
    }

    fn step(&mut self) -> Result<StepOutcome> {
        if self.running.is_empty() {
            return Ok(StepOutcome::Idle);
        }
        let dropped = &self.dropped;
        self.running.retain(|running| {
            let closed = running.sink.is_closed();
            if closed {
                dropped.send(()).unwrap();
            }
            !closed
        });
        // At the gate commands are still taken: the thread comes back here until there is a permit.
        match self.gate.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => {
                std::thread::yield_now();
                return Ok(StepOutcome::Idle);
            }
            Some(Err(TryRecvError::Disconnected)) => self.gate = None,
            Some(Ok(())) | None => {}
        }
        assert_ne!(self.script.text, PANIC, "the engine dies as the script says");
        let fail = self.script.fail.clone();
        let Self { running, script, journal, .. } = self;
        running.retain_mut(|running| {
            // What fails before its first token was never shown to a gate.
            let fails_at_once = running.tokens.is_empty();
            (fails_at_once || running.pass_gate(script, journal)) && running.advance(fail.as_ref())
        });
        Ok(StepOutcome::Advanced)
    }

    fn num_unfinished(&self) -> usize {
        self.running.len()
    }

    /// It counts nothing.
    fn stats(&self) -> SharedStats {
        SharedStats::default()
    }
}
