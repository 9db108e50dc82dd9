//! Steering that breaks in a running engine.

mod delivery;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};

use super::*;
use crate::engine::SinkClosed;
use crate::engine::row_sums::ReadRows;
use crate::sampling::{Answer, SamplingParams, decide};
use crate::steering::{LayerVector, Operator, Positions, Site, SteeringPlan};
use crate::testing::{RandomWeights, random_llama, tiny_config};

struct Events(Arc<Mutex<Vec<Event>>>);

impl EventSink for Events {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.0.lock().unwrap().push(event);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// Registers a vector for layers 0 and 2 for each seed.
fn register(engine: &mut LlamaEngine, seeds: &[f32]) -> SlotLease {
    let row = |layer, seed: f32| LayerVector {
        layer,
        values: (0..64_u8).map(|i| (f32::from(i) * seed).sin()).collect(),
    };
    let vector = |&seed: &f32| SteeringVector {
        site: Site::AttnOut,
        layers: vec![row(0, seed), row(2, seed)],
    };
    engine.register_vectors(&seeds.iter().map(vector).collect::<Vec<_>>()).unwrap()
}

/// Submits a request that the vector in `slot` steers; 0 is not steered.
fn submit(engine: &mut LlamaEngine, lease: &SlotLease, slot: u32) -> Arc<Mutex<Vec<Event>>> {
    let plan = SteeringPlan {
        site: Site::AttnOut,
        operator: Operator::Add,
        positions: Positions::All,
        strength: 1.0,
        slot_by_layer: vec![slot, 0, slot],
    };
    let request = GenerationRequest {
        prompt_token_ids: (1..40).collect(),
        sampling: SamplingParams::default(),
        max_new_tokens: 3,
        stop_token_ids: Vec::new(),
        steering: (slot != 0).then(|| (plan, lease.clone())),
        gate: None,
    };
    let events = Arc::new(Mutex::new(Vec::new()));
    engine.submit(request, Box::new(Events(Arc::clone(&events)))).unwrap();
    events
}

#[test]
fn a_vector_that_is_lost_fails_its_sequences_and_no_other_and_enters_no_cache() {
    let llama = random_llama(tiny_config(), 7, RandomWeights::Dense(DType::F32)).unwrap();
    let config = EngineConfig { projection_sample_interval: 1, ..EngineConfig::default() };
    let mut engine = LlamaEngine::new(Arc::new(llama), &config).unwrap();
    let lease = register(&mut engine, &[0.7, 0.3]);
    // The fault: the second vector's row of layer 2 is overwritten.
    let table = engine.tables.table(Site::AttnOut, 2).unwrap();
    let zeros = Tensor::zeros((1, 64), DType::F32, engine.llama.device()).unwrap();
    table.slice_set(&zeros, 0, lease.slots()[1] as usize).unwrap();

    let sound = submit(&mut engine, &lease, lease.slots()[0]);
    let unsteered = submit(&mut engine, &lease, 0);
    let broken = submit(&mut engine, &lease, lease.slots()[1]);
    while engine.step().unwrap() == StepOutcome::Advanced {}

    for events in [sound, unsteered] {
        let events = events.lock().unwrap();
        assert!(matches!(events.last(), Some(Event::Finished(_))), "{events:?}");
    }
    // The vectors take turns, so the fault is seen in the second step at the latest: before any answer is complete.
    let events = broken.lock().unwrap();
    assert!(
        matches!(&events[..], [.., Event::Failed(reason)] if reason.contains("layer 2")),
        "{events:?}"
    );
    let found = engine.projections().read();
    assert_eq!(found.iter().map(|layer| layer.unmoved).collect::<Vec<_>>(), [0, 1]);

    // Seen at once when nothing else is steered, and no block of it can be found.
    let before = engine.stats.read().prefix_cache_hit_tokens;
    for unmoved in [2, 3] {
        let events = submit(&mut engine, &lease, lease.slots()[1]);
        engine.step().unwrap();
        assert!(matches!(&events.lock().unwrap()[..], [Event::Failed(_)]));
        assert_eq!(engine.projections().read()[1].unmoved, unmoved);
        assert_eq!(engine.num_unfinished(), 0);
    }
    assert_eq!(engine.stats.read().num_held_blocks, 0);
    assert_eq!(engine.stats.read().prefix_cache_hit_tokens, before);
}

/// Says that nothing is due, whatever it is shown.
#[derive(Debug)]
struct Unconcerned;

impl crate::engine::Gate for Unconcerned {
    fn site(&self) -> Site {
        Site::ResidPost
    }

