//! Many requests at once on the real model, each against the same request sent alone.

use std::sync::Arc;

use skeg_model::engine::{
    EngineConfig, EngineHandle, EngineThread, GenerationRequest, LlamaEngine,
};
use skeg_model::steering::{Site, SlotLease, SteeringVector};
use skeg_model::{ChatMessage, ChatTemplate, Llama, LoadOptions, LoadedModel, Tokenizer};

use crate::engine_support::{Answer, Reader, answer_from, plan, request, sink, vector};
use crate::support::test_model;

const NUM_CATEGORIES: usize = 11;
/// Layers 8 to 19: those the method steers on this model.
const FIRST_LAYER: usize = 8;
const END_LAYER: usize = 20;
const MAX_NEW_TOKENS: usize = 12;
const NUM_REQUESTS: usize = 16;

const QUESTIONS: [&str; 4] = [
    "What is the capital of France?",
    "Write one sentence about the sea, and one about the mountains that stand behind it.",
    "Name three fruits.",
    "Why is the sky blue? Explain it to a child of seven who has never heard of light waves.",
];

/// The model's text half, and eleven vectors of about the size of a mean difference in these layers.
struct Fixture {
    tokenizer: Tokenizer,
    chat_template: ChatTemplate,
    stop_token_ids: Vec<u32>,
    num_hidden_layers: usize,
    vectors: Vec<SteeringVector>,
}

impl Fixture {
    fn load() -> (Self, Llama) {
        let model = LoadedModel::load(&test_model(), &LoadOptions::default()).unwrap();
        let config = model.llama.config();
        let layers: Vec<usize> = (FIRST_LAYER..END_LAYER).collect();
        let vectors = (0..NUM_CATEGORIES).map(|category| {
            let seed = 0.1 + category as f32;
            let mut vector = vector(Site::AttnOut, config.hidden_size, &layers, seed);
            for value in vector.layers.iter_mut().flat_map(|row| &mut row.values) {
                *value *= 0.2;
            }
            vector
        });
        let fixture = Self {
            vectors: vectors.collect(),
            num_hidden_layers: config.num_hidden_layers,
            tokenizer: model.tokenizer,
            chat_template: model.chat_template.expect("the model's chat template"),
            stop_token_ids: model.stop_token_ids,
        };
        (fixture, model.llama)
    }

    /// Request `idx`: the categories in turn, with one of two strengths; every sixth unsteered; every
    /// other drawn with a seed of its own.
    fn request(&self, idx: usize, lease: &SlotLease) -> GenerationRequest {
        let content = QUESTIONS[idx % QUESTIONS.len()].to_owned();
        let message = ChatMessage { role: "user".to_owned(), content };
        let prompt = self.chat_template.render(&[message], true).unwrap();
        let prompt = self.tokenizer.encode(&prompt, false).unwrap();
        let mut request = request(prompt, MAX_NEW_TOKENS);
        request.stop_token_ids.clone_from(&self.stop_token_ids);
        if idx % 2 == 1 {
            request.sampling.temperature = 0.8;
            request.sampling.top_p = 0.95;
            request.sampling.seed = idx as u64;
        }
        if idx % 6 != 5 {
            let category = idx % NUM_CATEGORIES;
            let strength = if idx % 4 < 2 { 0.7 } else { 1.0 };
            let vector = &self.vectors[category];
            let plan = plan(vector, lease, category, strength, self.num_hidden_layers);
            request.steering = Some((plan, lease.clone()));
        }
        request
    }
}

fn submit(handle: &EngineHandle, request: GenerationRequest) -> Reader {
    let (sink, reader) = sink(request.max_new_tokens);
    handle.submit(request, sink).unwrap();
    reader
}

fn wait_for(reader: &Reader) -> Answer {
    answer_from(std::iter::from_fn(|| reader.wait()).collect())
}

#[test]
fn real_model_answers_of_sixteen_at_once_are_bitwise_those_of_each_alone() {
    let (fixture, llama) = Fixture::load();
    let config = EngineConfig {
        max_num_seqs: NUM_REQUESTS,
        max_num_batched_tokens: 128, // prompts are cut, and mix with decode steps
        kv_cache_tokens: 4096,
        ..EngineConfig::default()
    };
    let engine = LlamaEngine::new(Arc::new(llama), &config).unwrap();
    let (thread, handle) = EngineThread::spawn(Box::new(engine), NUM_REQUESTS, || ()).unwrap();
    let lease = handle.register_vectors(fixture.vectors.clone()).unwrap();
    let requests: Vec<_> = (0..NUM_REQUESTS).map(|idx| fixture.request(idx, &lease)).collect();

    let readers: Vec<Reader> =
        requests.iter().map(|request| submit(&handle, request.clone())).collect();
    let together: Vec<Answer> = readers.iter().map(wait_for).collect();
    for (idx, (request, together)) in requests.iter().zip(&together).enumerate() {
        let alone = wait_for(&submit(&handle, request.clone()));
        assert_eq!(*together, alone, "request {idx}");
        let steered = together.finish.steering.steered_completion_tokens;
        let expected = if request.steering.is_some() { alone.tokens.len() } else { 0 };
        assert_eq!(steered, expected, "request {idx}");
    }
    let unsteered = GenerationRequest { steering: None, ..requests[0].clone() };
    let unsteered = wait_for(&submit(&handle, unsteered));
    assert_ne!(unsteered.tokens, together[0].tokens, "the vectors do nothing");
    handle.drain();
    assert!(thread.join());
}
