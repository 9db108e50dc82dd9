//! Cache blocks used again: less work, the answer of one computed anew, and never anybody else's.

use proptest::prelude::*;
use skeg_model::engine::{Engine, EngineConfig, GenerationRequest, LlamaEngine};
use skeg_model::steering::{Operator, Positions, Site, SteeringPlan, SteeringTables};
use skeg_model::{Capture, Hooks, SteerRows};

use crate::engine_company::{Ask, Steering, any_ask, engine, in_company_of, vectors};
use crate::engine_support::{Answer, alone, plan, request, vector};
use crate::tiny::{Stretch, cache, model, run, tokens};

const BLOCK_SIZE: usize = 4;

fn config() -> EngineConfig {
    EngineConfig { block_size: BLOCK_SIZE, ..EngineConfig::default() }
}

fn ask(request: GenerationRequest, steering: Option<Steering>) -> Ask {
    Ask { request, steering }
}

const STEERING: Steering =
    Steering { vector_idx: 0, strength: 0.8, operator: Operator::Add, positions: Positions::All };

/// The prompt tokens found, the rows computed, and the answer of one request.
fn served(engine: &mut LlamaEngine, request: GenerationRequest) -> (usize, usize, Answer) {
    let before = engine.stats().read();
    let answer = alone(engine, request);
    let after = engine.stats().read();
    (
        after.prefix_cache_hit_tokens - before.prefix_cache_hit_tokens,
        after.computed_rows - before.computed_rows,
        answer,
    )
}

#[test]
fn the_second_time_the_answer_and_its_report_are_bitwise_the_same_for_less_work() {
    let operators = [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut];
    for positions in [Positions::All, Positions::Prompt, Positions::Generation] {
        for (vector_idx, operator) in operators.into_iter().enumerate() {
            let steering = Steering { vector_idx, operator, positions, ..STEERING };
            let ask = ask(request(tokens(1, 14), 5), Some(steering));
            let mut engine = engine(&config());
            let lease = engine.register_vectors(&vectors()).unwrap();
            let (found, computed, first) = served(&mut engine, ask.bind(&lease));
            assert_eq!((found, computed), (0, 14 + 4));
            let (found, computed, second) = served(&mut engine, ask.bind(&lease));
            assert_eq!((found, computed), (12, 2 + 4));
            let expected = ask.alone();
            assert_eq!(first, expected, "{ask:?}");
            assert_eq!(second, expected, "{ask:?}");
        }
    }
}

#[test]
fn the_row_that_yields_the_first_new_token_is_always_computed() {
    for prompt_len in 1..=13 {
        let mut engine = engine(&config());
        let ask = request(tokens(2, prompt_len), 1);
        let expected = alone(&mut engine, ask.clone());
        let (found, computed, answer) = served(&mut engine, ask);
        assert_eq!(found, (prompt_len - 1) / BLOCK_SIZE * BLOCK_SIZE, "{prompt_len}");
        assert_eq!(computed, prompt_len - found);
        assert_eq!(answer, expected);
    }
}

#[test]
fn rows_steered_otherwise_are_never_used() {
    let prompt = request(tokens(1, 14), 5);
    let mut engine = engine(&config());
    let lease = engine.register_vectors(&vectors()).unwrap();
    let steered = |steering| Some(steering);
    let cases = [
        (0, steered(STEERING)),
        (0, steered(Steering { strength: 0.8 + f32::EPSILON, ..STEERING })),
        (0, steered(Steering { strength: -0.8, ..STEERING })),
        (0, steered(Steering { operator: Operator::AddNormRestored, ..STEERING })),
        (0, steered(Steering { operator: Operator::ProjectOut, ..STEERING })),
        (0, steered(Steering { vector_idx: 1, ..STEERING })), // one layer of three
        (0, steered(Steering { vector_idx: 2, ..STEERING })), // another site
        (0, None),
        // The last row of the prompt alone is steered, and it is never taken from the cache.
        (12, steered(Steering { positions: Positions::Generation, ..STEERING })),
        // Over the prompt the same as the first of all.
        (12, steered(Steering { positions: Positions::Prompt, ..STEERING })),
        // Does nothing, and so do all strengths of 0.
        (12, steered(Steering { strength: 0.0, ..STEERING })),
        (12, steered(Steering { strength: -0.0, vector_idx: 1, ..STEERING })),
    ];
    for (expected_found, steering) in cases {
        let ask = ask(prompt.clone(), steering);
        let (found, _, answer) = served(&mut engine, ask.bind(&lease));
        assert_eq!(found, expected_found, "{ask:?}");
        assert_eq!(answer, ask.alone(), "{ask:?}");
    }
}