    fn layers(&self) -> &[usize] {
        &[0]
    }

    fn decide(&self, _: crate::engine::PromptActivations<'_>) -> crate::engine::GateDecision {
        crate::engine::GateDecision::Unsteered
    }
}

#[test]
fn a_gate_is_not_asked_about_what_is_not_finite_and_the_sequence_fails() {
    let llama = random_llama(tiny_config(), 7, RandomWeights::Dense(DType::F32)).unwrap();
    let mut engine = LlamaEngine::new(Arc::new(llama), &EngineConfig::default()).unwrap();
    for (value, fails) in [(1.0, false), (f32::NAN, true), (f32::NEG_INFINITY, true)] {
        let request = GenerationRequest {
            prompt_token_ids: vec![1],
            sampling: SamplingParams::default(),
            max_new_tokens: 3,
            stop_token_ids: Vec::new(),
            steering: None,
            gate: Some(Arc::new(Unconcerned)),
        };
        let id = engine.submit(request, Box::new(Events(Arc::default()))).unwrap();
        let shares = engine.scheduler.schedule();
        let read = ReadRows { num_rows: 1, layers: vec![vec![0.0, value, 0.0]] };
        engine.scheduler.sequence_mut(shares[0]).keep_for_gate(1, &read);
        assert_eq!(matches!(engine.ask_gate(shares[0]), Some(Err(_))), fails, "{value}");
        engine.cancel(id);
    }
    assert_eq!(engine.scheduler.stats().gate_unsteered, 1);
}

#[test]
fn a_step_wants_one_ask_a_row_and_chooses_from_the_rows_of_the_same_pass() {
    let llama = random_llama(tiny_config(), 7, RandomWeights::Dense(DType::F32)).unwrap();
    let config = EngineConfig::default();
    let step = |asks: &[Ask]| {
        let mut cache = KvCache::new(&llama, 2, 8, config.kv_cache_dtype).unwrap();
        let batch = PackedBatch {
            token_ids: (1..10).collect(),
            positions: (0..9).collect(),
            cu_seqlens: vec![0, 9],
            block_tables: vec![vec![0, 1]],
            logit_rows: vec![4, 8],
        };
        llama.step(&batch, &mut cache, &mut Hooks::none(), asks, &mut || ())
    };
    for asks in [&[][..], &[Ask::Greedy], &[Ask::Logits; 3]] {
        let error = step(asks).unwrap_err().to_string();
        let expected = format!("{} asks of 2 rows", asks.len());
        assert!(error.contains(&expected), "{error}");
    }
    let rows = step(&[Ask::Logits; 2]).unwrap();
    let rows: Vec<&[f32]> = rows
        .answers()
        .map(|answer| match answer {
            Answer::Logits(row) => row,
            Answer::Token { .. } => panic!("a token for a row"),
        })
        .collect();
    for asks in
        [[Ask::Greedy, Ask::Logits], [Ask::Draw { temperature: 0.8, unit: 0.4 }, Ask::Greedy]]
    {
        let output = step(&asks).unwrap();
        let expected = asks.iter().zip(&rows).map(|(&ask, row)| decide(ask, row));
        assert!(output.answers().eq(expected), "{asks:?}");
    }
}
