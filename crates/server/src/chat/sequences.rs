//! The running choices of one request: engine events in, text out.
//!
//! All choices share one bounded channel whose places are enough for every event there can be, so the engine
//! never waits for it. Dropping [`Sequences`] closes the channel, and the engine drops the sequences at its next step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use skeg_model::engine::{
    Event, EventSink, Finish, FinishReason, SinkClosed, SteeringReport, TokenLogprob,
};
use skeg_model::{Detokenizer, Tokenizer};
use tokio::sync::mpsc;

use super::meter::Meter;
use crate::errors::ApiError;
use crate::evidence::ChoiceKind;
use crate::gate::{MidAnswer, Noted};
use crate::metrics::FinishedReason;
use crate::resolve::Decision;
use crate::stop::{Released, StopJail};
use crate::wire::{TokenLogprobEntry, TopLogprob};

/// What the choices of a request have in common, and how many there are.
pub(super) struct Spec {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) stop: Vec<String>,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) max_new_tokens: usize,
    pub(super) logprobs: bool,
    /// Whether steering is due.
    pub(super) steered: bool,
    pub(super) kinds: Vec<ChoiceKind>,
    /// Where looks at each choice's answer leave what they found.
    pub(super) noted: Vec<Noted>,
}

/// An event of a choice, and when the engine gave it: a slow reader of the answer takes it later.
type Given = (usize, Instant, Event);

/// The running choices.
pub(super) struct Sequences {
    // Before `events`, so that they are counted when the engine can see that they were dropped.
    choices: Vec<ChoiceState>,
    events: mpsc::Receiver<Given>,
    /// Held until every sink is made; then the engine's drop of the last sink is seen.
    sender: Option<mpsc::Sender<Given>>,
    spec: Spec,
}

struct ChoiceState {
    detokenizer: Detokenizer,
    jail: StopJail,
    meter: Meter,
    taken: Taken,
    ended: bool,
    /// Tells the engine to drop this sequence while others of the request go on.
    cancelled: Arc<AtomicBool>,
}

/// What the engine did for one choice up to its last event.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    pub(super) completion_tokens: usize,
    pub(super) report: SteeringReport,
    /// The gate ended it.
    is_stopped: bool,
}

/// Something to tell the client about one choice.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) index: usize,
    /// Possibly empty.
    pub(super) text: String,
    pub(super) logprob: Option<TokenLogprobEntry>,
    /// Set on the choice's last update.
    pub(super) end: Option<End>,
}

/// How a choice ended.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) kind: ChoiceKind,
    pub(super) finish_reason: &'static str,
    pub(super) report: SteeringReport,
    /// What a look at its answer changed.
    pub(super) found: Option<Arc<MidAnswer>>,
}

/// The engine gave a sequence up.
#[derive(Debug)]
pub(super) struct Lost {
    reason: String,
    steered: bool,
}

impl Lost {
    /// 503 where steering was due: nothing due is answered unsteered, and the client may try again.
    pub(super) fn into_error(self) -> ApiError {
        if self.steered {
            ApiError::steering_unavailable(self.reason)
        } else {
            ApiError::internal(self.reason)
        }
    }
}

impl Sequences {
    /// The choices and a sink for each; `meter` makes one for each.
    pub(super) fn new(spec: Spec, meter: impl Fn() -> Meter) -> (Self, Vec<Box<dyn EventSink>>) {
        let num_choices = spec.kinds.len();
        // Bound: every event each choice can have.
        let (sender, events) = mpsc::channel(num_choices * (spec.max_new_tokens + 1));
        let choices: Vec<ChoiceState> = (0..num_choices)
            .map(|_| ChoiceState {
                detokenizer: spec.tokenizer.detokenizer(),
                jail: StopJail::new(spec.stop.clone()),
                meter: meter(),
                taken: Taken::default(),
                ended: false,
                cancelled: Arc::new(AtomicBool::new(false)),
            })
            .collect();
        let sinks = choices.iter().enumerate().map(|(index, choice)| {
            let sink = ChannelSink {
                index,
                events: sender.clone(),
                cancelled: Arc::clone(&choice.cancelled),
            };
            Box::new(sink) as Box<dyn EventSink>
        });
        let sinks = sinks.collect();
        (Self { choices, events, sender: Some(sender), spec }, sinks)
    }

    /// Every sink is with the engine: if it drops them, that is seen.
    pub(super) fn seal(&mut self) {
        self.sender = None;
        self.choices.iter_mut().for_each(|choice| choice.meter.submitted());
    }

    /// The sequences were judged, and the request is handed in anew: they count in no metric.
    pub(super) fn withdraw(mut self) {
        self.choices.iter_mut().for_each(|choice| choice.meter.withdrawn());
    }

    pub(super) fn num_choices(&self) -> usize {
        self.choices.len()
    }

    pub(super) fn with_logprobs(&self) -> bool {
        self.spec.logprobs
    }

