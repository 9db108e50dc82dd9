//! What the engine's tests share: readers of events, requests, vectors and the sequence run alone.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Weak};

use skeg_model::engine::{
    Engine, Event, EventSink, Finish, GenerationRequest, SeqId, SinkClosed, StepOutcome,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{
    LayerVector, Operator, Positions, Site, SlotLease, SteeringPlan, SteeringVector,
};

/// The reading end of one sequence's events; dropping it is what a client does that hangs up.
pub(crate) struct Reader {
    events: Receiver<Event>,
    _open: Arc<()>,
}

struct ChannelSink {
    events: SyncSender<Event>,
    open: Weak<()>,
}

impl EventSink for ChannelSink {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.events.try_send(event).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        self.open.strong_count() == 0
    }
}

/// A sink with the places the engine is promised, `max_new_tokens + 1`, and its reader.
pub(crate) fn sink(max_new_tokens: usize) -> (Box<dyn EventSink>, Reader) {
    let (sender, events) = sync_channel(max_new_tokens + 1);
    let open = Arc::new(());
    let sink = ChannelSink { events: sender, open: Arc::downgrade(&open) };
    (Box::new(sink), Reader { events, _open: open })
}

impl Reader {
    /// The next event, waiting for it; `None` when the engine dropped the sink.
    pub(crate) fn wait(&self) -> Option<Event> {
        self.events.recv().ok()
    }

    /// The events there are, without waiting.
    pub(crate) fn read(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Whether the engine has let go of the sink and everything was read.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.events.try_recv(), Err(TryRecvError::Disconnected))
    }
}

/// A whole answer, numbers as bits, so that equal means the same.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// (id, bits of the log-probability).
    pub(crate) tokens: Vec<(u32, u32)>,
    /// The most likely tokens beside each.
    pub(crate) top: Vec<Vec<(u32, u32)>>,
    pub(crate) finish: Finish,
}

impl Answer {
    pub(crate) fn token_ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|(id, _)| *id).collect()
    }
}

/// Reads an answer that must be complete.
pub(crate) fn answer(reader: &Reader) -> Answer {
    answer_from(reader.read())
}

/// An answer from all its events: tokens, one end, nothing after.
pub(crate) fn answer_from(events: Vec<Event>) -> Answer {
    let (mut tokens, mut top, mut finish) = (Vec::new(), Vec::new(), None);
    let mut last_report = None;
    for event in events {
        assert_eq!(finish, None, "an event after the end: {event:?}");
        match event {
            Event::Token { token, top: most_likely, steering } => {
                last_report = Some(steering);
                tokens.push((token.token_id, token.logprob.to_bits()));
                top.push(most_likely.iter().map(|t| (t.token_id, t.logprob.to_bits())).collect());
            }
            Event::Finished(end) => finish = Some(end),
            Event::Failed(reason) => panic!("the sequence failed: {reason}"),
        }
    }
    let finish = finish.expect("an answer that has ended");
    assert_eq!(finish.completion_tokens, tokens.len());
    assert_eq!(last_report, Some(finish.steering), "the last token's report is the whole answer's");
    Answer { tokens, top, finish }
}

/// Submits with a sink of the right size.
pub(crate) fn submit(engine: &mut dyn Engine, request: GenerationRequest) -> (SeqId, Reader) {
    let (sink, reader) = sink(request.max_new_tokens);
    (engine.submit(request, sink).unwrap(), reader)
}

/// Steps until nothing is left; the number of forward passes.
pub(crate) fn run_to_end(engine: &mut dyn Engine) -> usize {
    let mut num_steps = 0;
    while engine.step().unwrap() == StepOutcome::Advanced {
        num_steps += 1;
        assert!(num_steps < 10_000, "the engine does not come to an end");
    }
    assert_eq!(engine.num_unfinished(), 0, "idle with sequences left");
    num_steps
}

/// The answer of one request in an engine that has nothing else to do.
pub(crate) fn alone(engine: &mut dyn Engine, request: GenerationRequest) -> Answer {
    assert_eq!(engine.num_unfinished(), 0);
    let (_, reader) = submit(engine, request);
    run_to_end(engine);
    answer(&reader)
}

/// Greedy, unsteered, with log-probabilities and the three most likely tokens.
pub(crate) fn request(prompt_token_ids: Vec<u32>, max_new_tokens: usize) -> GenerationRequest {
    GenerationRequest {
        prompt_token_ids,
        sampling: SamplingParams {
            logprobs: true,
            num_top_logprobs: 3,
            ..SamplingParams::default()
        },
        max_new_tokens,
        stop_token_ids: Vec::new(),
        steering: None,
        gate: None,
    }
}

/// A vector with a pseudo-random row for each of `layers`; `seed` tells vectors apart.
pub(crate) fn vector(
    site: Site,
    hidden_size: usize,
    layers: &[usize],
    seed: f32,
) -> SteeringVector {
    let row = |layer: usize| LayerVector {
        layer,
        values: (0..hidden_size).map(|i| ((i * 7 + layer * 3) as f32 * seed).sin()).collect(),
    };
    SteeringVector { site, layers: layers.iter().map(|&layer| row(layer)).collect() }
}

/// `add` at all positions of every layer of `vector`, which was registered as number `idx` of `lease`.
pub(crate) fn plan(
    vector: &SteeringVector,
    lease: &SlotLease,
    idx: usize,
    strength: f32,
    num_hidden_layers: usize,
) -> SteeringPlan {
    let mut slot_by_layer = vec![0; num_hidden_layers];
    for row in &vector.layers {
        slot_by_layer[row.layer] = lease.slots()[idx];
    }
    SteeringPlan {
        site: vector.site,
        operator: Operator::Add,
        positions: Positions::All,
        strength,
        slot_by_layer,
    }
}
