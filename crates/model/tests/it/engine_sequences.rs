//! The life of a sequence in the engine: its turn, its ends, what a broken neighbour does to it.

use std::sync::Arc;

use candle_core::DType;
use skeg_model::engine::{
    Engine, EngineConfig, Event, FinishReason, GenerationRequest, LlamaEngine, SeqId,
    SteeringReport, StepOutcome,
};
use skeg_model::steering::{Site, SteeringVector};
use skeg_model::testing::{RandomWeights, random_llama, tiny_config};

use crate::engine_support::{
    Reader, alone, answer, plan, request, run_to_end, sink, submit, vector,
};
use crate::tiny::tokens;

fn engine(config: &EngineConfig) -> LlamaEngine {
    let llama = random_llama(tiny_config(), 7, RandomWeights::Dense(DType::F32)).unwrap();
    LlamaEngine::new(Arc::new(llama), config).unwrap()
}

fn default_engine() -> LlamaEngine {
    engine(&EngineConfig::default())
}

#[test]
fn a_step_with_nothing_to_do_is_idle() {
    let mut engine = default_engine();
    assert_eq!(engine.step().unwrap(), StepOutcome::Idle);
    let (_, reader) = submit(&mut engine, request(tokens(1, 5), 1));
    assert_eq!(engine.step().unwrap(), StepOutcome::Advanced);
    assert_eq!(engine.step().unwrap(), StepOutcome::Idle);
    assert_eq!(answer(&reader).finish.completion_tokens, 1);
    assert!(reader.is_over(), "the engine lets go of the sink");
}

#[test]
fn a_stop_token_ends_the_answer_and_is_its_last_token() {
    let mut engine = default_engine();
    let base = request(tokens(1, 5), 8);
    let free = alone(&mut engine, base.clone());
    assert_eq!(free.finish.reason, FinishReason::Length);
    assert_eq!(free.finish.prompt_tokens, 5);
    let third = free.token_ids()[2];
    let first_seen = free.token_ids().iter().position(|&id| id == third).unwrap();
    let stopping = GenerationRequest { stop_token_ids: vec![127, third], ..base };
    let stopped = alone(&mut engine, stopping.clone());
    assert_eq!(stopped.finish.reason, FinishReason::Stop);
    assert_eq!(stopped.tokens, free.tokens[..=first_seen]);

    let mut benchmark = stopping.clone();
    benchmark.sampling.ignore_eos = true;
    assert_eq!(alone(&mut engine, benchmark).tokens, free.tokens);

    let mut longer = stopping;
    longer.sampling.min_new_tokens = 6;
    let longer = alone(&mut engine, longer).token_ids();
    assert!(longer.len() >= 6 && !longer[..6].contains(&third), "{longer:?}");
}

#[test]
fn log_probabilities_are_sorted_and_of_the_chosen_token() {
    let answer = alone(&mut default_engine(), request(tokens(1, 5), 4));
    for (token, top) in answer.tokens.iter().zip(&answer.top) {
        assert_eq!(top.len(), 3);
        assert_eq!(token, &top[0], "greedy takes the most likely");
        assert!(top.iter().map(|(_, bits)| -f32::from_bits(*bits)).is_sorted());
    }
}

#[test]
fn sequences_are_served_in_the_order_they_came() {
    let mut engine = engine(&EngineConfig {
        max_num_seqs: 4,
        kv_cache_tokens: 64,
        block_size: 4,
        ..EngineConfig::default()
    });
    // Of 16 blocks the first takes 3 and the second 11 for its prompt. The small ones would find one each,
    // but one a running sequence stays free: they wait until the first is done, at step 3.
    let sizes = [(10, 3), (44, 20), (2, 2), (2, 2)];
    let readers: Vec<Reader> = sizes
        .into_iter()
        .zip(1..)
        .map(|((prompt_len, new), seed)| {
            submit(&mut engine, request(tokens(seed, prompt_len), new)).1
        })
        .collect();
    let mut first_step = vec![None; readers.len()];
    let mut step = 0;
    while engine.step().unwrap() == StepOutcome::Advanced {
        step += 1;
        for (first, reader) in first_step.iter_mut().zip(&readers) {
            if !reader.read().is_empty() {
                first.get_or_insert(step);
            }
        }
    }
    assert_eq!(first_step, [Some(1), Some(1), Some(4), Some(4)]);
}