#[test]
fn another_generation_in_the_same_slot_finds_nothing_and_the_same_again_does() {
    let config = EngineConfig { num_steering_slots: 1, ..config() };
    let generations = [0.7, 0.3, 0.7].map(|seed| vector(Site::AttnOut, 64, &[0, 1, 2], seed));
    let serve = |engine: &mut LlamaEngine, idx: usize| {
        let vector = &generations[idx];
        let lease = engine.register_vectors(std::slice::from_ref(vector)).unwrap();
        assert_eq!(lease.slots(), [1]);
        let plan = plan(vector, &lease, 0, 0.8, 3);
        let request =
            GenerationRequest { steering: Some((plan, lease)), ..request(tokens(1, 14), 5) };
        served(engine, request)
    };
    let mut shared = engine(&config);
    for (idx, expected_found) in [(0, 0), (1, 0), (2, 12), (1, 12)] {
        let (found, _, answer) = serve(&mut shared, idx);
        assert_eq!(found, expected_found, "generation {idx}");
        assert_eq!(answer, serve(&mut engine(&config), idx).2, "generation {idx}");
    }
}

/// Three turns of a conversation, each with all before it as its prompt; the rows computed for each.
fn rows_of_three_turns(steering: Option<&Steering>) -> Vec<usize> {
    let mut engine = engine(&config());
    let lease = engine.register_vectors(&vectors()).unwrap();
    let mut prompt = tokens(1, 10);
    let turns = (2..5).map(|turn| {
        let ask = ask(request(prompt.clone(), 7), steering.cloned());
        let (_, computed, answer) = served(&mut engine, ask.bind(&lease));
        assert_eq!(answer, ask.alone(), "turn {turn} of {steering:?}");
        prompt.extend(answer.token_ids());
        prompt.extend(tokens(turn, 5));
        computed
    });
    turns.collect()
}

#[test]
fn a_conversation_does_not_compute_its_earlier_turns_again() {
    // Prompts of 10, 22 and 34 tokens. 16 and 28 rows are left by the turns before, in blocks of 4, and 6 of
    // the 7 new tokens are fed back.
    let everywhere = [10 + 6, 22 - 16 + 6, 34 - 28 + 6];
    assert_eq!(rows_of_three_turns(None), everywhere);
    assert_eq!(rows_of_three_turns(Some(&STEERING)), everywhere);
    // Earlier answers are prompt now: steered otherwise than when they were made, from row 9 and 21 on.
    let generation = Steering { positions: Positions::Generation, ..STEERING };
    assert_eq!(rows_of_three_turns(Some(&generation)), [10 + 6, 22 - 8 + 6, 34 - 20 + 6]);
    let prompt = Steering { positions: Positions::Prompt, ..STEERING };
    assert_eq!(rows_of_three_turns(Some(&prompt)), [10 + 6, 22 - 8 + 6, 34 - 20 + 6]);
}

#[test]
fn switched_off_nothing_is_kept() {
    let config = EngineConfig { enable_prefix_caching: false, ..config() };
    let mut engine = engine(&config);
    let ask = request(tokens(1, 14), 5);
    let (_, first_rows, first) = served(&mut engine, ask.clone());
    let (_, second_rows, second) = served(&mut engine, ask);
    assert_eq!((first_rows, &first), (second_rows, &second));
    let stats = engine.stats().read();
    assert_eq!((stats.prefix_cache_query_tokens, stats.num_idle_blocks), (0, 0));
}

