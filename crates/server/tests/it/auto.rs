//! Requests whose category the gate finds, over HTTP.

use serde_json::json;
use skeg_model::engine::GateDecision;
use skeg_server::{ClassifierKind, steering_slots};
use skeg_vector_store::{NewGeneration, Store, set_current, write_generation};

use crate::harness::{NUM_LAYERS, Server, Setup};
use crate::scripted::Script;
use crate::store::{self, HIDDEN_SIZE, TestPolicy};

const CATEGORY: &str = "x-safety-category";
/// Logits of harm (a quarter), fraud, malware and politics; that of adult content is 1.
const FRAUD: [f32; 4] = [1.0, 9.0, 0.0, 0.0];
const FRAUD_AND_MALWARE: [f32; 4] = [1.0, 9.0, 8.5, 0.0];
const ADULT: [f32; 4] = [1.0, 0.0, 0.0, 0.0];
const POLITICS: [f32; 4] = [1.0, 0.0, 0.0, 9.0];
const HARMLESS: [f32; 4] = [-1.0, 9.0, 0.0, 0.0];
/// A probability of harm of one half.
const UNSURE: [f32; 4] = [0.0, 9.0, 0.0, 0.0];

const NO_BAND: &str = "";
const WITH_BAND: &str = "[auto]\nthreshold = 0.9\nabstain = 0.4\n";
const TWO: &str = "[auto]\ntop_k = 2\n";

fn setup(activations: [f32; 4], permissive: bool, more: &'static str) -> Setup {
    let base = Setup::default();
    Setup {
        script: Script { activations: activations.to_vec(), ..base.script.clone() },
        policy: TestPolicy {
            when_missing: "auto",
            permissive,
            probe: true,
            more,
            ..TestPolicy::default()
        },
        ..base
    }
}

fn start(activations: [f32; 4]) -> Server {
    setup(activations, true, NO_BAND).start()
}

/// Plans of the sequences that were handed in with one, and what gates said.
fn journal(server: &Server) -> (usize, usize, Vec<&'static str>) {
    let journal = server.control.journal.lock().unwrap();
    let planned = journal.submitted.iter().filter(|(_, plan)| plan.is_some()).count();
    let said = journal.gated.iter().map(|decision| match decision {
        GateDecision::Unsteered => "unsteered",
        GateDecision::Steer(..) => "steer",
        GateDecision::Stop => "stop",
    });
    (journal.submitted.len(), planned, said.collect())
}

#[tokio::test]
async fn what_the_gate_finds_is_steered_and_said_everywhere() {
    let server = start(FRAUD);
    let answer = server.chat(&[], json!({})).await;
    for (name, value) in [
        (CATEGORY, "fraud_deception"),
        ("x-safety-category-source", "auto"),
        ("x-safety-confidence", "0.9820"),
        ("x-steering-applied", "planned"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!(
        (&steering["category"], &steering["source"]),
        (&json!("fraud_deception"), &json!("auto"))
    );
    assert!((steering["confidence"].as_f64().unwrap() - 0.982).abs() < 1e-3, "{steering}");
    assert!(steering["steered_completion_tokens"].as_u64().unwrap() > 0);
    // One sequence, steered by its gate.
    assert_eq!(journal(&server), (1, 0, vec!["steer"]));
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("skeg_probe_confidence_count{model_name=\"tiny\"} 1"), "{metrics}");
    assert!(metrics.contains("skeg_probe_duration_seconds_count{model_name=\"tiny\"} 1"));
    let expected = "skeg_requests_total{model_name=\"tiny\",category=\"fraud_deception\",source=\"auto\",outcome=\"steered\"} 1";
    assert!(metrics.contains(expected), "{metrics}");
    let line = &server.decisions()[0];
    assert_eq!((&line["source"], &line["action"]), (&json!("auto"), &json!("steer")));
    assert!((line["confidence"].as_f64().unwrap() - 0.982).abs() < 1e-3, "{line}");
}

#[tokio::test]
async fn what_is_harmless_is_answered_from_its_first_pass() {
    let server = start(HARMLESS);
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.header(CATEGORY), "none");
    assert_eq!(answer.header("x-safety-category-source"), "auto");
    assert_eq!(answer.header("x-safety-confidence"), "0.0180");
    assert_eq!(answer.header("x-steering-applied"), "none");
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Hello there.");
    assert_eq!(journal(&server), (1, 0, vec!["unsteered"]));
    assert_eq!(server.decisions()[0]["action"], "none");
}

