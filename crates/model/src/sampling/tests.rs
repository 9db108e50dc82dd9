//! The sampler against naive references.

use proptest::prelude::*;

use super::{Answer, Ask, Filter, Sampled, Sampler, SamplingParams, StepOutput, decide};

fn greedy() -> SamplingParams {
    SamplingParams::default()
}

fn warm(seed: u64) -> SamplingParams {
    SamplingParams { temperature: 1.0, seed, ..greedy() }
}

/// The next token as a forward pass on the host gives it.
fn next(sampler: &mut Sampler, logits: &[f32], stop_token_ids: &[u32]) -> Result<Sampled, String> {
    let ask = sampler.ask();
    sampler.accept(decide(ask, logits), stop_token_ids)
}

fn next_id(sampler: &mut Sampler, logits: &[f32]) -> u32 {
    next(sampler, logits, &[]).unwrap().token.token_id
}

fn choose(params: SamplingParams, logits: &[f32]) -> u32 {
    next_id(&mut Sampler::new(params, &[]), logits)
}

/// Ids that `params` lets through, found by drawing often.
fn reachable(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> =
        (0..400).map(|seed| choose(SamplingParams { seed, ..params.clone() }, logits)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    assert_eq!(choose(greedy(), &[0.5, 2.0, 2.0, 1.0]), 1);
}

#[test]
fn a_logit_that_is_not_finite_is_an_error_that_names_it_where_the_row_is_there() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let row = [0.0, value];
        let error = Sampler::new(greedy(), &[]).accept(Answer::Logits(&row), &[]).unwrap_err();
        assert!(error.contains("token 1"), "{error}");
        for params in [greedy(), warm(1)] {
            let error = next(&mut Sampler::new(params, &[]), &row, &[]).unwrap_err();
            assert!(error.contains("not a finite number"), "{error}");
        }
    }
}

#[test]
fn each_filter_keeps_what_it_says() {
    // Probabilities 0.5, 0.3, 0.15, 0.05 in shuffled order of ids.
    let logits: Vec<f32> = [0.15_f32, 0.5, 0.05, 0.3].iter().map(|p| p.ln()).collect();
    let with = |change: &dyn Fn(&mut SamplingParams)| {
        let mut params = warm(0);
        change(&mut params);
        reachable(&params, &logits)
    };
    assert_eq!(with(&|_| ()), [0, 1, 2, 3]);
    assert_eq!(with(&|params| params.top_k = 2), [1, 3]);
    assert_eq!(with(&|params| params.top_p = 0.79), [1, 3]);
    assert_eq!(with(&|params| params.top_p = 0.81), [0, 1, 3]);
    assert_eq!(with(&|params| params.min_p = 0.2), [0, 1, 3]);
    // top-p works on what top-k left: 0.5 of 0.8 is 0.625.
    assert_eq!(
        with(&|params| {
            params.top_k = 2;
            params.top_p = 0.6;
        }),
        [1]
    );
}

#[test]
fn the_share_of_draws_follows_the_temperature() {
    let logits = [2.0_f32.ln(), 0.0];
    let share = |temperature: f32| {
        let mut sampler = Sampler::new(SamplingParams { temperature, ..warm(3) }, &[]);
        let first = (0..4000).filter(|_| next_id(&mut sampler, &logits) == 0).count();
        f64::from(u32::try_from(first).unwrap()) / 4000.0
    };
    assert!((share(1.0) - 2.0 / 3.0).abs() < 0.03);
    assert!((share(0.5) - 4.0 / 5.0).abs() < 0.03);
}

#[test]
fn penalties_follow_their_formulas() {
    // Token 0 leads by 1; what pushes it below token 1 is the penalty under test.
    let logits = [2.0, 1.0];
    let second = |params: SamplingParams| {
        let mut sampler = Sampler::new(params, &[]);
        next_id(&mut sampler, &logits);
        next_id(&mut sampler, &logits)
    };
    assert_eq!(second(greedy()), 0);
    assert_eq!(second(SamplingParams { presence_penalty: 1.5, ..greedy() }), 1);
    assert_eq!(second(SamplingParams { frequency_penalty: 0.5, ..greedy() }), 0);
    assert_eq!(second(SamplingParams { frequency_penalty: 1.5, ..greedy() }), 1);
    assert_eq!(second(SamplingParams { repetition_penalty: 2.5, ..greedy() }), 1);
    let params = SamplingParams { repetition_penalty: 2.5, ..greedy() };
    let mut seen_in_prompt = Sampler::new(params, &[0]);
    assert_eq!(next_id(&mut seen_in_prompt, &logits), 1);
}

#[test]
fn bias_and_minimum_length_come_before_the_choice() {
    let params = SamplingParams { logit_bias: vec![(2, 50.0)], ..greedy() };
    assert_eq!(choose(params, &[1.0, 2.0, 0.0]), 2);
    let params = SamplingParams { min_new_tokens: 1, ..greedy() };
    let mut sampler = Sampler::new(params, &[]);
    assert_eq!(next(&mut sampler, &[1.0, 5.0], &[1]).unwrap().token.token_id, 0);
    assert_eq!(next(&mut sampler, &[1.0, 5.0], &[1]).unwrap().token.token_id, 1);
}