    /// What was done for each choice so far.
    pub(super) fn taken(&self) -> impl Iterator<Item = Taken> + '_ {
        self.choices.iter().map(|choice| choice.taken)
    }

    /// What looks at a choice's answer changed, as far as the choice was taken: the engine may be ahead, and what a reader does not
    /// take did not happen to its answer.
    fn found(&self, index: usize) -> Option<Arc<MidAnswer>> {
        let found = self.spec.noted.get(index)?.get()?;
        let taken = &self.choices[index].taken;
        let has_happened = match found.resolution.decision {
            Decision::Steer => taken.report.started_at_token.is_some(),
            Decision::Refuse(_) => taken.is_stopped,
            Decision::Shadow | Decision::Unsteered => {
                taken.completion_tokens >= found.num_generated
            }
        };
        has_happened.then_some(found)
    }

    /// The strictest of what looks at the choices' answers changed so far.
    pub(super) fn strictest_found(&self) -> Option<Arc<MidAnswer>> {
        (0..self.num_choices()).filter_map(|index| self.found(index)).reduce(MidAnswer::stricter)
    }

    /// Tokens generated so far, all choices together.
    pub(super) fn completion_tokens(&self) -> usize {
        self.taken().map(|taken| taken.completion_tokens).sum()
    }

    /// The next update; `None` when every choice has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Update>, Lost> {
        while self.choices.iter().any(|choice| !choice.ended) {
            let Some((index, at, event)) = self.events.recv().await else {
                return Err(self.lost("the engine dropped the sequence without a word".to_owned()));
            };
            // A sequence that a stop string ended may have an event under way.
            if self.choices[index].ended {
                continue;
            }
            return self.apply(index, at, event).map(Some);
        }
        Ok(None)
    }

    fn apply(&mut self, index: usize, at: Instant, event: Event) -> Result<Update, Lost> {
        match event {
            Event::Token { token, top, steering } => {
                let choice = &mut self.choices[index];
                choice.meter.token(at);
                choice.taken.completion_tokens += 1;
                choice.taken.report = steering;
                let logprob = self.spec.logprobs.then(|| self.entry(token, &top));
                let (text, end) = self.take_token(index, at, token.token_id)?;
                Ok(Update { index, text, logprob, end })
            }
            Event::Finished(finish) => self.finish(index, at, &finish),
            Event::Failed(reason) => Err(self.lost(reason)),
        }
    }

    fn take_token(
        &mut self,
        index: usize,
        at: Instant,
        id: u32,
    ) -> Result<(String, Option<End>), Lost> {
        let choice = &mut self.choices[index];
        if self.spec.stop_token_ids.contains(&id) {
            return Ok((String::new(), None));
        }
        match choice.detokenizer.push(id).map(|text| choice.jail.push(&text)) {
            Ok(Released::Text(text)) => Ok((text, None)),
            Ok(Released::Stopped(text)) => {
                choice.ended = true;
                choice.meter.ended(FinishedReason::Stop, at);
                choice.cancelled.store(true, Ordering::Release);
                Ok((text, Some(self.end(index, FinishedReason::Stop))))
            }
            Err(error) => Err(self.lost(error.to_string())),
        }
    }

    fn finish(&mut self, index: usize, at: Instant, finish: &Finish) -> Result<Update, Lost> {
        let choice = &mut self.choices[index];
        choice.ended = true;
        choice.taken = Taken {
            completion_tokens: finish.completion_tokens,
            report: finish.steering,
            is_stopped: false,
        };
        let rest = match choice.detokenizer.finish() {
            Ok(rest) => rest,
            Err(error) => return Err(self.lost(error.to_string())),
        };
        let (text, reason) = match (choice.jail.push(&rest), finish.reason) {
            (Released::Stopped(text), _) => (text, FinishedReason::Stop),
            (Released::Text(text), FinishReason::Stop) => {
                (text + &choice.jail.finish(), FinishedReason::Stop)
            }
            (Released::Text(text), FinishReason::Length) => {
                (text + &choice.jail.finish(), FinishedReason::Length)
            }
            // What was held back stays back.
            (Released::Text(_), FinishReason::Gated) => {
                (String::new(), FinishedReason::ContentFilter)
            }
        };
        choice.taken.is_stopped = reason == FinishedReason::ContentFilter;
        choice.meter.ended(reason, at);
        Ok(Update { index, text, logprob: None, end: Some(self.end(index, reason)) })
    }

    /// How a choice ended that has ended.
    fn end(&self, index: usize, reason: FinishedReason) -> End {
        End {
            kind: self.spec.kinds[index],
            finish_reason: reason.as_str(),
            report: self.choices[index].taken.report,
            found: self.found(index),
        }
    }

    /// No choice goes on.
    fn lost(&mut self, reason: String) -> Lost {
        let now = Instant::now();
        for choice in &mut self.choices {
            choice.meter.ended(FinishedReason::Error, now);
        }
        Lost { reason, steered: self.spec.steered }
    }

    fn entry(&self, token: TokenLogprob, top: &[TokenLogprob]) -> TokenLogprobEntry {
        TokenLogprobEntry {
            token: self.token_logprob(token),
            top_logprobs: top.iter().map(|&token| self.token_logprob(token)).collect(),
        }
    }

    fn token_logprob(&self, token: TokenLogprob) -> TopLogprob {
        let bytes = self.spec.tokenizer.token_bytes(token.token_id).unwrap_or_default();
        TopLogprob {
            token: String::from_utf8_lossy(&bytes).into_owned(),
            logprob: token.logprob,
            bytes,
        }
    }
}

struct ChannelSink {
    index: usize,
    events: mpsc::Sender<Given>,
    cancelled: Arc<AtomicBool>,
}

impl EventSink for ChannelSink {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        if self.is_closed() {
            return Err(SinkClosed);
        }
        let given = (self.index, Instant::now(), event);
        self.events.try_send(given).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.events.is_closed()
    }
}
