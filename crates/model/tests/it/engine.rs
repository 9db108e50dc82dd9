//! The engine on a tiny model: company, chunking, cancellation, refusal, leases.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use proptest::prelude::*;
use skeg_model::engine::{
    Engine, EngineConfig, Event, EventSink, Finish, FinishReason, GenerationRequest, LlamaEngine,
    SinkClosed, StepOutcome,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{
    LayerVector, Operator, Positions, Site, SlotLease, SteeringPlan, SteeringVector,
};
use skeg_model::testing::{RandomWeights, random_llama, tiny_config};

/// The reading half of a sequence's events.
struct Reader(Receiver<Event>);

/// The engine's half: closed once the reader is dropped, which a shared token shows.
struct Sink {
    events: SyncSender<Event>,
    reader: std::sync::Weak<()>,
}

impl EventSink for Sink {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.events.try_send(event).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        self.reader.strong_count() == 0
    }
}

fn channel(max_new_tokens: usize) -> (Box<Sink>, Reader, Arc<()>) {
    let (events, receiver) = sync_channel(max_new_tokens + 1);
    let alive = Arc::new(());
    (Box::new(Sink { events, reader: Arc::downgrade(&alive) }), Reader(receiver), alive)
}

fn engine(config: &EngineConfig) -> LlamaEngine {
    let llama =
        random_llama(tiny_config(), 5, RandomWeights::Dense(candle_core::DType::F32)).unwrap();
    LlamaEngine::new(Arc::new(llama), config).unwrap()
}

fn vector(seed: usize) -> SteeringVector {
    let layers = [1, 2]
        .into_iter()
        .map(|layer| {
            let value = |idx: usize| (((idx + 7 * seed + layer) % 11) as f32 - 5.0) * 0.05;
            LayerVector { layer, values: (0..64).map(value).collect() }
        })
        .collect();
    SteeringVector { site: Site::AttnOut, layers }
}

fn plan(slot: u32, strength: f32, positions: Positions) -> SteeringPlan {
    let slot_by_layer = vec![0, slot, slot];
    SteeringPlan {
        site: Site::AttnOut,
        operator: Operator::Add,
        positions,
        strength,
        slot_by_layer,
    }
}

/// What a request looks like before it meets an engine.
#[derive(Debug, Clone)]
struct Ask {
    prompt: Vec<u32>,
    max_new_tokens: usize,
    seed: u64,
    /// Index of a registered vector, and the strength.
    steering: Option<(usize, f32, Positions)>,
}

fn request(ask: &Ask, lease: &SlotLease) -> GenerationRequest {
    let warm = ask.seed != 0;
    GenerationRequest {
        prompt_token_ids: ask.prompt.clone(),
        sampling: SamplingParams {
            temperature: if warm { 0.9 } else { 0.0 },
            seed: ask.seed,
            logprobs: true,
            num_top_logprobs: 3,
            ..SamplingParams::default()
        },
        max_new_tokens: ask.max_new_tokens,
        stop_token_ids: vec![0],
        steering: ask.steering.map(|(idx, strength, positions)| {
            (plan(lease.slots()[idx], strength, positions), lease.clone())
        }),
    }
}

/// Tokens with their log-probabilities' bits, and the end.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    tokens: Vec<(u32, u32)>,
    finish: Finish,
}

fn read(reader: &Reader) -> Answer {
    let mut tokens = Vec::new();
    for event in reader.0.try_iter() {
        match event {
            Event::Token { token, top } => {
                assert_eq!(top.len(), 3);
                tokens.push((token.token_id, token.logprob.to_bits()));
            }
            Event::Finished(finish) => return Answer { tokens, finish },
            Event::Failed(reason) => panic!("failed: {reason}"),
        }
    }
    panic!("the answer did not end: {tokens:?}");
}

fn run_to_end(engine: &mut LlamaEngine) {
    while engine.num_unfinished() > 0 {
        assert_eq!(engine.step().unwrap(), StepOutcome::Advanced);
    }
    assert_eq!(engine.step().unwrap(), StepOutcome::Idle);
}

/// All requests in one engine; each joins after as many steps as `arrivals` says.
fn together(config: &EngineConfig, asks: &[Ask], arrivals: &[usize]) -> Vec<Answer> {
    let mut engine = engine(config);
    let lease = engine.register_vectors(&[vector(1), vector(2), vector(3)]).unwrap();
    let mut readers = Vec::new();
    for (ask, &steps) in asks.iter().zip(arrivals) {
        let (sink, reader, alive) = channel(ask.max_new_tokens);
        engine.submit(request(ask, &lease), sink).unwrap();
        readers.push((reader, alive));
        for _ in 0..steps {
            engine.step().unwrap();
        }
    }
    run_to_end(&mut engine);
    readers.iter().map(|(reader, _)| read(reader)).collect()
}

fn alone(ask: &Ask) -> Answer {
    together(&EngineConfig::default(), std::slice::from_ref(ask), &[0]).remove(0)
}

fn small() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 3,
        max_num_batched_tokens: 4,
        block_size: 4,
        ..EngineConfig::default()
    }
}

