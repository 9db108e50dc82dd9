//! More sequences than the cache holds: they take turns, and nobody can tell from an answer.

use proptest::prelude::*;
use skeg_model::engine::{Engine, EngineConfig, GenerationRequest};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{Operator, Positions};

use crate::engine_company::{Ask, Steering, any_ask, engine, in_company_of};
use crate::engine_support::{answer, request, run_to_end, submit};
use crate::tiny::tokens;

/// 16 blocks of 4 tokens, and 4 places.
fn small_cache() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        kv_cache_tokens: 64,
        block_size: 4,
        ..EngineConfig::default()
    }
}

/// Drawn with penalties and a seed, so that a token sampled twice or forgotten would show.
fn drawn(seed: u32, prompt_len: usize, max_new_tokens: usize) -> GenerationRequest {
    let request = request(tokens(seed, prompt_len), max_new_tokens);
    let sampling = SamplingParams {
        temperature: 0.9,
        frequency_penalty: 0.4,
        repetition_penalty: 1.2,
        seed: u64::from(seed),
        ..request.sampling.clone()
    };
    GenerationRequest { sampling, ..request }
}

fn steering(vector_idx: usize, positions: Positions) -> Option<Steering> {
    Some(Steering { vector_idx, strength: 0.8, operator: Operator::Add, positions })
}

/// Four sequences of 10 or 11 blocks each.
fn four() -> Vec<Ask> {
    vec![
        Ask { request: drawn(1, 9, 33), steering: None },
        Ask { request: drawn(2, 12, 30), steering: steering(0, Positions::All) },
        Ask { request: drawn(3, 7, 33), steering: steering(1, Positions::Prompt) },
        Ask { request: drawn(4, 13, 28), steering: steering(2, Positions::Generation) },
    ]
}

#[test]
fn sequences_that_were_pushed_out_answer_bitwise_as_if_nobody_had_been_there() {
    let mut engine = engine(&small_cache());
    let asks: Vec<_> = four().into_iter().map(|ask| (ask, (0, None))).collect();
    let answers = in_company_of(&mut engine, &asks);
    let stats = engine.stats().read();
    assert!(stats.preemptions >= 2, "{stats:?}");
    for ((ask, _), answer) in asks.iter().zip(answers) {
        assert_eq!(answer, Some(ask.alone()), "{ask:?}");
    }
    assert_eq!((stats.num_running, stats.num_waiting, stats.num_held_blocks), (0, 0, 0));
}

#[test]
fn a_sequence_that_was_pushed_out_says_nothing_until_it_goes_on() {
    let mut engine = engine(&small_cache());
    let (_, first) = submit(&mut engine, drawn(1, 9, 40));
    let (_, second) = submit(&mut engine, drawn(2, 9, 40));
    let mut num_events = 0;
    while engine.stats().read().preemptions == 0 {
        engine.step().unwrap();
        num_events += second.read().len();
    }
    let stats = engine.stats().read();
    assert_eq!((stats.num_running, stats.num_waiting), (1, 1));
    assert!(num_events > 5, "it had begun to answer");
    // The first has the cache to itself until its end, and with it the second goes on.
    while engine.stats().read().num_running == 1 && engine.num_unfinished() == 2 {
        assert_eq!(second.read(), []);
        engine.step().unwrap();
    }
    run_to_end(&mut engine);
    num_events += second.read().len();
    assert_eq!(num_events, 40 + 1, "each token once, and the end");
    assert_eq!(answer(&first).tokens.len(), 40);
}

#[test]
fn a_sequence_that_was_pushed_out_can_be_given_up() {
    let mut engine = engine(&small_cache());
    let (_, first) = submit(&mut engine, drawn(1, 9, 40));
    let (second, reader) = submit(&mut engine, drawn(2, 9, 40));
    while engine.stats().read().preemptions == 0 {
        engine.step().unwrap();
    }
    engine.cancel(second);
    assert_eq!(engine.num_unfinished(), 1);
    reader.read();
    assert!(reader.is_over());
    run_to_end(&mut engine);
    assert_eq!(answer(&first).tokens.len(), 40);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn in_a_cache_for_one_every_answer_is_that_of_the_request_alone(
        asks in prop::collection::vec(
            (any_ask(), (0_usize..4, prop::option::weighted(0.2, 0_usize..12))),
            2..8,
        ),
        block_size in 1_usize..6,
        budget in 5_usize..30,
    ) {
        let config = EngineConfig {
            max_num_seqs: 5,
            max_num_batched_tokens: budget,
            kv_cache_tokens: 50, // the longest request has 47
            block_size,
            ..EngineConfig::default()
        };
        for ((ask, _), answer) in asks.iter().zip(in_company_of(&mut engine(&config), &asks)) {
            if let Some(answer) = answer {
                prop_assert_eq!(answer, ask.alone(), "{:?} in {:?}", ask, config);
            }
        }
    }
}
