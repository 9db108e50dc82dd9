//! The sampler against a naive reference that follows the documented order word for word.

use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use skeg_model::sampling::{Answer, Sampled, Sampler, SamplingParams, decide};

/// The next token as a forward pass on the host gives it.
fn next(sampler: &mut Sampler, logits: &[f32], stop_token_ids: &[u32]) -> Sampled {
    let ask = sampler.ask();
    sampler.accept(decide(ask, logits), stop_token_ids).unwrap()
}

/// One token's place in the race, kept by id.
#[derive(Debug, Clone, Copy)]
struct Entry {
    token_id: u32,
    weight: f64,
}

/// Steps over one row of logits, with the sequence so far.
struct Reference<'a> {
    params: &'a SamplingParams,
    prompt: &'a [u32],
    generated: Vec<u32>,
    rng: ChaCha12Rng,
}

impl Reference<'_> {
    /// Bias, repetition, frequency and presence, stop tokens.
    fn adjusted(&self, logits: &[f32], stop_token_ids: &[u32]) -> Vec<f32> {
        let params = self.params;
        let row = (0_u32..).zip(logits).map(|(id, &logit)| {
            let count = self.generated.iter().filter(|&&seen| seen == id).count() as f32;
            let bias = params.logit_bias.iter().filter(|(biased, _)| *biased == id);
            let mut logit = bias.fold(logit, |logit, (_, bias)| logit + bias);
            if count > 0.0 || self.prompt.contains(&id) {
                let penalty = params.repetition_penalty;
                logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
            if count > 0.0 {
                logit -= params.frequency_penalty * count + params.presence_penalty;
            }
            let too_early = self.generated.len() < params.min_new_tokens;
            if too_early && stop_token_ids.contains(&id) { f32::NEG_INFINITY } else { logit }
        });
        row.collect()
    }

    /// The tokens that may be drawn, in order of ids.
    fn allowed(&self, adjusted: &[f32]) -> Vec<Entry> {
        let params = self.params;
        let max = adjusted.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut ranked: Vec<Entry> = (0_u32..)
            .zip(adjusted)
            .filter(|(_, logit)| logit.is_finite())
            .map(|(token_id, &logit)| {
                let scaled = (f64::from(logit) - f64::from(max)) / f64::from(params.temperature);
                Entry { token_id, weight: scaled.exp() }
            })
            .collect();
        // A stable sort: the lower id stays first among equals.
        ranked.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        if params.top_k > 0 {
            ranked.truncate(params.top_k);
        }
        let sum = |entries: &[Entry]| entries.iter().map(|entry| entry.weight).sum::<f64>();
        if params.top_p < 1.0 {
            let wanted = f64::from(params.top_p) * sum(&ranked);
            let enough = (1..=ranked.len()).find(|&len| sum(&ranked[..len]) >= wanted);
            ranked.truncate(enough.unwrap());
        }
        let least = f64::from(params.min_p) * ranked[0].weight;
        ranked.retain(|entry| entry.weight >= least);
        ranked.sort_by_key(|entry| entry.token_id);
        ranked
    }

    fn next(&mut self, logits: &[f32], stop_token_ids: &[u32]) -> u32 {
        let adjusted = self.adjusted(logits, stop_token_ids);
        let chosen = if self.params.temperature == 0.0 {
            let max = adjusted.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = adjusted.iter().position(|logit| logit.to_bits() == max.to_bits());
            u32::try_from(first.unwrap()).unwrap()
        } else {
            let allowed = self.allowed(&adjusted);
            let total: f64 = allowed.iter().map(|entry| entry.weight).sum();
            // 53 bits, uniform in 0..1.
            let unit = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let mut rest = unit * total;
            let passed = allowed.iter().find(|entry| {
                rest -= entry.weight;
                rest < 0.0
            });
            passed.unwrap().token_id
        };
        self.generated.push(chosen);
        chosen
    }
}

const VOCAB_SIZE: usize = 24;

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0_f32), 0.05_f32..5.0];
    let top_k = prop_oneof![Just(0_usize), 1..VOCAB_SIZE + 4];
    let top_p = prop_oneof![Just(1.0_f32), 0.001_f32..1.0];
    let min_p = prop_oneof![Just(0.0_f32), Just(1.0_f32), 0.0_f32..0.5];
    let penalties = (-2.0_f32..2.0, -2.0_f32..2.0, prop_oneof![Just(1.0_f32), 0.2_f32..3.0]);
    let penalties = prop_oneof![Just((0.0_f32, 0.0_f32, 1.0_f32)), penalties];
    let bias = prop::collection::vec((0_u32..24, -10.0_f32..10.0), 0..4);
    let bias = prop_oneof![Just(Vec::new()), bias];
    ((temperature, top_k, top_p, min_p), penalties, bias, any::<u64>(), 0_usize..6).prop_map(
        |((temperature, top_k, top_p, min_p), penalties, logit_bias, seed, min_new_tokens)| {
            SamplingParams {
                temperature,
                top_p,
                top_k,
                min_p,
                presence_penalty: penalties.0,
                frequency_penalty: penalties.1,
                repetition_penalty: penalties.2,
                logit_bias,
                seed,
                min_new_tokens,
                ..SamplingParams::default()
            }
        },
    )
}