#[tokio::test]
async fn a_stream_says_the_verdict_before_its_first_byte() {
    let server = start(FRAUD);
    let answer = server.chat(&[], json!({"stream": true})).await;
    assert_eq!(answer.header(CATEGORY), "fraud_deception");
    assert!(answer.text.contains("\"source\":\"auto\""), "{}", answer.text);
}

#[tokio::test]
async fn what_policy_refuses_is_refused_without_a_token() {
    let server = start(ADULT);
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.status, 200);
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "content_filter");
    assert_eq!(choice["message"]["refusal"], "The policy refuses this.");
    assert_eq!(answer.header("x-steering-applied"), "refused");
    assert_eq!(journal(&server), (1, 0, vec!["stop"]));
    // The pass that was for the verdict alone counts as no sequence.
    let metrics = server.get("/metrics").await.text;
    let sequences: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("vllm:request_success_total")).collect();
    assert!(sequences.iter().all(|line| line.ends_with(" 0")), "{sequences:?}");
    let line = &server.decisions()[0];
    assert_eq!((&line["outcome"], &line["completion_tokens"]), (&json!("refused"), &json!(0)));
}

#[tokio::test]
async fn a_category_in_shadow_mode_is_answered_unsteered_and_said() {
    let server = start(POLITICS);
    let answer = server.chat(&[], json!({})).await;
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!(
        (&steering["category"], &steering["shadow"]),
        (&json!("political_campaigning"), &json!(true))
    );
    assert_eq!(journal(&server), (1, 0, vec!["unsteered"]));
}

#[tokio::test]
async fn several_categories_are_added_up_in_a_sequence_of_their_own() {
    let server = setup(FRAUD_AND_MALWARE, true, TWO).start();
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.header(CATEGORY), "fraud_deception,malware_viruses");
    let steering = &answer.json()["choices"][0]["steering"];
    let strengths = steering["strength"].as_array().unwrap();
    // The second by its share of the first, exp(-0.5), which is above its floor.
    assert!((strengths[0].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert!((strengths[1].as_f64().unwrap() - (-0.5_f64).exp()).abs() < 1e-3, "{steering}");
    assert_eq!(journal(&server), (2, 1, vec!["stop"]));
}

#[tokio::test]
async fn a_header_raises_and_does_not_lower() {
    let server = setup(FRAUD, false, NO_BAND).start();
    let answer = server.chat(&[(CATEGORY, "malware_viruses")], json!({})).await;
    assert_eq!(answer.header(CATEGORY), "fraud_deception,malware_viruses");
    assert_eq!(answer.header("x-safety-category-source"), "auto");
    let same = server.chat(&[(CATEGORY, "fraud_deception")], json!({})).await;
    assert_eq!(same.header("x-safety-category-source"), "header");
    let shadow = server.chat(&[(CATEGORY, "political_campaigning")], json!({})).await;
    assert_eq!(shadow.header("x-steering-applied"), "planned");
    let none = server.chat(&[(CATEGORY, "none")], json!({})).await;
    assert_eq!(none.error(), (403, "steering_required".to_owned()));
    // A named category is steered also where nothing is found.
    let server = setup(HARMLESS, false, NO_BAND).start();
    let answer = server.chat(&[(CATEGORY, "malware_viruses")], json!({})).await;
    assert_eq!(answer.header(CATEGORY), "malware_viruses");
    assert_eq!(journal(&server).2, ["steer"]);
}

#[tokio::test]
async fn what_is_not_clear_is_what_policy_says() {
    let server = setup(UNSURE, true, WITH_BAND).start();
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.error(), (400, "auto_abstained".to_owned()));
    assert_eq!(journal(&server).2, ["stop"]);
    assert_eq!(server.decisions()[0]["outcome"], "failed:auto_abstained");
}

