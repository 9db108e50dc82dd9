//! Gated requests among others, cut and pushed out in every way; and steering that begins in mid-answer.

use std::sync::Arc;

use proptest::prelude::*;
use skeg_model::engine::{
    Engine, EngineConfig, Gate, GateDecision, GenerationRequest, LlamaEngine, PromptActivations,
};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{Positions, Site};

use crate::engine_company::{
    Ask, Steering, Visit, any_ask, any_config, engine, in_company_of, vectors, visit,
};
use crate::engine_gate::{
    STEERING, Script, ask, bits, configs, gated, row_by_hand, rows_by_hand, steer,
};
use crate::engine_support::{Answer, alone, answer, request, run_to_end, submit};
use crate::tiny::tokens;

/// Site, layers and first row of the mean that a gate reads, and after how many tokens it looks at the answer; `None` = the
/// request has no gate.
type Reads = Option<(Site, Vec<usize>, Option<usize>, Option<usize>)>;

fn any_reads() -> impl Strategy<Value = Reads> {
    let site = prop_oneof![Just(Site::AttnOut), Just(Site::ResidPost)];
    let layers = prop::sample::subsequence(vec![0_usize, 1, 2], 1..=3);
    let every = prop::option::of(1_usize..4);
    let mean_from = prop::option::weighted(0.7, 0_usize..10);
    prop::option::weighted(0.7, (site, layers, mean_from, every))
}

/// A request of which some begin alike, so that the prefix cache has something to give.
fn any_alike() -> impl Strategy<Value = Ask> {
    (any_ask(), 0_u32..3).prop_map(|(ask, seed)| {
        let prompt_token_ids = tokens(seed, ask.request.prompt_token_ids.len());
        Ask { request: GenerationRequest { prompt_token_ids, ..ask.request }, ..ask }
    })
}

fn any_visits() -> impl Strategy<Value = Vec<(Ask, Reads, Visit)>> {
    let visit = (0_usize..4, prop::option::weighted(0.2, 0_usize..6));
    prop::collection::vec((any_alike(), any_reads(), visit), 1..8)
}

/// The gate that decides what an [`Ask`] says.
fn script(ask: &Ask, reads: &Reads, lease: &skeg_model::steering::SlotLease) -> Option<Script> {
    let (site, layers, mean_from, every) = reads.clone()?;
    let mean_from = mean_from.map(|from| from.min(ask.request.prompt_token_ids.len() - 1));
    let decision = match ask.steering {
        Some(_) => steer(ask, lease),
        None => GateDecision::Unsteered,
    };
    let about_answer = every.map(|every| (every, 0, GateDecision::Unsteered));
    Some(Script { site, layers, mean_from, about_answer, ..Script::new(decision) })
}

/// Whether a gate was asked about the prompt once, with what a pass of its own gives.
pub(crate) fn saw_its_prompt(gate: &Script, prompt: &[u32], block_size: usize) -> bool {
    let rows = rows_by_hand(prompt, (gate.site, &gate.layers));
    let mean = gate.mean_from.map(|from| mean_by_hand(&rows, from, block_size)).unwrap_or_default();
    let (seen, means) = (gate.seen(), gate.means.lock().unwrap());
    let about_prompt: Vec<_> = seen.iter().filter(|(count, _)| *count == 0).collect();
    matches!(&about_prompt[..], [(_, read)] if bits(read) == bits(&rows[prompt.len() - 1]))
        && matches!(&means[..], [read] if bits(read) == bits(&mean))
}

