//! Vectors that are registered while the engine serves, part by part, on the pass of a GPU.

use std::sync::Arc;

use candle_core::DType;
use skeg_model::engine::{Engine, EngineConfig, LlamaEngine};
use skeg_model::steering::{Site, SteeringVector};
use skeg_model::testing::{RandomWeights, random_llama_on_device, tiny_config};

use crate::engine_support::{alone, answer, plan, request, run_to_end, submit, vector};
use crate::tiny::tokens;

const NUM_SLOTS: usize = 5;

fn engine() -> LlamaEngine {
    let form = RandomWeights::Dense(DType::F32);
    let llama = random_llama_on_device(tiny_config(), 7, form).unwrap();
    let config = EngineConfig { num_steering_slots: NUM_SLOTS, ..EngineConfig::default() };
    LlamaEngine::new(Arc::new(llama), &config).unwrap()
}

fn vectors(seed: f32) -> Vec<SteeringVector> {
    (0..3_u8).map(|idx| vector(Site::AttnOut, 64, &[0, 1, 2], seed + f32::from(idx))).collect()
}

#[test]
fn steps_are_made_between_the_parts_and_see_nothing_of_them() {
    let mut engine = engine();
    let old = engine.register_vectors(&vectors(0.3)[..1]).unwrap();
    let steered = || {
        let steering = Some((plan(&vectors(0.3)[0], &old, 0, 1.5, 3), old.clone()));
        skeg_model::engine::GenerationRequest { steering, ..request(tokens(4, 9), 12) }
    };
    let expected = alone(&mut engine, steered());

    let (_, reader) = submit(&mut engine, steered());
    let mut registering = engine.begin_registering(vectors(0.7)).unwrap();
    let mut num_parts = 0;
    loop {
        num_parts += 1;
        if engine.go_on_registering(&mut registering).unwrap() {
            break;
        }
        engine.step().unwrap();
    }
    assert_eq!(num_parts, 3, "a vector a part");
    let new = registering.lease().clone();
    run_to_end(&mut engine);
    assert_eq!(answer(&reader), expected);

    let of_new = plan(&vectors(0.7)[1], &new, 1, 1.5, 3);
    let swapped = skeg_model::engine::GenerationRequest {
        steering: Some((of_new, new)),
        ..request(tokens(4, 9), 12)
    };
    assert_ne!(alone(&mut engine, swapped).tokens, expected.tokens, "the new vector does nothing");
}

#[test]
fn slots_that_are_not_written_yet_steer_nobody_and_are_no_one_elses() {
    let mut engine = engine();
    let mut registering = engine.begin_registering(vectors(0.7)).unwrap();
    assert!(!engine.go_on_registering(&mut registering).unwrap());
    let lease = registering.lease().clone();
    let early = plan(&vectors(0.7)[2], &lease, 2, 1.0, 3);
    let early = skeg_model::engine::GenerationRequest {
        steering: Some((early, lease.clone())),
        ..request(tokens(1, 3), 2)
    };
    let (sink, _reader) = crate::engine_support::sink(2);
    let error = engine.submit(early, sink).unwrap_err().to_string();
    assert!(error.contains("holds no"), "{error}");
    // 2 of 5 are left.
    assert!(engine.begin_registering(vectors(0.1)).is_err());
    let others = engine.register_vectors(&vectors(0.1)[..2]).unwrap();
    assert!(others.slots().iter().all(|slot| !lease.slots().contains(slot)));
}

#[test]
fn a_registration_that_is_given_up_gives_its_slots_back() {
    let mut engine = engine();
    for _ in 0..4 {
        let mut registering = engine.begin_registering(vectors(0.7)).unwrap();
        assert!(!engine.go_on_registering(&mut registering).unwrap());
    }
    assert_eq!(engine.register_vectors(&vectors(0.1)).unwrap().slots().len(), 3);
}