#[tokio::test]
async fn every_choice_of_a_request_has_one_verdict() {
    let server = start(FRAUD);
    let answer = server.chat(&[], json!({"n": 2})).await;
    let choices = answer.json()["choices"].as_array().unwrap().clone();
    assert!(choices.iter().all(|choice| choice["steering"]["category"] == "fraud_deception"));
    assert_eq!(journal(&server), (2, 0, vec!["steer", "steer"]));
    assert!(
        server
            .get("/metrics")
            .await
            .text
            .contains("skeg_probe_confidence_count{model_name=\"tiny\"} 1")
    );
}

#[tokio::test]
async fn a_comparison_has_both_answers_where_something_is_found() {
    let compare = json!({"steering": {"compare": true}});
    let answer = start(FRAUD).chat(&[], compare.clone()).await;
    let choices = answer.json()["choices"].as_array().unwrap().clone();
    assert_eq!(choices.len(), 2);
    assert_eq!(choices[0]["steering"]["compare"], true);
    assert_eq!(choices[1]["steering"]["source"], "auto");
    let answer = start(HARMLESS).chat(&[], compare).await;
    assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_engine_that_fails_before_the_verdict_answers_nothing() {
    let base = setup(FRAUD, true, NO_BAND);
    let script =
        Script { text: String::new(), fail: Some("broken".to_owned()), ..base.script.clone() };
    let server = Setup { script, ..base }.start();
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.error(), (503, "steering_unavailable".to_owned()));
    assert!(journal(&server).2.is_empty());
}

#[tokio::test]
async fn a_probe_that_is_shown_something_else_answers_nothing() {
    let base = setup(FRAUD, true, NO_BAND);
    let script = Script { activations: vec![1.0], ..base.script.clone() };
    let server = Setup { script, ..base }.start();
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.error(), (503, "steering_unavailable".to_owned()));
}

#[tokio::test]
async fn auto_needs_a_probe() {
    let server = Setup::default().start();
    let answer = server.chat(&[(CATEGORY, "auto")], json!({})).await;
    assert_eq!(answer.error(), (400, "auto_unavailable".to_owned()));
    // With one it can be asked for under any policy.
    let base = setup(FRAUD, true, NO_BAND);
    let policy = TestPolicy { when_missing: "none", ..base.policy.clone() };
    let server = Setup { policy, ..base }.start();
    assert_eq!(
        server.chat(&[(CATEGORY, "auto")], json!({})).await.header(CATEGORY),
        "fraud_deception"
    );
    assert_eq!(server.chat(&[], json!({})).await.header(CATEGORY), "none");
}

#[tokio::test]
async fn a_probe_of_another_model_is_refused_where_policy_needs_it_and_unused_where_not() {
    let server = Setup::default().start();
    let open = |when_missing, probe| {
        let root = tempfile::tempdir().unwrap();
        let policy = TestPolicy { when_missing, probe: true, ..TestPolicy::default() };
        let new = NewGeneration { probe: Some(probe), ..store::generation(&policy) };
        let id = write_generation(root.path(), &new).unwrap();
        set_current(root.path(), &id, None).unwrap();
        let slots = steering_slots(server.engine.clone(), ClassifierKind::Generation);
        Store::open(root.path(), store::binding(), slots).map(|_| ()).map_err(|e| e.to_string())
    };
    for (layer, hidden_size) in [(NUM_LAYERS, HIDDEN_SIZE), (1, HIDDEN_SIZE + 1)] {
        let error = open("auto", store::probe_on(layer, hidden_size)).unwrap_err();
        assert!(error.contains("`when_missing` is `auto`"), "{error}");
        assert!(error.contains("trained on another model"), "{error}");
        assert_eq!(open("none", store::probe_on(layer, hidden_size)), Ok(()));
    }
    assert_eq!(open("auto", store::probe_on(NUM_LAYERS - 1, HIDDEN_SIZE)), Ok(()));
}
