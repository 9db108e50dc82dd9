//! Answers to prompts that were found harmless, looked at while they are generated, over HTTP.

use serde_json::{Value, json};
use skeg_lab::probe::{Planes, Probe};
use skeg_server::{ClassifierKind, steering_slots};
use skeg_vector_store::{NewGeneration, Store, set_current, write_generation};

use crate::harness::{PROMPT_TOKENS, Server, Setup};
use crate::projection::tiny_engine;
use crate::scripted::{Script, ScriptedEngine, Shown};
use crate::store::{self, HIDDEN_SIZE, TestPolicy};

const CATEGORY: &str = "x-safety-category";
/// As `auto.rs` has them: a quarter of the logit of harm, fraud, malware and politics; that of adult content is 1.
const FRAUD: [f32; 4] = [1.0, 9.0, 0.0, 0.0];
const ADULT: [f32; 4] = [1.0, 0.0, 0.0, 0.0];
const POLITICS: [f32; 4] = [1.0, 0.0, 0.0, 9.0];
const HARMLESS: [f32; 4] = [-1.0, 9.0, 0.0, 0.0];

const EVERY_4: &str = "[auto]\nrecheck_every = 4\nrecheck_threshold = 0.8\n";

fn setup(prompt: [f32; 4], looks: &[Shown], permissive: bool) -> Setup {
    let base = Setup::default();
    let script =
        Script { activations: prompt.to_vec(), looks: looks.to_vec(), ..base.script.clone() };
    let policy = TestPolicy {
        when_missing: "auto",
        permissive,
        probe: true,
        more: EVERY_4,
        ..TestPolicy::default()
    };
    Setup { script, policy, ..base }
}

/// A server whose answers show this from the fifth token on, and so at the second look.
fn start(activations: [f32; 4]) -> Server {
    setup(HARMLESS, &[Shown { from: 5, activations }], true).start()
}

fn seeded(mut extra: Value) -> Value {
    extra["seed"] = json!(0);
    extra
}