#[test]
fn a_sequence_that_waits_can_be_given_up() {
    let mut engine = engine(&EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
    let expected = alone(&mut engine, request(tokens(9, 6), 3));
    let (running, running_reader) = submit(&mut engine, request(tokens(1, 5), 50));
    let (waiting, waiting_reader) = submit(&mut engine, request(tokens(2, 5), 50));
    let (_, left) = submit(&mut engine, request(tokens(3, 5), 50));
    let (_, last) = submit(&mut engine, request(tokens(9, 6), 3));
    engine.step().unwrap();
    assert_eq!(engine.num_unfinished(), 4);

    engine.cancel(SeqId(99));
    assert_eq!(engine.num_unfinished(), 4);
    engine.cancel(waiting);
    assert_eq!(engine.num_unfinished(), 3);
    assert!(waiting_reader.is_over(), "nothing is sent to a cancelled sequence");
    drop(left);
    engine.cancel(running);
    engine.cancel(running);
    assert_eq!(running_reader.read().len(), 1);
    assert!(running_reader.is_over());
    run_to_end(&mut engine);
    assert_eq!(answer(&last), expected);
}

#[test]
fn a_sequence_whose_numbers_overflow_fails_alone_and_leaves_nothing_behind() {
    // One block a sequence: the last of them reuses the memory of the one that failed.
    let config = EngineConfig {
        max_num_seqs: 2,
        kv_cache_tokens: 64,
        block_size: 32,
        num_steering_slots: 1,
        ..EngineConfig::default()
    };
    let mut engine = engine(&config);
    let good = request(tokens(1, 9), 6);
    let expected = alone(&mut engine, good.clone());

    let huge: SteeringVector = {
        let mut huge = vector(Site::ResidPost, 64, &[0], 0.7);
        huge.layers[0].values.fill(1e30);
        huge
    };
    let lease = engine.register_vectors(std::slice::from_ref(&huge)).unwrap();
    let broken_plan = plan(&huge, &lease, 0, 1e30, 3);
    let broken = GenerationRequest { steering: Some((broken_plan, lease)), ..good.clone() };
    let (_, before) = submit(&mut engine, good.clone());
    let (_, failing) = submit(&mut engine, broken);
    let (_, after) = submit(&mut engine, good.clone());
    let (_, last) = submit(&mut engine, good);
    run_to_end(&mut engine);
    let events = failing.read();
    let [Event::Failed(reason)] = events.as_slice() else { panic!("{events:?}") };
    assert!(reason.contains("not a finite number"), "{reason}");
    for reader in [before, after, last] {
        assert_eq!(answer(&reader), expected);
    }
    assert!(engine.register_vectors(&[huge]).is_ok(), "its slot is free again");
}

#[test]
fn an_unsteered_sequence_reports_no_steering() {
    let mut engine = default_engine();
    let base = vector(Site::AttnOut, 64, &[0, 1, 2], 0.7);
    let lease = engine.register_vectors(std::slice::from_ref(&base)).unwrap();
    let steered = GenerationRequest {
        steering: Some((plan(&base, &lease, 0, 1.0, 3), lease)),
        ..request(tokens(2, 7), 4)
    };
    let (_, plain_reader) = submit(&mut engine, request(tokens(1, 7), 4));
    let (_, steered_reader) = submit(&mut engine, steered);
    run_to_end(&mut engine);
    assert_eq!(answer(&plain_reader).finish.steering, SteeringReport::default());
    let report = answer(&steered_reader).finish.steering;
    assert_eq!((report.steered_prompt_tokens, report.steered_completion_tokens), (7, 4));
}

#[test]
fn an_answer_as_long_as_the_limit_allows_is_given_and_one_more_is_refused() {
    for config in [
        EngineConfig { max_model_len: Some(20), ..EngineConfig::default() },
        EngineConfig { kv_cache_tokens: 22, block_size: 5, ..EngineConfig::default() },
    ] {
        let mut engine = engine(&config);
        assert_eq!(engine.max_model_len(), 20);
        let full = alone(&mut engine, request(tokens(1, 12), 8));
        assert_eq!(full.finish.completion_tokens, 8);
        let (sink, reader) = sink(9);
        let error = engine.submit(request(tokens(1, 12), 9), sink).unwrap_err().to_string();
        assert!(error.contains("12") && error.contains('9') && error.contains("20"), "{error}");
        assert_eq!(reader.read(), [Event::Failed(error)]);
    }
    let mut engine = engine(&EngineConfig { max_model_len: Some(9999), ..Default::default() });
    assert_eq!(engine.max_model_len(), 256, "the model's context");
    let (sink, _reader) = sink(1);
    assert!(engine.submit(request(tokens(1, 5), usize::MAX), sink).is_err());
}