/// The mean of the rows from one on: summed in order within each block, and then over blocks.
pub(crate) fn mean_by_hand(rows: &[Vec<f32>], from: usize, block_size: usize) -> Vec<f32> {
    let mean = |idx: usize| {
        let mut total = 0.0;
        for first in (0..rows.len()).step_by(block_size) {
            let counted = first.max(from)..(first + block_size).min(rows.len()).max(from);
            total += rows[counted].iter().map(|row| row[idx]).sum::<f32>();
        }
        total / (rows.len() - from) as f32
    };
    (0..rows[0].len()).map(mean).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_gated_request_is_answered_as_one_that_came_with_its_verdict_in_any_company(
        config in any_config(),
        enable_prefix_caching in prop::bool::weighted(0.8),
        visits in any_visits(),
    ) {
        let config = EngineConfig { enable_prefix_caching, ..config };
        let mut engine = engine(&config);
        let lease = engine.register_vectors(&vectors()).unwrap();
        let gates: Vec<Option<Arc<Script>>> = visits
            .iter()
            .map(|(ask, reads, _)| script(ask, reads, &lease).map(Arc::new))
            .collect();
        let requests = visits.iter().zip(&gates).map(|((ask, _, visit), gate)| {
            let request = match gate {
                Some(gate) => gated(ask.request.clone(), gate),
                None => ask.bind(&lease),
            };
            (request, *visit)
        });
        for (((ask, ..), gate), answer) in visits.iter().zip(&gates).zip(visit(&mut engine, requests)) {
            let Some(answer) = answer else { continue };
            prop_assert_eq!(answer, ask.alone(), "{:?} by {:?} in {:?}", ask, gate, config);
            if let Some(gate) = gate {
                let prompt = &ask.request.prompt_token_ids;
                prop_assert!(saw_its_prompt(gate, prompt, config.block_size), "{:?} in {:?}", gate, config);
            }
        }
        prop_assert_eq!(engine.stats().read().num_held_blocks, 0);
    }
}

#[test]
fn blocks_of_before_and_after_a_verdict_are_found_by_requests_of_their_kind_alone() {
    for prompt_len in [23, 24] {
        for positions in [Positions::All, Positions::Generation] {
            let config = EngineConfig { block_size: 4, ..EngineConfig::default() };
            let plain = Ask { request: request(tokens(2, prompt_len), 6), steering: None };
            let steered =
                Ask { steering: Some(Steering { positions, ..STEERING }), ..plain.clone() };
            let mut engine = engine(&config);
            let lease = engine.register_vectors(&vectors()).unwrap();
            let gate = Arc::new(Script::new(steer(&steered, &lease)));
            alone(&mut engine, gated(plain.request.clone(), &gate));
            // A prompt that goes on with the tokens of the answer reads the block that the verdict changed.
            for of in [&plain, &steered] {
                let mut longer = of.clone();
                longer.request.prompt_token_ids.extend(of.alone().token_ids());
                let both = [of, &longer].map(|ask| (ask.clone(), (0, None)));
                let expected = [of, &longer].map(|ask| Some(ask.alone()));
                assert_eq!(in_company_of(&mut engine, &both), expected, "{of:?}");
            }
        }
    }
}

/// An answer whose gate has it steered after 4 of its tokens.
fn steered_in_mid_answer(engine: &mut LlamaEngine, positions: Positions) -> (Answer, Arc<Script>) {
    let lease = engine.register_vectors(&vectors()).unwrap();
    let ask = ask(4, Some(Steering { positions, strength: 2.0, ..STEERING }));
    let mut script = Script::new(GateDecision::Unsteered);
    script.about_answer = Some((2, 4, steer(&ask, &lease)));
    let gate = Arc::new(script);
    let request = GenerationRequest { max_new_tokens: 9, ..ask.request };
    (alone(engine, gated(request, &gate)), gate)
}