#[test]
fn what_was_kept_gives_way_to_what_runs() {
    let config = EngineConfig { kv_cache_tokens: 32, ..config() };
    let mut engine = engine(&config);
    for seed in 0..4 {
        alone(&mut engine, request(tokens(seed, 14), 5));
    }
    let stats = engine.stats().read();
    assert_eq!((stats.num_held_blocks, stats.num_idle_blocks), (0, 8 - 1));
    // The last has 4 full blocks, the one before 3 of its 4 beside the last's unfinished one.
    assert_eq!(stats.prefix_cache_evictions, 4 * 4 - 7);
    assert_eq!(served(&mut engine, request(tokens(3, 14), 5)).0, 12);
    assert_eq!(served(&mut engine, request(tokens(0, 14), 5)).0, 0);
}

#[test]
fn after_rows_from_the_cache_the_increment_at_the_hook_is_strength_times_vector() {
    let llama = model();
    let base = vector(Site::AttnOut, 64, &[1], 0.7);
    let row = base.layers[0].values.clone();
    let mut tables = SteeringTables::new(&llama, 2);
    let lease = tables.register(std::slice::from_ref(&base)).unwrap();
    let plan: SteeringPlan = plan(&base, &lease, 0, 0.8, 3);
    let token_ids = tokens(1, 12);
    let mut cache = cache(&llama);
    let whole = Stretch::whole(token_ids.clone(), &[0, 1, 2]);
    let steer = |num_rows| Some(SteerRows::new(&tables, vec![Some(&plan); num_rows]));
    let mut hooks = Hooks { steer: steer(12), capture: None };
    let expected = run(&llama, &mut cache, &[whole], &mut hooks);

    // Another sequence on the same two blocks, and one of its own.
    let rest = Stretch { token_ids: token_ids[8..].to_vec(), first: 8, block_table: vec![0, 1, 5] };
    let capture = || Capture::new(Site::AttnOut, vec![1], (0..4).collect());
    let [before, after] = [capture(), capture().after_steering()].map(|mut capture| {
        let mut hooks = Hooks { steer: steer(4), capture: Some(&mut capture) };
        assert_eq!(run(&llama, &mut cache, std::slice::from_ref(&rest), &mut hooks), expected[8..]);
        capture.take().remove(0).1
    });
    for (idx, (before, after)) in before.iter().zip(after).enumerate() {
        assert_eq!(after.to_bits(), (before + 0.8 * row[idx % row.len()]).to_bits(), "value {idx}");
    }
}

/// Requests that begin alike, with one of few steerings: most find something.
fn any_kin() -> impl Strategy<Value = Ask> {
    any_ask().prop_map(|ask| {
        let prompt = &ask.request.prompt_token_ids;
        let kin = tokens(prompt[0] % 2, prompt.len());
        let steering = ask.steering.map(|steering| {
            let strength = if steering.strength < 0.0 { -1.0 } else { 0.5 };
            Steering { strength, vector_idx: steering.vector_idx % 2, ..steering }
        });
        Ask { request: GenerationRequest { prompt_token_ids: kin, ..ask.request }, steering }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_answer_is_bitwise_that_of_an_engine_without_a_cache(
        asks in prop::collection::vec(
            (any_kin(), (0_usize..12, prop::option::weighted(0.15, 0_usize..12))),
            4..12,
        ),
        block_size in 1_usize..6,
        kv_cache_tokens in 50_usize..300,
        beyond in 0_usize..30,
    ) {
        let config = EngineConfig {
            max_num_seqs: 4,
            max_num_batched_tokens: 4 + beyond,
            kv_cache_tokens,
            block_size,
            ..EngineConfig::default()
        };
        let mut engine = engine(&config);
        // The second time with vectors registered anew, in other slots.
        for _ in 0..2 {
            for ((ask, _), answer) in asks.iter().zip(in_company_of(&mut engine, &asks)) {
                if let Some(answer) = answer {
                    prop_assert_eq!(answer, ask.alone(), "{:?} in {:?}", ask, config);
                }
            }
        }
        let stats = engine.stats().read();
        prop_assert_eq!(stats.num_held_blocks, 0);
    }
}
