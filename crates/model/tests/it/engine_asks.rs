//! A request that asks the pass for tokens alone is answered as one that asks for rows of logits.
//!
//! A request with log-probabilities is always given rows, so the same request with and without them is the same answer in both
//! ways, and only its log-probabilities may differ.

use std::sync::Arc;

use proptest::prelude::*;
use skeg_model::engine::{Engine, GateDecision, GenerationRequest};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{Positions, SlotLease};

use crate::engine_company::{Ask, Steering, any_ask, any_config, engine, vectors, visit};
use crate::engine_gate::{STEERING, Script, gated, steer};
use crate::engine_support::Answer;

/// What a gate does, if the request has one.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Nothing,
    SteerPrompt,
    SteerAnswer,
    StopAnswer,
}

/// A verdict, and about an answer after how many tokens it is asked and from when on it says so.
type Gated = Option<(Verdict, usize, usize)>;

fn any_gated() -> impl Strategy<Value = Gated> {
    let verdict = prop_oneof![
        Just(Verdict::Nothing),
        Just(Verdict::SteerPrompt),
        Just(Verdict::SteerAnswer),
        Just(Verdict::StopAnswer)
    ];
    prop::option::weighted(0.7, (verdict, 1_usize..4, 0_usize..6))
}

/// Requests of which most are sampled with nothing but a temperature.
fn any_request() -> impl Strategy<Value = Ask> {
    let temperature = prop_oneof![Just(0.0_f32), 0.5_f32..2.0];
    (any_ask(), prop::bool::weighted(0.7), temperature, 0_usize..3).prop_map(
        |(ask, is_plain, temperature, min_new_tokens)| {
            if !is_plain {
                return ask;
            }
            let seed = ask.request.sampling.seed;
            let sampling =
                SamplingParams { temperature, seed, min_new_tokens, ..SamplingParams::default() };
            Ask { request: GenerationRequest { sampling, ..ask.request }, ..ask }
        },
    )
}

/// The request, with its gate in place of its steering if it has one.
fn bind(ask: &Ask, of_gate: Gated, lease: &SlotLease) -> GenerationRequest {
    let Some((verdict, every, from)) = of_gate else { return ask.bind(lease) };
    let steering = Steering { positions: Positions::All, strength: 2.0, ..STEERING };
    let steered = || steer(&Ask { steering: Some(steering.clone()), ..ask.clone() }, lease);
    let unsteered = GateDecision::Unsteered;
    let (about_prompt, about_answer) = match verdict {
        Verdict::Nothing => (unsteered.clone(), unsteered),
        Verdict::SteerPrompt => (steered(), unsteered),
        Verdict::SteerAnswer => (unsteered, steered()),
        Verdict::StopAnswer => (unsteered, GateDecision::Stop),
    };
    let mut script = Script::new(about_prompt);
    script.about_answer = Some((every, from, about_answer));
    gated(ask.request.clone(), &Arc::new(script))
}

fn with_rows(request: GenerationRequest) -> GenerationRequest {
    let sampling = SamplingParams { logprobs: true, ..request.sampling };
    GenerationRequest { sampling, ..request }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_tokens_that_a_pass_chooses_are_those_that_its_rows_give(
        config in any_config(),
        visits in prop::collection::vec(
            (any_request(), any_gated(), (0_usize..4, prop::option::weighted(0.2, 0_usize..6))),
            1..8,
        ),
    ) {
        let answers = |bind: &dyn Fn(&Ask, Gated, &SlotLease) -> GenerationRequest| {
            let mut engine = engine(&config);
            let lease = engine.register_vectors(&vectors()).unwrap();
            let requests = visits.iter().map(|(ask, of_gate, at)| (bind(ask, *of_gate, &lease), *at));
            let tokens = |answer: Answer| (answer.token_ids(), answer.finish);
            visit(&mut engine, requests).into_iter().map(|answer| answer.map(tokens)).collect::<Vec<_>>()
        };
        let by_rows = answers(&|ask, of_gate, lease| with_rows(bind(ask, of_gate, lease)));
        prop_assert_eq!(answers(&bind), by_rows);
    }
}
