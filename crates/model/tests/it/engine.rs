//! What the engine promises of steering and limits: evidence, refusal, leases, hang-ups.

use std::sync::Arc;

use candle_core::DType;
use skeg_model::engine::{
    Engine, EngineConfig, Event, FinishReason, GenerationRequest, LlamaEngine,
};
use skeg_model::steering::{Positions, Site, SlotLease, SteeringPlan, SteeringVector};
use skeg_model::testing::{RandomWeights, random_llama, tiny_config};

use crate::engine_support::{
    Answer, alone, answer, plan, request, run_to_end, sink, submit, vector,
};

fn engine(config: &EngineConfig) -> LlamaEngine {
    let llama = random_llama(tiny_config(), 5, RandomWeights::Dense(DType::F32)).unwrap();
    LlamaEngine::new(Arc::new(llama), config).unwrap()
}

/// A vector for two of the three layers; `seed` tells vectors apart.
fn two_layers(seed: f32) -> SteeringVector {
    vector(Site::AttnOut, 64, &[1, 2], seed)
}

/// A greedy request, steered at `positions` by the vector that `lease` holds.
fn steered(lease: &SlotLease, strength: f32, positions: Positions) -> GenerationRequest {
    let plan = SteeringPlan { positions, ..plan(&two_layers(0.7), lease, 0, strength, 3) };
    GenerationRequest { steering: Some((plan, lease.clone())), ..request(vec![5, 6, 7, 8], 3) }
}

fn steered_alone(seed: f32, strength: f32, positions: Positions) -> Answer {
    let mut engine = engine(&EngineConfig::default());
    let lease = engine.register_vectors(&[two_layers(seed)]).unwrap();
    alone(&mut engine, steered(&lease, strength, positions))
}

#[test]
fn evidence_counts_the_rows_that_were_steered() {
    for (positions, prompt, completion, start) in [
        (Positions::All, 4, 3, Some(0)),
        (Positions::Prompt, 4, 1, Some(0)),
        (Positions::Generation, 1, 3, Some(3)),
    ] {
        let finish = steered_alone(0.7, 0.5, positions).finish;
        assert_eq!(finish.reason, FinishReason::Length);
        let report = finish.steering;
        assert_eq!(report.steered_prompt_tokens, prompt, "{positions:?}");
        assert_eq!(report.steered_completion_tokens, completion, "{positions:?}");
        assert_eq!(report.started_at_token, start, "{positions:?}");
        assert!(report.max_relative_norm.is_some_and(|norm| norm > 0.0));
    }
    let nothing = steered_alone(0.7, 0.0, Positions::All).finish.steering;
    assert_eq!(nothing, Default::default());
}

#[test]
fn every_token_carries_the_evidence_so_far() {
    for (positions, prompt, completion) in [
        (Positions::All, 4, [1, 2, 3]),
        (Positions::Prompt, 4, [1, 1, 1]),
        (Positions::Generation, 1, [1, 2, 3]),
    ] {
        let mut engine = engine(&EngineConfig::default());
        let lease = engine.register_vectors(&[two_layers(0.7)]).unwrap();
        let (_, reader) = submit(&mut engine, steered(&lease, 0.5, positions));
        run_to_end(&mut engine);
        let reports: Vec<_> = reader
            .read()
            .into_iter()
            .filter_map(|event| match event {
                Event::Token { steering, .. } => Some(steering),
                Event::Finished(_) | Event::Failed(_) => None,
            })
            .collect();
        let counted: Vec<usize> = reports.iter().map(|r| r.steered_completion_tokens).collect();
        assert_eq!(counted, completion, "{positions:?}");
        assert!(reports.iter().all(|r| r.steered_prompt_tokens == prompt), "{positions:?}");
        let norms = reports.iter().map(|report| report.max_relative_norm);
        assert!(norms.clone().all(|norm| norm.is_some_and(|norm| norm > 0.0)), "{positions:?}");
        assert!(norms.is_sorted_by(|a, b| a <= b), "the largest so far never falls");
    }
}