/// Logits with equals among them: a few levels, or all different.
fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let level = (0_u8..4).prop_map(f32::from);
    prop_oneof![
        prop::collection::vec(level, VOCAB_SIZE),
        prop::collection::vec(-12.0_f32..12.0, VOCAB_SIZE),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_choice_is_the_naive_references(
        params in any_params(),
        rows in prop::collection::vec(any_logits(), 1..12),
        prompt in prop::collection::vec(0_u32..24, 0..6),
        stop_token_ids in prop::collection::vec(0_u32..24, 0..3),
    ) {
        prop_assert!(params.validate(VOCAB_SIZE).is_ok());
        let mut sampler = Sampler::new(params.clone(), &prompt);
        let mut by_rows = sampler.clone();
        let rng = ChaCha12Rng::seed_from_u64(params.seed);
        let mut reference =
            Reference { params: &params, prompt: &prompt, generated: Vec::new(), rng };
        for (step, logits) in rows.iter().enumerate() {
            let expected = reference.next(logits, &stop_token_ids);
            let chosen = next(&mut sampler, logits, &stop_token_ids).token.token_id;
            prop_assert_eq!(chosen, expected, "step {}", step);
            let by_row = by_rows.accept(Answer::Logits(logits), &stop_token_ids).unwrap();
            prop_assert_eq!(by_row.token.token_id, expected, "step {}", step);
        }
    }

    #[test]
    fn log_probabilities_are_a_log_softmax_of_the_raw_row(
        params in any_params(),
        logits in any_logits(),
        num_top_logprobs in 0_usize..=20,
    ) {
        let params = SamplingParams { logprobs: true, num_top_logprobs, ..params };
        let sampled = next(&mut Sampler::new(params, &[]), &logits, &[]);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = |id: u32| f64::from(logits[id as usize]) - sum.ln();
        for token in sampled.top.iter().chain([&sampled.token]) {
            prop_assert!((f64::from(token.logprob) - expected(token.token_id)).abs() < 1e-5);
        }
        let mut ids: Vec<u32> = (0..24).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let top: Vec<u32> = sampled.top.iter().map(|token| token.token_id).collect();
        prop_assert_eq!(&top, &ids[..num_top_logprobs]);
    }
}

/// The stream of draws is part of the interface: the same seed gives the same answer in every release.
#[test]
fn the_draws_of_a_seed_are_these() {
    let logits: Vec<f32> = (0_u8..24).map(|id| f32::from(id * 7 % 11) * 0.3).collect();
    let params = SamplingParams {
        temperature: 0.9,
        top_k: 12,
        top_p: 0.95,
        min_p: 0.05,
        frequency_penalty: 0.4,
        repetition_penalty: 1.1,
        seed: 2024,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, &[3, 5]);
    let draws: Vec<u32> =
        (0..12).map(|_| next(&mut sampler, &logits, &[]).token.token_id).collect();
    assert_eq!(draws, [17, 12, 14, 4, 3, 3, 6, 6, 9, 23, 14, 20]);
}

#[test]
fn every_range_has_both_its_ends() {
    type Change = fn(&mut SamplingParams, f32);
    let fields: [(&str, Change, &[f32], &[f32]); 6] = [
        ("temperature", |p, x| p.temperature = x, &[0.0, 100.0], &[-0.1, 100.1]),
        ("top_p", |p, x| p.top_p = x, &[1e-6, 1.0], &[0.0, 1.1]),
        ("min_p", |p, x| p.min_p = x, &[0.0, 1.0], &[-0.1, 1.1]),
        ("presence_penalty", |p, x| p.presence_penalty = x, &[-2.0, 2.0], &[-2.1, 2.1]),
        ("frequency_penalty", |p, x| p.frequency_penalty = x, &[-2.0, 2.0], &[-2.1, 2.1]),
        ("repetition_penalty", |p, x| p.repetition_penalty = x, &[0.1, 10.0], &[0.0, 10.1]),
    ];
    for (name, change, good, bad) in fields {
        let check = |value: f32| {
            let mut params = SamplingParams::default();
            change(&mut params, value);
            params.validate(VOCAB_SIZE)
        };
        assert!(good.iter().all(|&value| check(value).is_ok()), "{name}");
        for &value in bad.iter().chain(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
            let error = check(value).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(&value.to_string()), "{error}");
        }
    }
    let refusal = |params: SamplingParams| params.validate(VOCAB_SIZE).unwrap_err().to_string();
    let base = SamplingParams::default;
    assert!(refusal(SamplingParams { logit_bias: vec![(0, 101.0)], ..base() }).contains("101"));
    assert!(refusal(SamplingParams { logit_bias: vec![(0, 1.0); 301], ..base() }).contains("301"));
    assert!(refusal(SamplingParams { num_top_logprobs: 21, ..base() }).contains("21"));
}
