//! A request's answer, bit for bit, in any company: sites, operators, samplings, limits, hang-ups.

use std::sync::{Arc, LazyLock};

use candle_core::DType;
use proptest::prelude::*;
use skeg_model::Llama;
use skeg_model::engine::{Engine, EngineConfig, GenerationRequest, LlamaEngine};
use skeg_model::sampling::SamplingParams;
use skeg_model::steering::{Operator, Positions, Site, SlotLease, SteeringPlan, SteeringVector};
use skeg_model::testing::{RandomWeights, random_llama, random_llama_on_device, tiny_config};

use crate::engine_support::{Answer, alone, answer, plan, request, run_to_end, submit, vector};
use crate::tiny::tokens;

pub(crate) static LLAMA: LazyLock<Arc<Llama>> = LazyLock::new(|| {
    Arc::new(random_llama(tiny_config(), 7, RandomWeights::Dense(DType::F32)).unwrap())
});

/// The same model, run by the pass of a GPU.
static DEVICE_LLAMA: LazyLock<Arc<Llama>> = LazyLock::new(|| {
    let form = RandomWeights::Dense(DType::F32);
    Arc::new(random_llama_on_device(tiny_config(), 7, form).unwrap())
});

/// Every model whose answers must not depend on their company.
fn llamas() -> [&'static Arc<Llama>; 2] {
    [&LLAMA, &DEVICE_LLAMA]
}

pub(crate) fn engine(config: &EngineConfig) -> LlamaEngine {
    engine_of(&LLAMA, config)
}

pub(crate) fn engine_of(llama: &Arc<Llama>, config: &EngineConfig) -> LlamaEngine {
    LlamaEngine::new(Arc::clone(llama), config).unwrap()
}

/// Vectors of both sites, for all layers and for some.
pub(crate) fn vectors() -> Vec<SteeringVector> {
    vec![
        vector(Site::AttnOut, 64, &[0, 1, 2], 0.7),
        vector(Site::AttnOut, 64, &[1], 0.9),
        vector(Site::ResidPost, 64, &[0, 2], 0.3),
    ]
}

/// A request as it is before vectors have slots.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) request: GenerationRequest,
    pub(crate) steering: Option<Steering>,
}

#[derive(Debug, Clone)]
pub(crate) struct Steering {
    pub(crate) vector_idx: usize,
    pub(crate) strength: f32,
    pub(crate) operator: Operator,
    pub(crate) positions: Positions,
}

impl Ask {
    pub(crate) fn bind(&self, lease: &SlotLease) -> GenerationRequest {
        let steering = self.steering.as_ref().map(|steering| {
            let idx = steering.vector_idx;
            let plan = plan(&vectors()[idx], lease, idx, steering.strength, 3);
            let plan =
                SteeringPlan { operator: steering.operator, positions: steering.positions, ..plan };
            (plan, lease.clone())
        });
        GenerationRequest { steering, ..self.request.clone() }
    }

    /// The answer in an engine of its own, whole prompt in one step, nothing from a cache.
    pub(crate) fn alone(&self) -> Answer {
        self.alone_on(&LLAMA)
    }

    fn alone_on(&self, llama: &Arc<Llama>) -> Answer {
        let config = EngineConfig { enable_prefix_caching: false, ..EngineConfig::default() };
        let mut engine = engine_of(llama, &config);
        let lease = engine.register_vectors(&vectors()).unwrap();
        alone(&mut engine, self.bind(&lease))
    }
}

fn any_sampling() -> impl Strategy<Value = SamplingParams> {
    let warmth = prop_oneof![Just(0.0_f32), 0.5_f32..2.0];
    let filters = (prop_oneof![Just(0_usize), 1_usize..20], 0.3_f32..=1.0, 0.0_f32..0.3);
    let penalties = (-1.0_f32..1.0, -1.0_f32..1.0, 0.8_f32..1.5);
    (warmth, filters, penalties, any::<u64>(), 0_usize..4).prop_map(
        |(temperature, (top_k, top_p, min_p), (presence, frequency, repetition), seed, min)| {
            SamplingParams {
                temperature,
                top_p,
                top_k,
                min_p,
                presence_penalty: presence,
                frequency_penalty: frequency,
                repetition_penalty: repetition,
                seed,
                min_new_tokens: min,
                logprobs: true,
                num_top_logprobs: 2,
                ..SamplingParams::default()
            }
        },
    )
}

fn any_steering() -> impl Strategy<Value = Steering> {
    let operator = prop_oneof![
        Just(Operator::Add),
        Just(Operator::AddNormRestored),
        Just(Operator::ProjectOut)
    ];
    let positions =
        prop_oneof![Just(Positions::All), Just(Positions::Prompt), Just(Positions::Generation)];
    (0_usize..3, -2.0_f32..2.0, operator, positions).prop_map(
        |(vector_idx, strength, operator, positions)| Steering {
            vector_idx,
            strength,
            operator,
            positions,
        },
    )
}