#[test]
fn a_reader_that_leaves_frees_its_place_and_changes_nobody() {
    let config = EngineConfig {
        max_num_seqs: 3,
        max_num_batched_tokens: 4,
        block_size: 4,
        ..EngineConfig::default()
    };
    let mut engine = engine(&config);
    let mut stays = request(vec![3; 9], 5);
    (stays.sampling.temperature, stays.sampling.seed) = (0.9, 1);
    let expected = alone(&mut engine, stays.clone());
    let (_, reader) = submit(&mut engine, stays);
    let (_, leaves) = submit(&mut engine, request(vec![4; 9], 5));
    engine.step().unwrap();
    drop(leaves);
    engine.step().unwrap();
    assert_eq!(engine.num_unfinished(), 1);
    run_to_end(&mut engine);
    assert_eq!(answer(&reader), expected);
}

#[test]
fn what_cannot_be_served_is_refused_with_a_reason_and_not_run() {
    let mut engine = engine(&EngineConfig { kv_cache_tokens: 32, ..EngineConfig::default() });
    let lease = engine.register_vectors(&[two_layers(0.7)]).unwrap();
    let other = engine.register_vectors(&[two_layers(0.3)]).unwrap();
    let good = steered(&lease, 1.0, Positions::All);
    let mut check = |change: &dyn Fn(&mut GenerationRequest), expected: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let (sink, reader) = sink(2);
        let error = engine.submit(bad, sink).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not say {expected}");
        assert_eq!(reader.read(), [Event::Failed(error)]);
        assert_eq!(engine.num_unfinished(), 0);
    };
    check(&|r| r.prompt_token_ids.clear(), "no token");
    check(&|r| r.max_new_tokens = 0, "max_new_tokens");
    check(&|r| r.max_new_tokens = 29, "context of 32");
    check(&|r| r.prompt_token_ids[1] = 128, "128");
    check(&|r| r.sampling.top_p = 2.0, "top_p");

    let mut check_plan = |change: &dyn Fn(&mut SteeringPlan), expected: &str| {
        check(&|r| change(&mut r.steering.as_mut().unwrap().0), expected);
    };
    check_plan(&|plan| plan.slot_by_layer[1] = other.slots()[0], "lease");
    check_plan(&|plan| plan.slot_by_layer[1] = 60, "slot 60");
    check_plan(&|plan| plan.slot_by_layer[0] = lease.slots()[0], "layer 0");
    check_plan(&|plan| plan.slot_by_layer.truncate(2), "2 layers");
    check_plan(&|plan| plan.site = Site::ResidPost, "ResidPost");
    check_plan(&|plan| plan.strength = f32::INFINITY, "finite");
}

#[test]
fn slots_come_back_when_the_last_sequence_that_uses_them_ends() {
    let config = EngineConfig { num_steering_slots: 2, ..EngineConfig::default() };
    let mut engine = engine(&config);
    let first = engine.register_vectors(&[two_layers(0.7)]).unwrap();
    let (_, old) = submit(&mut engine, steered(&first, 1.0, Positions::All));
    engine.step().unwrap();
    drop(first);
    let second = engine.register_vectors(&[two_layers(0.3)]).unwrap();
    let error = engine.register_vectors(&[two_layers(0.9)]).unwrap_err().to_string();
    assert!(error.contains("0 of 2 are free"), "{error}");
    // Two generations live in one step.
    let (_, new) = submit(&mut engine, steered(&second, 1.0, Positions::All));
    run_to_end(&mut engine);
    let (old, new) = (answer(&old), answer(&new));
    assert_eq!(old, steered_alone(0.7, 1.0, Positions::All));
    assert_eq!(new, steered_alone(0.3, 1.0, Positions::All));
    assert_ne!(old.tokens, new.tokens);
    assert!(engine.register_vectors(&[two_layers(0.9)]).is_ok());
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
