//! Gated requests: the verdict of a prompt's own activations, and looks at the answer.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use skeg_model::engine::{
    Engine, EngineConfig, Event, FinishReason, Gate, GateDecision, GenerationRequest,
    PromptActivations, SteeringReport,
};
use skeg_model::steering::{Positions, Site, SlotLease};
use skeg_model::{Capture, Hooks, KvCache, KvCacheDtype, PackedBatch};

use crate::engine_company::{Ask, LLAMA, Steering, engine, vectors};
use crate::engine_support::{alone, answer, request, run_to_end, submit};
use crate::tiny::tokens;

const LAYERS: [usize; 2] = [0, 2];

/// Says what it is told to say and keeps what it was shown: (generated tokens, activations).
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) site: Site,
    pub(crate) layers: Vec<usize>,
    pub(crate) mean_from: Option<usize>,
    pub(crate) about_prompt: GateDecision,
    /// After how many tokens it is asked, and what it says after how many.
    pub(crate) about_answer: Option<(usize, usize, GateDecision)>,
    pub(crate) seen: Mutex<Vec<(usize, Vec<f32>)>>,
    /// The means that it was shown.
    pub(crate) means: Mutex<Vec<Vec<f32>>>,
}

impl Script {
    pub(crate) fn new(about_prompt: GateDecision) -> Self {
        Self {
            site: Site::ResidPost,
            mean_from: None,
            layers: LAYERS.to_vec(),
            about_prompt,
            about_answer: None,
            seen: Mutex::default(),
            means: Mutex::default(),
        }
    }