fn an_ask() -> impl Strategy<Value = Ask> {
    let positions =
        prop_oneof![Just(Positions::All), Just(Positions::Prompt), Just(Positions::Generation)];
    let steering = prop::option::of((0_usize..3, -2.0_f32..2.0, positions));
    (prop::collection::vec(0_u32..128, 1..14), 1_usize..6, 0_u64..3, steering).prop_map(
        |(prompt, max_new_tokens, seed, steering)| Ask { prompt, max_new_tokens, seed, steering },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_answer_does_not_depend_on_company_chunking_or_arrival(
        asks in prop::collection::vec(an_ask(), 1..6),
        arrivals in prop::collection::vec(0_usize..4, 6),
    ) {
        let answers = together(&small(), &asks, &arrivals);
        for (ask, answer) in asks.iter().zip(&answers) {
            prop_assert_eq!(&alone(ask), answer, "{:?}", ask);
        }
    }
}

#[test]
fn evidence_counts_the_rows_that_were_steered() {
    let ask = |positions, strength| Ask {
        prompt: vec![5, 6, 7, 8],
        max_new_tokens: 3,
        seed: 0,
        steering: Some((0, strength, positions)),
    };
    for (positions, prompt, completion, start) in [
        (Positions::All, 4, 3, Some(0)),
        (Positions::Prompt, 4, 1, Some(0)),
        (Positions::Generation, 1, 3, Some(3)),
    ] {
        let answer = alone(&ask(positions, 0.5));
        assert_eq!(answer.finish.reason, FinishReason::Length, "choose prompts that do not stop");
        let report = answer.finish.steering;
        assert_eq!(report.steered_prompt_tokens, prompt, "{positions:?}");
        assert_eq!(report.steered_completion_tokens, completion, "{positions:?}");
        assert_eq!(report.started_at_token, start, "{positions:?}");
        assert!(report.max_relative_norm.is_some_and(|norm| norm > 0.0));
    }
    assert_eq!(alone(&ask(Positions::All, 0.0)).finish.steering, Default::default());
}

#[test]
fn a_reader_that_leaves_frees_its_place_and_changes_nobody() {
    let asks: Vec<Ask> = (0..2)
        .map(|idx| Ask { prompt: vec![3 + idx; 9], max_new_tokens: 5, seed: 1, steering: None })
        .collect();
    let mut engine = engine(&small());
    let lease = engine.register_vectors(&[vector(1)]).unwrap();
    let (sink, reader, alive) = channel(5);
    engine.submit(request(&asks[0], &lease), sink).unwrap();
    let (gone_sink, _, gone) = channel(5);
    engine.submit(request(&asks[1], &lease), gone_sink).unwrap();
    engine.step().unwrap();
    drop(gone);
    engine.step().unwrap();
    assert_eq!(engine.num_unfinished(), 1);
    run_to_end(&mut engine);
    assert_eq!(read(&reader), alone(&asks[0]));
    drop(alive);
}

#[test]
fn what_cannot_be_served_is_refused_with_a_reason_and_not_run() {
    let mut engine = engine(&EngineConfig { kv_cache_tokens: 32, ..EngineConfig::default() });
    let lease = engine.register_vectors(&[vector(1)]).unwrap();
    let other = engine.register_vectors(&[vector(2)]).unwrap();
    let ask = Ask { prompt: vec![1; 4], max_new_tokens: 2, seed: 0, steering: None };
    let good = request(&ask, &lease);
    let with = |change: &dyn Fn(&mut GenerationRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let steered =
        |slot: u32, strength: f32| Some((plan(slot, strength, Positions::All), lease.clone()));
    let slot = lease.slots()[0];
    for (request, expected) in [
        (with(&|r| r.prompt_token_ids.clear()), "no token"),
        (with(&|r| r.max_new_tokens = 0), "max_new_tokens"),
        (with(&|r| r.max_new_tokens = 29), "context of 32"),
        (with(&|r| r.prompt_token_ids[1] = 128), "128"),
        (with(&|r| r.sampling.top_p = 2.0), "top_p"),
        (with(&|r| r.steering = steered(other.slots()[0], 1.0)), "lease"),
        (with(&|r| r.steering = steered(60, 1.0)), "slot 60"),
        (with(&|r| r.steering = steered(slot, f32::INFINITY)), "finite"),
    ] {
        let (sink, reader, _alive) = channel(2);
        let error = engine.submit(request, sink).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(reader.0.try_recv(), Ok(Event::Failed(error)));
        assert_eq!(engine.num_unfinished(), 0);
    }
}

#[test]
fn slots_come_back_when_the_last_sequence_that_uses_them_ends() {
    let config = EngineConfig { num_steering_slots: 2, ..EngineConfig::default() };
    let mut engine = engine(&config);
    let first = engine.register_vectors(&[vector(1)]).unwrap();
    let ask = Ask {
        prompt: vec![1; 4],
        max_new_tokens: 3,
        seed: 0,
        steering: Some((0, 1.0, Positions::All)),
    };
    let (sink, reader, _alive) = channel(3);
    engine.submit(request(&ask, &first), sink).unwrap();
    engine.step().unwrap();
    drop(first);
    let second = engine.register_vectors(&[vector(2)]).unwrap();
    let error = engine.register_vectors(&[vector(3)]).unwrap_err().to_string();
    assert!(error.contains("0 of 2 are free"), "{error}");
    // Two generations live in one step.
    let (other_sink, other, _other_alive) = channel(3);
    engine.submit(request(&ask, &second), other_sink).unwrap();
    run_to_end(&mut engine);
    assert_eq!(read(&reader), alone(&ask));
    assert_ne!(read(&other).tokens, alone(&ask).tokens);
    assert!(engine.register_vectors(&[vector(3)]).is_ok());
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let refusal = |config: EngineConfig| config.validate().unwrap_err().to_string();
    let default = EngineConfig::default;
    assert!(
        refusal(EngineConfig { max_num_batched_tokens: 7, ..default() }).contains("max_num_seqs")
    );
    assert!(refusal(EngineConfig { block_size: 0, ..default() }).contains("block_size"));
    assert!(refusal(EngineConfig { kv_cache_tokens: 8, ..default() }).contains("kv_cache_tokens"));
}
