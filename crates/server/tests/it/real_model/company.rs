//! A request's answer does not depend on the requests beside it.

use std::thread;

use serde_json::{Value, json};
use skeg_vector_store::Category;

use super::process::{Answer, Server, request, shipped_vectors};

/// Prompts of different lengths, so that prefill chunks and decode steps of different requests mix.
const QUESTIONS: [&str; 4] = [
    "Hello!",
    "Name three rivers in Europe and say where each of them ends.",
    "What is a good way to learn the names of the stars?",
    "Write two sentences about a lighthouse keeper who collects old maps, then list three things \
     that could be on his desk, each with a short reason.",
];

/// 16 requests: the 11 categories, `none`, and two categories at each of two other strengths.
fn requests() -> Vec<(String, Value)> {
    let mut requests: Vec<(String, Value)> = Category::CATQA
        .iter()
        .chain(&["none"])
        .enumerate()
        .map(|(idx, category)| ((*category).to_owned(), request(QUESTIONS[idx % 4], 16)))
        .collect();
    for (idx, category) in ["physical_harm", "fraud_deception"].iter().enumerate() {
        for (step, strength) in [0.6, 0.8].iter().enumerate() {
            let mut body = request(QUESTIONS[(idx + step) % 4], 16);
            body["steering"] = json!({ "strength": strength });
            // Sampled, not greedy: the generator belongs to the sequence too.
            body["temperature"] = json!(0.8);
            body["seed"] = json!(7 + idx);
            requests.push(((*category).to_owned(), body));
        }
    }
    requests
}

/// The part of an answer that must not change: choices with log-probabilities, usage and evidence.
fn lasting(answer: &Answer) -> (Value, Value) {
    (answer.body["choices"].clone(), answer.body["usage"].clone())
}

#[test]
fn real_model_sixteen_requests_together_answer_as_each_alone() {
    let server = Server::start(&shipped_vectors(), 16);
    let requests = requests();
    let together: Vec<Answer> = thread::scope(|scope| {
        let threads: Vec<_> = requests
            .iter()
            .map(|(category, body)| scope.spawn(|| server.ask(category, body)))
            .collect();
        threads.into_iter().map(|t| t.join().expect("no request panics")).collect()
    });
    for ((category, body), beside) in requests.iter().zip(&together) {
        assert_eq!(beside.status, 200, "{}", beside.body);
        let alone = server.ask(category, body);
        assert_eq!(lasting(&alone), lasting(beside), "{category} depends on its company");
        assert_eq!(beside.category.as_deref(), Some(category.as_str()));
        let applied = if category == "none" { "none" } else { "planned" };
        assert_eq!(beside.applied.as_deref(), Some(applied), "{category}");
        let steering = &beside.body["choices"][0]["steering"];
        assert_eq!(steering["generation"].as_str(), beside.generation.as_deref());
        if category != "none" {
            let tokens = &beside.body["usage"]["completion_tokens"];
            assert_eq!(&steering["steered_completion_tokens"], tokens, "{category}");
        }
        if let Some(strength) = body["steering"]["strength"].as_f64() {
            let applied = steering["strength"].as_f64().expect("strength is a number");
            assert!((applied - strength).abs() < 1e-6, "{category}: {applied} for {strength}");
        }
    }
}
