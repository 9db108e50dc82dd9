//! Questions to the engine, a few at a time, so that requests keep their places.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use skeg_model::engine::{
    EngineHandle, Event, EventSink, GenerationRequest, SinkClosed, SubmitError, TokenLogprob,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{SlotLease, SteeringPlan};

/// Questions in the engine at once: a quarter of what runs in a batch by default.
const MAX_AT_ONCE: usize = 8;
/// Time until an engine that is full is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// A sequence to be generated.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) prompt: Vec<u32>,
    pub(super) sampling: SamplingParams,
    pub(super) max_tokens: usize,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) steering: Option<(SteeringPlan, SlotLease)>,
}

/// What was generated; without a stop token at its end.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) token_ids: Vec<u32>,
    logprobs: Vec<f64>,
}

impl Answered {
    /// Mean of the tokens' log-probabilities, in nats; 0 without tokens.
    pub(super) fn mean_logprob(&self) -> f64 {
        let count = u32::try_from(self.logprobs.len()).unwrap_or(u32::MAX).max(1);
        self.logprobs.iter().sum::<f64>() / f64::from(count)
    }
}

/// Asks all of them and waits for the answers, which have the order of the questions.
///
/// # Errors
/// In words: the engine refused or lost one, is stopped, or time is up.
pub(super) fn ask(
    engine: &EngineHandle,
    questions: Vec<Question>,
    deadline: Instant,
) -> Result<Vec<Answered>, String> {
    let mut waiting = VecDeque::new();
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        loop {
            if waiting.len() >= MAX_AT_ONCE
                && let Some(oldest) = waiting.pop_front()
            {
                answers.push(collect(&oldest, deadline)?);
            }
            match submit(engine, &question) {
                Ok(events) => {
                    waiting.push_back(events);
                    break;
                }
                Err(SubmitError::Overloaded { .. }) if Instant::now() < deadline => {
                    match waiting.pop_front() {
                        Some(oldest) => answers.push(collect(&oldest, deadline)?),
                        None => sleep(PAUSE),
                    }
                }
                Err(error) => return Err(format!("the canary could not ask: {error}")),
            }
        }
    }
    for events in waiting {
        answers.push(collect(&events, deadline)?);
    }
    Ok(answers)
}

fn submit(engine: &EngineHandle, question: &Question) -> Result<Receiver<Event>, SubmitError> {
    let (sender, events) = sync_channel(question.max_tokens + 1);
    let request = GenerationRequest {
        prompt_token_ids: question.prompt.clone(),
        sampling: question.sampling.clone(),
        max_new_tokens: question.max_tokens,
        stop_token_ids: question.stop_token_ids.clone(),
        steering: question.steering.clone(),
        gate: None,
    };
    engine.submit(request, Box::new(Sink(sender)))?;
    Ok(events)
}

fn collect(events: &Receiver<Event>, deadline: Instant) -> Result<Answered, String> {
    let mut answered = Answered { token_ids: Vec::new(), logprobs: Vec::new() };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Token { token: TokenLogprob { token_id, logprob }, .. }) => {
                answered.token_ids.push(token_id);
                answered.logprobs.push(f64::from(logprob));
            }
            Ok(Event::Finished(_)) => return Ok(answered),
            Ok(Event::Failed(reason)) => {
                return Err(format!("the canary's answer failed: {reason}"));
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(
                    "the canary's answers did not come in time; the server is too busy".to_owned()
                );
            }
            Err(RecvTimeoutError::Disconnected) => return Err("the engine has ended".to_owned()),
        }
    }
}

/// A channel with a place for each token and one for the end.
struct Sink(SyncSender<Event>);

impl EventSink for Sink {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        match self.0.try_send(event) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_) | TrySendError::Full(_)) => Err(SinkClosed),
        }
    }

    fn is_closed(&self) -> bool {
        false
    }
}