    pub(crate) fn seen(&self) -> Vec<(usize, Vec<f32>)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Gate for Script {
    fn site(&self) -> Site {
        self.site
    }

    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn mean_from(&self) -> Option<usize> {
        self.mean_from
    }

    fn decide(&self, activations: PromptActivations<'_>) -> GateDecision {
        self.seen.lock().unwrap().push((0, activations.last.to_vec()));
        self.means.lock().unwrap().push(activations.mean.to_vec());
        self.about_prompt.clone()
    }

    fn recheck_every(&self) -> Option<NonZeroUsize> {
        self.about_answer.as_ref().and_then(|(every, _, _)| NonZeroUsize::new(*every))
    }

    fn recheck(&self, activations: &[f32], num_generated: usize) -> GateDecision {
        self.seen.lock().unwrap().push((num_generated, activations.to_vec()));
        match &self.about_answer {
            Some((_, from, decision)) if num_generated >= *from => decision.clone(),
            _ => GateDecision::Unsteered,
        }
    }
}

pub(crate) fn gated(request: GenerationRequest, gate: &Arc<Script>) -> GenerationRequest {
    let gate: Arc<dyn Gate> = Arc::clone(gate) as Arc<dyn Gate>;
    GenerationRequest { gate: Some(gate), ..request }
}

/// Small chunks, so that a prompt takes several steps.
pub(crate) fn configs() -> [EngineConfig; 3] {
    let config =
        EngineConfig { block_size: 4, max_num_batched_tokens: 9, ..EngineConfig::default() };
    [EngineConfig::default(), EngineConfig { enable_prefix_caching: false, ..config }, config]
}

pub(crate) const STEERING: Steering = Steering {
    vector_idx: 0,
    strength: 0.8,
    operator: skeg_model::steering::Operator::Add,
    positions: Positions::All,
};

pub(crate) fn ask(seed: u32, steering: Option<Steering>) -> Ask {
    Ask { request: request(tokens(seed, 23), 6), steering }
}

/// What the gate says to have a request steered as an [`Ask`] is.
pub(crate) fn steer(ask: &Ask, lease: &SlotLease) -> GateDecision {
    let (plan, lease) = ask.bind(lease).steering.unwrap();
    GateDecision::Steer(plan, lease)
}

/// The row of a prompt's last token by a pass of its own.
pub(crate) fn row_by_hand(token_ids: &[u32]) -> Vec<f32> {
    rows_by_hand(token_ids, (Site::ResidPost, &LAYERS)).pop().unwrap()
}

/// All rows of a prompt by a pass of its own, each `[num_layers * hidden_size]`.
pub(crate) fn rows_by_hand(token_ids: &[u32], (site, layers): (Site, &[usize])) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new(&LLAMA, 4, 32, KvCacheDtype::default()).unwrap();
    let batch = PackedBatch {
        token_ids: token_ids.to_vec(),
        positions: (0..token_ids.len()).collect(),
        cu_seqlens: vec![0, token_ids.len()],
        block_tables: vec![vec![0, 1, 2, 3]],
        logit_rows: Vec::new(),
    };
    let all = (0..token_ids.len()).collect();
    let mut capture = Capture::new(site, layers.to_vec(), all);
    let mut hooks = Hooks { steer: None, capture: Some(&mut capture) };
    LLAMA.forward(&batch, &mut cache, &mut hooks).unwrap();
    let layers = capture.take();
    let row =
        |row: usize| layers.iter().flat_map(move |(_, values)| values[row * 64..][..64].to_vec());
    (0..token_ids.len()).map(|idx| row(idx).collect()).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_harmless_prompt_is_seen_once_and_answered_as_without_a_gate() {
    for config in configs() {
        let mut engine = engine(&config);
        let plain = ask(1, None).request;
        let expected = ask(1, None).alone();
        // The second time the prompt is in the prefix cache, but for its last row.
        for _ in 0..2 {
            let gate = Arc::new(Script::new(GateDecision::Unsteered));
            assert_eq!(alone(&mut engine, gated(plain.clone(), &gate)), expected);
            let seen = gate.seen();
            assert_eq!(seen.len(), 1);
            assert_eq!(bits(&seen[0].1), bits(&row_by_hand(&plain.prompt_token_ids)));
        }
        assert_eq!(engine.stats().read().gate_unsteered, 2);
        if config.enable_prefix_caching && config.block_size == 4 {
            assert_eq!(engine.stats().read().prefix_cache_hit_tokens, 20);
        }
    }
}

#[test]
fn a_steered_verdict_gives_the_answer_of_a_request_that_came_with_its_plan() {
    for config in configs() {
        for positions in [Positions::All, Positions::Prompt, Positions::Generation] {
            let ask = ask(2, Some(Steering { positions, ..STEERING }));
            let mut engine = engine(&config);
            let lease = engine.register_vectors(&vectors()).unwrap();
            for _ in 0..2 {
                let gate = Arc::new(Script::new(steer(&ask, &lease)));
                let found = alone(&mut engine, gated(ask.request.clone(), &gate));
                assert_eq!(found, ask.alone(), "{positions:?}");
                // Not what was seen: a request that finds nothing steered in the cache is asked about the same row.
                assert_eq!(
                    bits(&gate.seen()[0].1),
                    bits(&row_by_hand(&ask.request.prompt_token_ids))
                );
            }
            assert_eq!(engine.stats().read().gate_steered, 2);
        }
    }
}

#[test]
fn what_is_not_steered_is_not_computed_again_but_for_the_rest_of_a_full_block() {
    let cases = [
        (23, true, Positions::Generation, 0.8, 1),
        (24, true, Positions::Generation, 0.8, 4), // a full block, which others may read
        (24, false, Positions::Generation, 0.8, 1),
        (24, true, Positions::All, 0.8, 24),
        (24, false, Positions::Prompt, 0.8, 24),
        (24, true, Positions::All, 0.0, 0),
    ];
    for (prompt_len, enable_prefix_caching, positions, strength, again) in cases {
        let config =
            EngineConfig { block_size: 4, enable_prefix_caching, ..EngineConfig::default() };
        let request = GenerationRequest {
            prompt_token_ids: tokens(2, prompt_len),
            max_new_tokens: 1,
            ..ask(2, None).request
        };
        let steering = Some(Steering { positions, strength, ..STEERING });
        let ask = Ask { request, steering };
        let mut engine = engine(&config);
        let lease = engine.register_vectors(&vectors()).unwrap();
        let gate = Arc::new(Script::new(steer(&ask, &lease)));
        assert_eq!(alone(&mut engine, gated(ask.request.clone(), &gate)), ask.alone());
        let stats = engine.stats().read();
        assert_eq!(stats.computed_rows, prompt_len + again, "{ask:?}");
        assert_eq!(stats.gate_recomputed_rows, again, "{ask:?}");
    }
}

#[test]
fn gated_sequences_of_every_verdict_and_others_do_not_touch_each_other() {
    for config in configs() {
        let mut engine = engine(&config);
        let lease = engine.register_vectors(&vectors()).unwrap();
        let other_site = Steering { vector_idx: 2, ..STEERING };
        let asks = [
            ask(1, None),
            ask(2, Some(STEERING)),
            ask(2, None),
            ask(3, Some(other_site)),
            ask(3, Some(Steering { positions: Positions::Generation, ..STEERING })),
            ask(1, Some(STEERING)),
        ];
        let readers: Vec<_> = asks
            .iter()
            .enumerate()
            .map(|(idx, ask)| {
                // Every second one by a gate, of which one reads elsewhere.
                let request = if idx % 2 == 0 {
                    ask.bind(&lease)
                } else {
                    let decision = match &ask.steering {
                        Some(_) => steer(ask, &lease),
                        None => GateDecision::Unsteered,
                    };
                    let mut script = Script::new(decision);
                    if idx == 3 {
                        (script.site, script.layers) = (Site::AttnOut, vec![1]);
                    }
                    gated(ask.request.clone(), &Arc::new(script))
                };
                submit(&mut engine, request).1
            })
            .collect();
        run_to_end(&mut engine);
        for (ask, reader) in asks.iter().zip(&readers) {
            assert_eq!(answer(reader), ask.alone(), "{ask:?}");
        }
    }
}

#[test]
fn a_preempted_gated_sequence_keeps_its_verdict() {
    // Room for one and a half of the two.
    let config = EngineConfig {
        block_size: 4,
        kv_cache_tokens: 52,
        enable_prefix_caching: false,
        ..EngineConfig::default()
    };
    let mut engine = engine(&config);
    let lease = engine.register_vectors(&vectors()).unwrap();
    let long =
        |ask: Ask| Ask { request: GenerationRequest { max_new_tokens: 20, ..ask.request }, ..ask };
    let (first, second) = (long(ask(1, None)), long(ask(2, Some(STEERING))));
    let gates = [
        Arc::new(Script::new(GateDecision::Unsteered)),
        Arc::new(Script::new(steer(&second, &lease))),
    ];
    let readers = [&first, &second]
        .into_iter()
        .zip(&gates)
        .map(|(ask, gate)| submit(&mut engine, gated(ask.request.clone(), gate)).1)
        .collect::<Vec<_>>();
    run_to_end(&mut engine);
    assert!(engine.stats().read().preemptions > 0);
    assert_eq!(answer(&readers[0]), first.alone());
    assert_eq!(answer(&readers[1]), second.alone());
    assert!(gates.iter().all(|gate| gate.seen().len() == 1));
}

#[test]
fn stopped_by_its_gate_a_sequence_has_no_token() {
    let mut engine = engine(&EngineConfig::default());
    let gate = Arc::new(Script::new(GateDecision::Stop));
    let (_, reader) = submit(&mut engine, gated(ask(1, None).request, &gate));
    run_to_end(&mut engine);
    let events = reader.read();
    let [Event::Finished(finish)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (finish.reason, finish.completion_tokens, finish.steering),
        (FinishReason::Gated, 0, SteeringReport::default())
    );
    let stats = engine.stats().read();
    assert_eq!((stats.gate_stopped, stats.num_held_blocks), (1, 0));
}

#[test]
fn a_plan_that_cannot_be_applied_fails_the_sequence() {
    let mut engine = engine(&EngineConfig::default());
    let lease = engine.register_vectors(&vectors()).unwrap();
    let (mut plan, lease) = ask(1, Some(STEERING)).bind(&lease).steering.unwrap();
    plan.slot_by_layer.pop();
    let gate = Arc::new(Script::new(GateDecision::Steer(plan, lease)));
    let (_, reader) = submit(&mut engine, gated(ask(1, None).request, &gate));
    run_to_end(&mut engine);
    let events = reader.read();
    assert!(
        matches!(&events[..], [Event::Failed(reason)] if reason.contains("the gate's plan cannot be applied")),
        "{events:?}"
    );

    // In mid-answer there is no prompt left to steer.
    let lease = engine.register_vectors(&vectors()).unwrap();
    let ask = ask(4, Some(Steering { positions: Positions::Prompt, ..STEERING }));
    let mut script = Script::new(GateDecision::Unsteered);
    script.about_answer = Some((2, 2, steer(&ask, &lease)));
    let (_, reader) = submit(&mut engine, gated(ask.request, &Arc::new(script)));
    run_to_end(&mut engine);
    let events = reader.read();
    assert!(
        matches!(&events[..], [Event::Token { .. }, Event::Token { .. }, Event::Failed(reason)] if reason.contains("the answer has begun")),
        "{events:?}"
    );
}

#[test]
fn a_gate_that_reads_what_is_not_there_is_refused_and_so_is_one_beside_a_plan() {
    let mut engine = engine(&EngineConfig::default());
    let lease = engine.register_vectors(&vectors()).unwrap();
    let mut refused = |request: GenerationRequest, expected: &str| {
        let (sink, _reader) = crate::engine_support::sink(request.max_new_tokens);
        let error = engine.submit(request, sink).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    for layers in [vec![], vec![3], vec![2, 0], vec![1, 1]] {
        let script = Script { layers, ..Script::new(GateDecision::Unsteered) };
        refused(
            gated(ask(1, None).request, &Arc::new(script)),
            "expected at least one of the model's 3",
        );
    }
    let script = Script { mean_from: Some(23), ..Script::new(GateDecision::Unsteered) };
    refused(gated(ask(1, None).request, &Arc::new(script)), "from row 23 on; the prompt has 23");
    let gate = Arc::new(Script::new(GateDecision::Unsteered));
    refused(gated(ask(1, Some(STEERING)).bind(&lease), &gate), "a plan and a gate");
}