pub(crate) fn any_ask() -> impl Strategy<Value = Ask> {
    let steering = prop::option::weighted(0.7, any_steering());
    (0_u32..1000, 1_usize..40, 1_usize..9, any_sampling(), steering).prop_map(
        |(seed, prompt_len, max_new_tokens, sampling, steering)| {
            let request = request(tokens(seed, prompt_len), max_new_tokens);
            // One id in eight stops, so that answers end in both ways.
            let stop_token_ids = (0..128).step_by(8).collect();
            Ask { request: GenerationRequest { sampling, stop_token_ids, ..request }, steering }
        },
    )
}

pub(crate) fn any_config() -> impl Strategy<Value = EngineConfig> {
    (1_usize..6, 0_usize..30, 1_usize..9, 60_usize..200, 0_usize..3).prop_map(
        |(max_num_seqs, beyond, block_size, kv_cache_tokens, interval)| EngineConfig {
            max_num_seqs,
            max_num_batched_tokens: max_num_seqs + beyond,
            block_size,
            kv_cache_tokens,
            projection_sample_interval: interval,
            ..EngineConfig::default()
        },
    )
}

/// When a request comes, in steps after the one before, and when its reader leaves, in steps after it came.
pub(crate) type Visit = (usize, Option<usize>);

/// Runs the requests through one engine; `None` for those whose readers left.
pub(crate) fn in_company_of(
    engine: &mut LlamaEngine,
    asks: &[(Ask, Visit)],
) -> Vec<Option<Answer>> {
    let lease = engine.register_vectors(&vectors()).unwrap();
    visit(engine, asks.iter().map(|(ask, visit)| (ask.bind(&lease), *visit)))
}

/// Runs requests through an engine; `None` for those whose readers left.
pub(crate) fn visit(
    engine: &mut LlamaEngine,
    requests: impl Iterator<Item = (GenerationRequest, Visit)>,
) -> Vec<Option<Answer>> {
    let mut readers = Vec::new();
    for (request, (steps_before, patience)) in requests {
        for _ in 0..steps_before {
            step(engine, &mut readers);
        }
        let (_, reader) = submit(engine, request);
        readers.push((Some(reader), patience));
    }
    while engine.num_unfinished() > 0 {
        step(engine, &mut readers);
    }
    run_to_end(engine);
    readers.iter().map(|(reader, _)| reader.as_ref().map(answer)).collect()
}

/// One step, before which impatient readers leave.
fn step(
    engine: &mut LlamaEngine,
    readers: &mut [(Option<crate::engine_support::Reader>, Option<usize>)],
) {
    let leaves_events = readers.len() % 2 == 1;
    for (reader, patience) in readers {
        match patience {
            Some(0) => *reader = None,
            Some(steps) => *steps -= 1,
            None => {}
        }
    }
    // A step may leave its events to the next one's pass.
    let outcome = if leaves_events { engine.step_ahead() } else { engine.step() };
    outcome.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tokens_and_logprobs_are_bitwise_those_of_the_request_alone(
        config in any_config(),
        asks in prop::collection::vec(
            (any_ask(), (0_usize..4, prop::option::weighted(0.25, 0_usize..6))),
            1..8,
        ),
    ) {
        for llama in llamas() {
            let answers = in_company_of(&mut engine_of(llama, &config), &asks);
            for ((ask, _), answer) in asks.iter().zip(answers) {
                if let Some(answer) = answer {
                    prop_assert_eq!(answer, ask.alone_on(llama), "{:?} in {:?}", ask, config);
                }
            }
        }
    }
}

#[test]
fn a_long_prompt_is_answered_the_same_however_it_is_cut() {
    let steering = Steering {
        vector_idx: 2,
        strength: 0.8,
        operator: Operator::AddNormRestored,
        positions: Positions::Generation,
    };
    let plain = Ask { request: request(tokens(3, 120), 6), steering: None };
    let steered = Ask { steering: Some(steering), ..plain.clone() };
    assert_ne!(plain.alone().tokens, steered.alone().tokens, "the vector does nothing here");
    for (llama, max_num_batched_tokens) in llamas()
        .into_iter()
        .flat_map(|llama| [2, 3, 7, 16, 33, 119, 120, 240].map(|most| (llama, most)))
    {
        let config =
            EngineConfig { max_num_seqs: 2, max_num_batched_tokens, ..EngineConfig::default() };
        let both = [(plain.clone(), (0, None)), (steered.clone(), (0, None))];
        let expected = [Some(plain.alone_on(llama)), Some(steered.alone_on(llama))];
        let answers = in_company_of(&mut engine_of(llama, &config), &both);
        assert_eq!(answers, expected, "{max_num_batched_tokens} rows a step");
    }
}