#[test]
fn log_probabilities_are_of_the_raw_logits() {
    let params = SamplingParams {
        logprobs: true,
        num_top_logprobs: 2,
        logit_bias: vec![(2, 50.0)],
        ..greedy()
    };
    let logits: Vec<f32> = [0.2_f32, 0.7, 0.1].iter().map(|p| p.ln() + 3.0).collect();
    let sampled = next(&mut Sampler::new(params, &[]), &logits, &[]).unwrap();
    assert_eq!(sampled.token.token_id, 2);
    assert!((sampled.token.logprob - 0.1_f32.ln()).abs() < 1e-5);
    let top: Vec<u32> = sampled.top.iter().map(|token| token.token_id).collect();
    assert_eq!(top, [1, 0]);
}

#[test]
fn forced_tokens_are_taken_with_the_model_s_log_probabilities_and_then_it_chooses() {
    let params = SamplingParams { logprobs: true, forced_token_ids: vec![2, 0], ..warm(7) };
    let logits: Vec<f32> = [0.2_f32, 0.7, 0.1].iter().map(|p| p.ln() + 3.0).collect();
    let mut sampler = Sampler::new(SamplingParams { temperature: 0.0, ..params }, &[]);
    for (token_id, probability) in [(2, 0.1_f32), (0, 0.2), (1, 0.7), (1, 0.7)] {
        let token = next(&mut sampler, &logits, &[]).unwrap().token;
        assert_eq!(token.token_id, token_id);
        assert!((token.logprob - probability.ln()).abs() < 1e-5);
    }
}

#[test]
fn numbers_out_of_range_are_named() {
    let refusal = |params: SamplingParams| params.validate(10).unwrap_err().to_string();
    assert!(refusal(SamplingParams { top_p: 0.0, ..greedy() }).contains("top_p"));
    assert!(refusal(SamplingParams { temperature: f32::NAN, ..greedy() }).contains("temperature"));
    assert!(refusal(SamplingParams { logit_bias: vec![(10, 1.0)], ..greedy() }).contains("10"));
    let forced = SamplingParams { forced_token_ids: vec![10], ..greedy() };
    assert!(refusal(forced).contains("forced token 10"));
    assert!(greedy().validate(10).is_ok());
}

#[test]
fn a_token_is_asked_for_where_nothing_changes_the_row() {
    let ask = |change: &dyn Fn(&mut SamplingParams), temperature: f32| {
        let mut params = SamplingParams { temperature, ..greedy() };
        change(&mut params);
        Sampler::new(params, &[0]).ask()
    };
    let unchanged: [&dyn Fn(&mut SamplingParams); 3] =
        [&|_| (), &|params| params.seed = 9, &|params| params.ignore_eos = true];
    for change in unchanged {
        assert_eq!(ask(change, 0.0), Ask::Greedy);
        let drawn = ask(change, 0.7);
        assert!(
            matches!(drawn, Ask::Draw { temperature: 0.7, unit } if (0.0..1.0).contains(&unit))
        );
    }
    let all = Filter { top_k: 0, top_p: 1.0, min_p: 0.0 };
    let filters: [&dyn Fn(&mut SamplingParams); 3] =
        [&|params| params.top_k = 3, &|params| params.top_p = 0.9, &|params| params.min_p = 0.1];
    let expected =
        [Filter { top_k: 3, ..all }, Filter { top_p: 0.9, ..all }, Filter { min_p: 0.1, ..all }];
    for (change, expected) in filters.into_iter().zip(expected) {
        assert_eq!(ask(change, 0.0), Ask::Greedy, "the most likely passes every filter");
        let Ask::Filtered { temperature: 0.7, unit, filter } = ask(change, 0.7) else {
            panic!("it asks {:?}", ask(change, 0.7));
        };
        assert!((0.0..1.0).contains(&unit) && filter == expected, "{unit}, {filter:?}");
    }
    let others: [&dyn Fn(&mut SamplingParams); 7] = [
        &|params| params.logprobs = true,
        &|params| params.logit_bias = vec![(0, 1.0)],
        &|params| params.presence_penalty = 0.1,
        &|params| params.frequency_penalty = -0.1,
        &|params| params.repetition_penalty = 1.1,
        &|params| params.min_new_tokens = 1,
        &|params| params.forced_token_ids = vec![1],
    ];
    for change in others {
        assert_eq!([ask(change, 0.0), ask(change, 0.7)], [Ask::Logits; 2]);
    }
}

#[test]
fn a_token_is_asked_for_once_the_forced_ones_and_the_shortest_answer_are_there() {
    let params = SamplingParams { forced_token_ids: vec![2, 0], min_new_tokens: 3, ..greedy() };
    let mut sampler = Sampler::new(params, &[]);
    for expected in [Ask::Logits, Ask::Logits, Ask::Logits, Ask::Greedy] {
        let ask = sampler.ask();
        assert_eq!(ask, expected);
        sampler.accept(decide(ask, &[0.1, 0.2, 0.3]), &[]).unwrap();
    }
}