async fn looks(server: &Server, outcome: &str) -> u64 {
    let metrics = server.get("/metrics").await.text;
    let start = format!("skeg_gate_rechecks_total{{model_name=\"tiny\",outcome=\"{outcome}\"}} ");
    let found = metrics.lines().find_map(|line| line.strip_prefix(start.as_str()));
    found.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn an_answer_that_shows_harm_is_steered_from_there_on_and_says_so_everywhere() {
    let server = start(FRAUD);
    let answer = server.chat(&[], seeded(json!({}))).await;
    for (name, value) in [
        (CATEGORY, "fraud_deception"),
        ("x-safety-category-source", "auto"),
        // The answer's, which is half as sure as the prompt's would be: 1 / (1 + exp(-2)).
        ("x-safety-confidence", "0.8808"),
        ("x-steering-applied", "planned"),
        ("x-steering-from", "8"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let choice = &answer.json()["choices"][0];
    let steering = &choice["steering"];
    assert_eq!(choice["message"]["content"], "Hello there.");
    assert_eq!(steering["category"], "fraud_deception");
    assert_eq!(steering["source"], "auto");
    assert!((steering["confidence"].as_f64().unwrap() - 0.8808).abs() < 1e-3, "{steering}");
    assert_eq!((&steering["steered_from"], &steering["strength"]), (&json!(8), &json!(1.0)));
    assert_eq!(steering["started_at_token"], json!(PROMPT_TOKENS + 8));
    assert_eq!(steering["steered_prompt_tokens"], 0);
    assert_eq!(steering["layers"], json!([1, 2]));
    // 13 tokens with the end of turn, of which the ninth comes from the row that was looked at.
    assert_eq!(steering["steered_completion_tokens"], 4);
    assert_eq!((looks(&server, "harmless").await, looks(&server, "steered").await), (1, 1));
    let metrics = server.get("/metrics").await.text;
    let expected = "skeg_requests_total{model_name=\"tiny\",category=\"fraud_deception\",source=\"auto\",outcome=\"steered\"} 1";
    assert!(metrics.contains(expected), "{metrics}");
    let line = &server.decisions()[0];
    assert_eq!((&line["category"], &line["action"]), (&json!("fraud_deception"), &json!("steer")));
    assert_eq!((&line["steered_from"], &line["source"]), (&json!(8), &json!("auto")));
    assert!((line["confidence"].as_f64().unwrap() - 0.8808).abs() < 1e-3, "{line}");
}

#[tokio::test]
async fn a_stream_says_in_its_last_chunk_what_its_headers_could_not() {
    let server = start(FRAUD);
    let answer = server.chat(&[], seeded(json!({"stream": true}))).await;
    assert_eq!((answer.header(CATEGORY), answer.header("x-steering-from")), ("none", ""));
    let frames = answer.frames();
    let steering = &frames.last().unwrap()["choices"][0]["steering"];
    assert_eq!(
        (&steering["category"], &steering["steered_from"], &steering["source"]),
        (&json!("fraud_deception"), &json!(8), &json!("auto"))
    );
    assert_eq!(server.decisions()[0]["steered_from"], 8);
}

#[tokio::test]
async fn an_answer_whose_category_policy_refuses_ends_and_is_not_given() {
    let server = start(ADULT);
    let answer = server.chat(&[], seeded(json!({"logprobs": true}))).await;
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "content_filter");
    assert_eq!(choice["message"]["refusal"], "The policy refuses this.");
    assert_eq!(choice["message"]["content"], Value::Null);
    assert_eq!(choice["logprobs"]["content"], json!([]));
    assert_eq!(choice["steering"]["category"], "adult_content");
    assert_eq!(answer.json()["usage"]["completion_tokens"], 8);
    assert_eq!(answer.header("x-steering-applied"), "refused");
    assert_eq!((answer.header(CATEGORY), answer.header("x-steering-from")), ("adult_content", ""));
    assert_eq!((looks(&server, "harmless").await, looks(&server, "stopped").await), (1, 1));
    let metrics = server.get("/metrics").await.text;
    let ended =
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"content_filter\"} 1";
    assert!(metrics.contains(ended), "{metrics}");
    let line = &server.decisions()[0];
    assert_eq!((&line["outcome"], &line["action"]), (&json!("refused"), &json!("refuse")));

    let server = start(ADULT);
    let frames = server.chat(&[], seeded(json!({"stream": true}))).await.frames();
    let said = |key: &str| -> String {
        frames.iter().filter_map(|frame| frame["choices"][0]["delta"][key].as_str()).collect()
    };
    assert_eq!(
        (said("content"), said("refusal")),
        ("Hello th".to_owned(), "The policy refuses this.".to_owned())
    );
    assert_eq!(frames.last().unwrap()["choices"][0]["finish_reason"], "content_filter");
}

#[tokio::test]
async fn what_is_only_logged_goes_on_and_is_said() {
    let server = start(POLITICS);
    let answer = server.chat(&[], seeded(json!({}))).await;
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["message"]["content"], "Hello there.");
    let steering = &choice["steering"];
    assert_eq!(
        (&steering["category"], &steering["shadow"], steering.get("steered_from")),
        (&json!("political_campaigning"), &json!(true), None)
    );
    assert_eq!(answer.header("x-steering-applied"), "none");
    assert_eq!((looks(&server, "harmless").await, looks(&server, "shadow").await), (1, 2));
    assert_eq!(server.decisions()[0]["action"], "log");
}

#[tokio::test]
async fn a_harmless_answer_is_what_it_was() {
    let server = start(HARMLESS);
    let answer = server.chat(&[], seeded(json!({}))).await;
    assert_eq!(answer.header(CATEGORY), "none");
    assert_eq!(answer.header("x-safety-confidence"), "0.0180");
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!((&steering["category"], steering.get("steered_from")), (&json!("none"), None));
    assert_eq!(looks(&server, "harmless").await, 3);
    // Below the threshold of answers, and above that of prompts.
    let unsure = start([0.5, 9.0, 0.0, 0.0]);
    assert_eq!(unsure.chat(&[], seeded(json!({}))).await.header(CATEGORY), "none");
    assert!(server.decisions()[0].get("steered_from").is_none());
}

#[tokio::test]
async fn every_choice_is_looked_at_on_its_own() {
    let shown = |activations| Shown { from: 0, activations };
    let server = setup(HARMLESS, &[shown(HARMLESS), shown(FRAUD)], true).start();
    let answer = server.chat(&[], seeded(json!({"n": 2}))).await;
    let choices = answer.json()["choices"].as_array().unwrap().clone();
    let said: Vec<_> = choices
        .iter()
        .map(|choice| {
            (choice["steering"]["category"].clone(), choice["steering"]["steered_from"].clone())
        })
        .collect();
    assert_eq!(said, [(json!("none"), Value::Null), (json!("fraud_deception"), json!(4))]);
    // Headers are for the whole request: the strictest that was done.
    assert_eq!(answer.header(CATEGORY), "fraud_deception");
    assert_eq!(looks(&server, "steered").await, 1);
    let server = setup(HARMLESS, &[shown(FRAUD), shown(ADULT)], true).start();
    let answer = server.chat(&[], seeded(json!({"n": 2}))).await;
    assert_eq!(answer.header(CATEGORY), "adult_content");
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn what_was_found_in_the_prompt_or_was_not_judged_is_not_looked_at() {
    let shown = [Shown { from: 0, activations: FRAUD }];
    for (prompt, category, header) in [
        (POLITICS, "political_campaigning", None),
        (FRAUD, "fraud_deception", None),
        (HARMLESS, "none", Some("none")),
        (HARMLESS, "malware_viruses", Some("malware_viruses")),
    ] {
        let server = setup(prompt, &shown, true).start();
        let headers: Vec<(&str, &str)> = header.map(|name| (CATEGORY, name)).into_iter().collect();
        let answer = server.chat(&headers, seeded(json!({}))).await;
        assert_eq!(answer.header(CATEGORY), category);
        for outcome in ["harmless", "steered", "stopped", "shadow", "not_steerable"] {
            assert_eq!(looks(&server, outcome).await, 0, "{category} {outcome}");
        }
    }
    // A category in shadow mode that a caller names is no way around the gate.
    let server = setup(HARMLESS, &shown, false).start();
    let answer = server.chat(&[(CATEGORY, "political_campaigning")], seeded(json!({}))).await;
    assert_eq!(answer.header(CATEGORY), "fraud_deception,political_campaigning");
    assert_eq!(answer.header("x-steering-from"), "4");
}

#[tokio::test]
async fn where_only_prompts_are_steered_an_answer_goes_on() {
    let server = start(FRAUD);
    let prompts = json!({"steering": {"category": "auto", "positions": "prompt"}});
    let answer = server.chat(&[], seeded(prompts)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header(CATEGORY), "none");
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Hello there.");
    assert_eq!((looks(&server, "not_steerable").await, looks(&server, "steered").await), (2, 0));
}

#[tokio::test]
async fn a_wish_that_the_caller_may_not_have_does_not_keep_an_answer_from_being_steered() {
    let shown = [Shown { from: 0, activations: FRAUD }];
    let server = setup(HARMLESS, &shown, false).start();
    let stronger = json!({"steering": {"category": "auto", "strength": 1.4}});
    let answer = server.chat(&[], seeded(stronger.clone())).await;
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!((&steering["strength"], &steering["steered_from"]), (&json!(1.0), &json!(4)));
    // A caller who may raise has its wish.
    let server = setup(HARMLESS, &shown, true).start();
    let answer = server.chat(&[], seeded(stronger)).await;
    let strength = answer.json()["choices"][0]["steering"]["strength"].as_f64().unwrap();
    assert!((strength - 1.4).abs() < 1e-6);
}

#[tokio::test]
async fn what_the_reader_did_not_take_did_not_happen_to_its_answer() {
    let shown = [Shown { from: 0, activations: FRAUD }];
    let server = setup(HARMLESS, &shown, true).start();
    // The stop string is complete with the fourth token, at which the answer is looked at.
    let answer = server.chat(&[], seeded(json!({"stop": "ell"}))).await;
    let choice = &answer.json()["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("stop"), &json!("H"))
    );
    assert_eq!(
        (&choice["steering"]["category"], answer.header(CATEGORY)),
        (&json!("none"), "none")
    );
    let line = &server.decisions()[0];
    assert_eq!((&line["category"], line.get("steered_from")), (&json!("none"), None));
}

#[tokio::test]
async fn a_probe_that_was_not_trained_on_answers_cannot_look_at_them() {
    let server = Setup::default().start();
    let root = tempfile::tempdir().unwrap();
    let policy = TestPolicy { more: EVERY_4, probe: true, ..TestPolicy::default() };
    let new = NewGeneration {
        probe: Some(store::probe_on(1, HIDDEN_SIZE)),
        ..store::generation(&policy)
    };
    let opened = write_generation(root.path(), &new).map_err(|error| error.to_string());
    let opened = opened.and_then(|id| {
        set_current(root.path(), &id, None).unwrap();
        let slots = steering_slots(server.engine.clone(), ClassifierKind::Generation);
        Store::open(root.path(), store::binding(), slots).map_err(|error| error.to_string())
    });
    let error = opened.map(|_| ()).unwrap_err();
    assert!(error.contains("auto.recheck_every") && error.contains("answer part"), "{error}");
}

/// A real engine: prompts are found harmless and answers harmful whatever they show.
#[tokio::test]
async fn a_real_model_is_steered_in_mid_answer() {
    let base = setup(HARMLESS, &[], true);
    let (_, control) = ScriptedEngine::new(base.script.clone(), false);
    let policy = base.policy.clone();
    let server = base.start_on(Box::new(tiny_engine()), control);
    let new = store::generation(&policy);
    let mut probe = Probe::from_bytes(new.probe.as_deref().unwrap()).unwrap();
    let always = |harm: f32| {
        let num_planes = 1 + probe.categories.len();
        let mut biases = vec![0.0; num_planes];
        biases[0] = harm;
        // Fraud.
        biases[2] = 9.0;
        Planes::new(vec![0.0; num_planes * HIDDEN_SIZE], biases)
    };
    let (harmless, harmful) = (always(-9.0), always(9.0));
    probe.members[0].planes = harmless;
    probe.answer.as_mut().unwrap().planes = harmful;
    let new = NewGeneration { probe: Some(probe.to_bytes().unwrap()), ..new };
    let id = write_generation(server.files.path(), &new).unwrap();
    set_current(server.files.path(), &id, None).unwrap();
    server.store.reload().unwrap();

    let body = json!({
        "max_tokens": 12, "ignore_eos": true, "temperature": 0, "logprobs": true, "top_logprobs": 3,
    });
    let plain = server.chat(&[(CATEGORY, "none")], body.clone()).await;
    let looked_at = server.chat(&[], body).await;
    assert_eq!(looked_at.status, 200, "{}", looked_at.text);
    let tokens = |answer: &crate::harness::Answer| {
        answer.json()["choices"][0]["logprobs"]["content"].as_array().unwrap().clone()
    };
    let (plain, of_look) = (tokens(&plain), tokens(&looked_at));
    assert_eq!((plain.len(), of_look.len()), (12, 12));
    // Four tokens, and one more from the row that was looked at, are what they were.
    assert_eq!(plain[..5], of_look[..5]);
    assert_ne!(plain[5], of_look[5]);
    let steering = &looked_at.json()["choices"][0]["steering"];
    assert_eq!(steering["steered_from"], 4);
    assert_eq!(steering["started_at_token"], json!(PROMPT_TOKENS + 4));
    assert_eq!(steering["steered_completion_tokens"], 7);
    assert!(steering["max_relative_norm"].as_f64().unwrap() > 0.0);
}
