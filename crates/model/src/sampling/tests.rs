//! The sampler against naive references.

use proptest::prelude::*;

use super::{Sampler, SamplingParams};

fn greedy() -> SamplingParams {
    SamplingParams::default()
}

fn warm(seed: u64) -> SamplingParams {
    SamplingParams { temperature: 1.0, seed, ..greedy() }
}

fn choose(params: SamplingParams, logits: &[f32]) -> u32 {
    Sampler::new(params, &[]).sample(logits, &[]).unwrap().token.token_id
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
fn a_logit_that_is_not_finite_is_an_error_that_names_it() {
    let error = Sampler::new(greedy(), &[]).sample(&[0.0, f32::NAN], &[]).unwrap_err();
    assert!(error.contains("token 1"), "{error}");
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
        let first =
            (0..4000).filter(|_| sampler.sample(&logits, &[]).unwrap().token.token_id == 0).count();
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
        sampler.sample(&logits, &[]).unwrap();
        sampler.sample(&logits, &[]).unwrap().token.token_id
    };
    assert_eq!(second(greedy()), 0);
    assert_eq!(second(SamplingParams { presence_penalty: 1.5, ..greedy() }), 1);
    assert_eq!(second(SamplingParams { frequency_penalty: 0.5, ..greedy() }), 0);
    assert_eq!(second(SamplingParams { frequency_penalty: 1.5, ..greedy() }), 1);
    assert_eq!(second(SamplingParams { repetition_penalty: 2.5, ..greedy() }), 1);
    let params = SamplingParams { repetition_penalty: 2.5, ..greedy() };
    let mut seen_in_prompt = Sampler::new(params, &[0]);
    assert_eq!(seen_in_prompt.sample(&logits, &[]).unwrap().token.token_id, 1);
}

#[test]
fn bias_and_minimum_length_come_before_the_choice() {
    let params = SamplingParams { logit_bias: vec![(2, 50.0)], ..greedy() };
    assert_eq!(choose(params, &[1.0, 2.0, 0.0]), 2);
    let params = SamplingParams { min_new_tokens: 1, ..greedy() };
    let mut sampler = Sampler::new(params, &[]);
    assert_eq!(sampler.sample(&[1.0, 5.0], &[1]).unwrap().token.token_id, 0);
    assert_eq!(sampler.sample(&[1.0, 5.0], &[1]).unwrap().token.token_id, 1);
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
    let sampled = Sampler::new(params, &[]).sample(&logits, &[]).unwrap();
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
        let token = sampler.sample(&logits, &[]).unwrap().token;
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

proptest! {
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