#[test]
fn a_step_answers_each_ask_from_its_own_row() {
    let asks = [
        Ask::Greedy,
        Ask::Logits,
        Ask::Draw { temperature: 1.0, unit: 0.0 },
        Ask::Logits,
        Ask::Draw { temperature: 1.0, unit: 1.0 - f64::EPSILON },
        Ask::Greedy,
        Ask::Filtered {
            temperature: 1.0,
            unit: 0.99,
            filter: Filter { top_k: 1, top_p: 1.0, min_p: 0.0 },
        },
    ];
    let mut logits: Vec<f32> = (0_u8..21).map(f32::from).collect();
    logits[16] = f32::NAN;
    let output = StepOutput::of_rows(&asks, logits.clone(), 3);
    let answers: Vec<Answer<'_>> = output.answers().collect();
    let expected = [
        Answer::Token { id: 2, is_finite: true },
        Answer::Logits(&logits[3..6]),
        Answer::Token { id: 0, is_finite: true },
        Answer::Logits(&logits[9..12]),
        Answer::Token { id: 2, is_finite: true },
        Answer::Token { id: 0, is_finite: false },
        Answer::Token { id: 2, is_finite: true },
    ];
    assert_eq!(answers, expected);
}

/// Sampling of which most asks for tokens, and some for rows.
fn any_params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0_f32), 0.05_f32..5.0];
    let seldom = |weight| prop::bool::weighted(weight);
    let others = (seldom(0.2), seldom(0.2), seldom(0.4), seldom(0.2));
    (temperature, any::<u64>(), others, 0_usize..3, 0_usize..3).prop_map(
        |(temperature, seed, (biased, penalised, filtered, logprobs), num_forced, least)| {
            SamplingParams {
                temperature,
                seed,
                logit_bias: if biased { vec![(1, 4.0)] } else { Vec::new() },
                frequency_penalty: if penalised { 1.5 } else { 0.0 },
                repetition_penalty: if penalised { 1.2 } else { 1.0 },
                top_k: if filtered { 3 } else { 0 },
                top_p: if filtered { 0.9 } else { 1.0 },
                min_p: if filtered { 0.05 } else { 0.0 },
                forced_token_ids: vec![1; num_forced],
                min_new_tokens: least,
                logprobs,
                num_top_logprobs: 2,
                ..greedy()
            }
        },
    )
}

/// Rows with all different, with equals, all equal, far apart, and a few that are not finite.
fn any_row(vocab_size: usize) -> impl Strategy<Value = Vec<f32>> {
    let of = |logit: BoxedStrategy<f32>| prop::collection::vec(logit, vocab_size);
    let level = (0_u8..3).prop_map(f32::from);
    let broken = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)];
    prop_oneof![
        6 => of((-12.0_f32..12.0).boxed()),
        4 => of(level.boxed()),
        2 => (-1e30_f32..1e30).prop_map(move |logit| vec![logit; vocab_size]),
        2 => of((-3e38_f32..3e38).boxed()),
        1 => (of((-12.0_f32..12.0).boxed()), 0..vocab_size, broken).prop_map(|(mut row, at, value)| {
            row[at] = value;
            row
        }),
    ]
}

fn any_rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
    (2_usize..200).prop_flat_map(|vocab_size| prop::collection::vec(any_row(vocab_size), 1..8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Which of the rows are asked nothing is any: a row is also looked at as it is where a gate is asked first.
    #[test]
    fn a_token_that_was_asked_for_is_the_one_that_the_row_gives(
        params in any_params(),
        rows in any_rows(),
        asked in prop::collection::vec(any::<bool>(), 8),
        stop_token_ids in prop::collection::vec(0_u32..4, 0..3),
    ) {
        let mut by_rows = Sampler::new(params, &[1, 0]);
        let mut by_asks = by_rows.clone();
        for (row, asked) in rows.iter().zip(asked) {
            let expected = by_rows.accept(Answer::Logits(row), &stop_token_ids);
            let ask = if asked { by_asks.ask() } else { Ask::Logits };
            let found = by_asks.accept(decide(ask, row), &stop_token_ids);
            if expected.is_err() {
                prop_assert!(found.is_err());
                break;
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(&by_asks, &by_rows);
        }
    }

    #[test]
    fn the_draw_is_among_the_most_likely_k_and_repeats_with_its_seed(
        logits in prop::collection::vec(-8.0_f32..8.0, 2..40),
        seed: u64,
        top_k in 1_usize..6,
    ) {
        let params = SamplingParams { top_k, top_p: 0.9, ..warm(seed) };
        let chosen = choose(params.clone(), &logits);
        prop_assert_eq!(choose(params, &logits), chosen);
        let larger = logits.iter().filter(|&&logit| logit > logits[chosen as usize]).count();
        prop_assert!(larger < top_k);
    }
}