#[test]
fn steering_that_begins_in_mid_answer_leaves_what_was_said_and_changes_the_rest() {
    let prompt_len = 23;
    let plain = {
        let request = GenerationRequest { max_new_tokens: 9, ..ask(4, None).request };
        alone(&mut engine(&EngineConfig::default()), request)
    };
    let mut answers = Vec::new();
    for config in configs() {
        for positions in [Positions::All, Positions::Generation] {
            let mut engine = engine(&config);
            let (answer, gate) = steered_in_mid_answer(&mut engine, positions);
            let asked: Vec<usize> = gate.seen().iter().map(|(count, _)| *count).collect();
            assert_eq!(asked, [0, 2, 4]);
            // The row of token 4 is computed unsteered and yields token 5.
            assert_eq!(answer.tokens[..5], plain.tokens[..5]);
            assert_ne!(answer.tokens[5..], plain.tokens[5..]);
            let report = answer.finish.steering;
            assert_eq!(report.started_at_token, Some(prompt_len + 4));
            assert_eq!((report.steered_prompt_tokens, report.steered_completion_tokens), (0, 4));
            assert_eq!(engine.stats().read().gate_rechecked, 1);
            answers.push(answer);
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[test]
fn the_rows_of_an_answer_that_a_gate_sees_are_those_of_a_prompt_with_that_answer() {
    let (answer, gate) =
        steered_in_mid_answer(&mut engine(&EngineConfig::default()), Positions::All);
    for (count, row) in gate.seen() {
        let mut tokens = tokens(4, 23);
        tokens.extend(&answer.token_ids()[..count]);
        assert_eq!(bits(&row), bits(&row_by_hand(&tokens)), "after {count} tokens");
    }
}

#[test]
fn after_steering_began_an_answer_goes_on_as_that_of_a_prompt_that_ends_there() {
    let (answer, _) = steered_in_mid_answer(&mut engine(&EngineConfig::default()), Positions::All);
    let plain = ask(4, None).request;
    let mut prompt = plain.prompt_token_ids.clone();
    prompt.extend(&answer.token_ids()[..5]);
    let steering = Steering { positions: Positions::Generation, strength: 2.0, ..STEERING };
    let planned = Ask { request: request(prompt, 4), steering: Some(steering) }.alone();
    assert_eq!(answer.tokens[5..], planned.tokens);
    assert_eq!(
        answer.finish.steering.max_relative_norm.map(f32::to_bits),
        planned.finish.steering.max_relative_norm.map(f32::to_bits)
    );
}

#[test]
fn pushed_out_after_steering_began_a_sequence_is_computed_again_as_it_was() {
    let config = EngineConfig {
        block_size: 4,
        kv_cache_tokens: 64,
        max_num_seqs: 2,
        max_num_batched_tokens: 9,
        ..EngineConfig::default()
    };
    for enable_prefix_caching in [true, false] {
        let mut alone_in = engine(&EngineConfig::default());
        let mut engine = engine(&EngineConfig { enable_prefix_caching, ..config });
        let long = |engine: &mut LlamaEngine| {
            let lease = engine.register_vectors(&vectors()).unwrap();
            let ask = ask(4, Some(Steering { positions: Positions::All, ..STEERING }));
            let mut script = Script::new(GateDecision::Unsteered);
            script.about_answer = Some((3, 3, steer(&ask, &lease)));
            let sampling = SamplingParams { temperature: 0.9, seed: 3, ..ask.request.sampling };
            let request = GenerationRequest { max_new_tokens: 30, sampling, ..ask.request };
            let gate = Arc::new(script);
            (gated(request, &gate), gate)
        };
        let (expected, _) = long(&mut alone_in);
        let expected = alone(&mut alone_in, expected);
        let (_, first) = submit(&mut engine, request(tokens(1, 9), 50));
        let (request, gate) = long(&mut engine);
        let (_, second) = submit(&mut engine, request);
        run_to_end(&mut engine);
        assert!(engine.stats().read().preemptions > 0);
        assert_eq!(answer(&first).tokens.len(), 50);
        assert_eq!(answer(&second), expected);
        assert_eq!(gate.seen().len(), 2, "once about the prompt and once about the answer");
    }
}

#[test]
fn a_gate_may_leave_answers_alone_and_reads_the_last_row_unless_it_says_otherwise() {
    /// Says nothing of what it need not say.
    #[derive(Debug)]
    struct Least;

    impl Gate for Least {
        fn site(&self) -> Site {
            Site::ResidPost
        }

        fn layers(&self) -> &[usize] {
            &[1]
        }

        fn decide(&self, activations: PromptActivations<'_>) -> GateDecision {
            assert_eq!((activations.last.len(), activations.mean.len()), (64, 0));
            GateDecision::Unsteered
        }
    }

    assert_eq!((Least.mean_from(), Least.recheck_every()), (None, None));
    let plain = ask(1, None);
    let request = GenerationRequest { gate: Some(Arc::new(Least)), ..plain.request.clone() };
    let mut engine = engine(&EngineConfig::default());
    assert_eq!(alone(&mut engine, request), plain.alone());
    let stats = engine.stats().read();
    assert_eq!((stats.gate_unsteered, stats.gate_rechecked, stats.gate_recomputed_rows), (1, 0, 0));
}
