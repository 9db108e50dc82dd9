//! Requests whose category a classifier behind an endpoint finds, over HTTP.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use skeg_lab::probe::{ClassifierOptions, ClassifierShape};
use skeg_server::{ClassifierKind, HttpClassifier, OnFailure, steering_slots};
use skeg_vector_store::{Category, NewGeneration, Store, set_current, write_generation};
use tower::ServiceExt;

use crate::endpoint::{Endpoint, Reply, scores};
use crate::harness::{Server, Setup, body, chat_request};
use crate::store::{self, TestPolicy};

const CATEGORY: &str = "x-safety-category";
const SOURCE: &str = "x-safety-category-source";
const CONFIDENCE: &str = "x-safety-confidence";
const CLASSIFIER: &str = "x-safety-classifier";
const APPLIED: &str = "x-steering-applied";
const AUTO: &[(&str, &str)] = &[(CATEGORY, "auto")];

fn options(endpoint: &Endpoint) -> ClassifierOptions {
    ClassifierOptions {
        // Long enough for a machine that is busy with other tests.
        timeout: Duration::from_secs(60),
        ..ClassifierOptions::new(endpoint.url(), "omni", ClassifierShape::Moderations)
    }
}

/// A server whose generation has no probe and whose policy says `auto`.
fn setup(options: ClassifierOptions, on_failure: OnFailure) -> Setup {
    let policy = TestPolicy { when_missing: "auto", ..TestPolicy::default() };
    let classifier = Some(HttpClassifier::new(options, on_failure).unwrap());
    Setup { policy, classifier, ..Setup::default() }
}

fn start(endpoint: &Endpoint) -> Server {
    setup(options(endpoint), OnFailure::Refuse).start()
}

/// Sequences that were handed in, how many with a plan, and that no gate was asked.
fn submitted(server: &Server) -> (usize, usize) {
    let journal = server.control.journal.lock().unwrap();
    assert!(journal.gated.is_empty());
    let planned = journal.submitted.iter().filter(|(_, plan)| plan.is_some()).count();
    (journal.submitted.len(), planned)
}

async fn has_metric(server: &Server, name: &str, labels: &str, value: &str) -> bool {
    let line = format!("{name}{{model_name=\"tiny\"{labels}}} {value}");
    server.get("/metrics").await.text.lines().any(|found| found == line)
}

fn fraud() -> Reply {
    scores(&json!({"fraud_deception": 0.875, "malware_viruses": 0.125}))
}

#[tokio::test]
async fn what_the_classifier_finds_is_steered_and_said_everywhere() {
    let endpoint = Endpoint::start(|_| fraud());
    let server = start(&endpoint);
    let messages =
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]);
    let answer = server.chat(&[], json!({"messages": messages})).await;
    for (name, value) in [
        (CATEGORY, "fraud_deception"),
        (SOURCE, "auto"),
        (CONFIDENCE, "0.8750"),
        (APPLIED, "planned"),
        (CLASSIFIER, ""),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!(
        (&steering["category"], &steering["source"], &steering["confidence"]),
        (&json!("fraud_deception"), &json!("auto"), &json!(0.875))
    );
    assert!(steering["steered_completion_tokens"].as_u64().unwrap() > 0, "{steering}");
    assert!(steering.get("classifier").is_none(), "{steering}");
    // Planned from the start, as a request that names the category.
    assert_eq!(submitted(&server), (1, 1));
    // The conversation's whole text, once.
    assert_eq!(endpoint.requests(), [json!({"model": "omni", "input": "be brief\nhi"})]);
    for (name, labels, value) in [
        ("skeg_classifier_requests_total", ",outcome=\"ok\"", "1"),
        ("skeg_classifier_duration_seconds_count", "", "1"),
        ("skeg_classifier_waiting", "", "0"),
        ("skeg_probe_confidence_count", "", "1"),
        ("skeg_probe_duration_seconds_count", "", "0"),
        (
            "skeg_requests_total",
            ",category=\"fraud_deception\",source=\"auto\",outcome=\"steered\"",
            "1",
        ),
    ] {
        assert!(has_metric(&server, name, labels, value).await, "{name}");
    }
    let line = &server.decisions()[0];
    assert_eq!(
        (&line["source"], &line["action"], &line["confidence"]),
        (&json!("auto"), &json!("steer"), &json!(0.875))
    );
}

#[tokio::test]
async fn what_is_harmless_is_answered_as_without_a_category() {
    let endpoint = Endpoint::start(|_| scores(&json!({"fraud_deception": 0.125})));
    let server = start(&endpoint);
    let answer = server.chat(&[], json!({})).await;
    assert_eq!((answer.header(CATEGORY), answer.header(SOURCE)), ("none", "auto"));
    assert_eq!((answer.header(CONFIDENCE), answer.header(APPLIED)), ("0.1250", "none"));
    let none = server.chat(&[(CATEGORY, "none")], json!({})).await;
    let message = |answer: &Value| answer["choices"][0]["message"].clone();
    assert_eq!(message(&answer.json()), message(&none.json()));
    assert_eq!(submitted(&server), (2, 0));
    assert_eq!(endpoint.requests().len(), 1);
}

#[tokio::test]
async fn a_guard_model_and_names_of_its_own_are_understood() {
    let guard = Endpoint::start(|_| {
        let choice = json!({"message": {"content": "unsafe\nX1"}});
        ("200 OK", json!({"choices": [choice]}).to_string())
    });
    let malware = Category::parse("malware_viruses").unwrap();
    let options = ClassifierOptions {
        shape: ClassifierShape::LlamaGuard,
        category_map: [("X1".to_owned(), malware)].into(),
        ..options(&guard)
    };
    let server = setup(options, OnFailure::Refuse).start();
    let answer = server.chat(&[], json!({"stream": true})).await;
    assert_eq!(answer.header(CATEGORY), "malware_viruses");
    assert_eq!(answer.header(CONFIDENCE), "1.0000");
    assert!(answer.text.contains("\"source\":\"auto\""), "{}", answer.text);
    assert!(guard.heads().starts_with("post /v1/chat/completions "), "{}", guard.heads());
}

#[tokio::test]
async fn a_verdict_follows_the_policys_rules() {
    let endpoint = Endpoint::start(|number| match number {
        0 => scores(&json!({"adult_content": 0.9})),
        1 => scores(&json!({"political_campaigning": 0.9})),
        _ => fraud(),
    });
    let base = setup(options(&endpoint), OnFailure::Refuse);
    let policy = TestPolicy { permissive: false, ..base.policy.clone() };
    let server = Setup { policy, ..base }.start();
    let refused = server.chat(&[], json!({})).await;
    assert_eq!(refused.json()["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(submitted(&server), (0, 0));
    let shadow = server.chat(&[], json!({})).await;
    assert_eq!(shadow.json()["choices"][0]["steering"]["shadow"], true);
    // What a caller names is the least.
    let both = server.chat(&[(CATEGORY, "malware_viruses")], json!({})).await;
    assert_eq!(both.header(CATEGORY), "fraud_deception,malware_viruses");
    let none = server.chat(&[(CATEGORY, "none")], json!({})).await;
    assert_eq!(none.error(), (403, "steering_required".to_owned()));
    assert_eq!(endpoint.requests().len(), 3);
    // What is refused for another reason goes nowhere.
    let long = server.chat(&[], json!({"max_tokens": 250})).await;
    assert_eq!(long.error(), (400, "context_length_exceeded".to_owned()));
    assert_eq!(endpoint.requests().len(), 3);
}

#[tokio::test]
async fn both_answers_can_be_had_of_what_is_found() {
    let endpoint = Endpoint::start(|_| fraud());
    let server = start(&endpoint);
    let compare = |n: usize| json!({"n": n, "steering": {"compare": true}});
    let answer = server.chat(&[], compare(1)).await.json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    assert_eq!(answer["choices"][1]["steering"]["source"], "auto");
    assert_eq!(server.chat(&[], compare(2)).await.error().0, 400);
    assert_eq!(endpoint.requests().len(), 1);
}

fn broken() -> Endpoint {
    Endpoint::start(|_| ("500 Internal Server Error", String::new()))
}

#[tokio::test]
async fn a_failed_classifier_answers_nothing_by_default() {
    let endpoint = broken();
    let server = start(&endpoint);
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.error(), (503, "steering_unavailable".to_owned()));
    assert!(answer.text.contains("classifier") && !answer.text.contains(&endpoint.url()));
    assert_eq!(submitted(&server), (0, 0));
    // Who names a category needs no classifier.
    let named = server.chat(&[(CATEGORY, "fraud_deception")], json!({})).await;
    assert_eq!(named.header(APPLIED), "planned");
    for (name, labels) in [
        ("skeg_classifier_requests_total", ",outcome=\"error\""),
        ("skeg_classifier_unanswered_total", ",on_failure=\"refuse\""),
    ] {
        assert!(has_metric(&server, name, labels, "1").await, "{name}");
    }
    assert_eq!(server.decisions()[0]["outcome"], "failed:steering_unavailable");
}

#[tokio::test]
async fn a_failed_classifier_can_count_as_one_that_is_not_sure() {
    let endpoint = broken();
    let base = setup(options(&endpoint), OnFailure::Abstain);
    let policy = TestPolicy { on_abstain: "fraud_deception", ..base.policy.clone() };
    let server = Setup { policy, ..base }.start();
    let answer = server.chat(&[], json!({})).await;
    for (name, value) in [
        (CATEGORY, "fraud_deception"),
        (SOURCE, "auto"),
        (CONFIDENCE, ""),
        (CLASSIFIER, "failed"),
        (APPLIED, "planned"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!(submitted(&server), (1, 1));
    let labels = ",on_failure=\"abstain\"";
    assert!(has_metric(&server, "skeg_classifier_unanswered_total", labels, "1").await);
    let rejecting = setup(options(&endpoint), OnFailure::Abstain).start();
    let answer = rejecting.chat(&[], json!({})).await;
    assert_eq!(answer.error(), (400, "auto_abstained".to_owned()));
}

#[tokio::test]
async fn an_answer_that_a_failed_classifier_lets_through_says_so() {
    let endpoint = broken();
    let server = setup(options(&endpoint), OnFailure::None).start();
    let answer = server.chat(&[], json!({})).await;
    for (name, value) in
        [(CATEGORY, "none"), (SOURCE, "auto"), (CLASSIFIER, "failed"), (APPLIED, "none")]
    {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert!(answer.headers.get(CONFIDENCE).is_none());
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!(
        (&steering["classifier"], &steering["confidence"]),
        (&json!("failed"), &Value::Null)
    );
    assert_eq!(submitted(&server), (1, 0));
    let labels = ",on_failure=\"none\"";
    assert!(has_metric(&server, "skeg_classifier_unanswered_total", labels, "1").await);
    let line = &server.decisions()[0];
    assert_eq!((&line["classifier"], &line["action"]), (&json!("failed"), &json!("none")));
}

/// Answers when the other end of the channel is dropped.
fn waits(release: Receiver<()>) -> impl Fn(usize) -> Reply + Send + Sync {
    let release = Mutex::new(release);
    move |_| {
        release.lock().unwrap().recv().unwrap_err();
        fraud()
    }
}

#[tokio::test]
async fn a_classifier_that_never_answers_is_not_waited_for() {
    let (held, release) = sync_channel(0);
    let endpoint = Endpoint::start(waits(release));
    let options = ClassifierOptions { timeout: Duration::from_millis(50), ..options(&endpoint) };
    let server = setup(options, OnFailure::Refuse).start();
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(answer.error(), (503, "steering_unavailable".to_owned()));
    let labels = ",outcome=\"timeout\"";
    assert!(has_metric(&server, "skeg_classifier_requests_total", labels, "1").await);
    drop(held);
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let two = Barrier::new(2);
    let endpoint = Endpoint::start(move |_| {
        // With fewer at once nobody would pass.
        two.wait();
        fraud()
    });
    let options = ClassifierOptions { max_concurrent: 2, ..options(&endpoint) };
    let server = setup(options, OnFailure::Refuse).start();
    let asking: Vec<_> = (0..6)
        .map(|_| tokio::spawn(server.router.clone().oneshot(chat_request(&[], &body(json!({}))))))
        .collect();
    for answer in asking {
        assert_eq!(answer.await.unwrap().unwrap().headers()[CATEGORY], "fraud_deception");
    }
    assert_eq!((endpoint.requests().len(), endpoint.max_under_way()), (6, 2));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_asks_nothing_and_frees_its_place() {
    let (held, release) = sync_channel(0);
    let endpoint = Endpoint::start(waits(release));
    let options = ClassifierOptions { max_concurrent: 1, ..options(&endpoint) };
    let server = setup(options, OnFailure::Refuse).start();
    let ask = || tokio::spawn(server.router.clone().oneshot(chat_request(&[], &body(json!({})))));
    let first = ask();
    endpoint.until_asked(1).await;
    let second = ask();
    until_waiting(&server, "1").await;
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    until_waiting(&server, "0").await;
    drop(held);
    assert_eq!(first.await.unwrap().unwrap().headers()[CATEGORY], "fraud_deception");
    assert_eq!(server.chat(&[], json!({})).await.header(CATEGORY), "fraud_deception");
    // The one that left was not asked about, and took no place of the engine.
    assert_eq!((endpoint.requests().len(), submitted(&server)), (2, (2, 2)));
    let outcomes: Vec<Value> =
        server.decisions().iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["client_closed", "completed", "completed"]);
}

async fn until_waiting(server: &Server, num: &str) {
    while !has_metric(server, "skeg_classifier_waiting", "", num).await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn off_means_that_auto_is_unavailable() {
    let policy = TestPolicy { probe: true, ..TestPolicy::default() };
    let server = Setup { policy, kind: ClassifierKind::Off, ..Setup::default() }.start();
    let answer = server.chat(AUTO, json!({})).await;
    assert_eq!(answer.error(), (400, "auto_unavailable".to_owned()));
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_policy_that_says_auto_needs_somebody_who_finds_categories() {
    let server = Setup::default().start();
    let open = |kind, probe: bool, when_missing| {
        let root = tempfile::tempdir().unwrap();
        let policy = TestPolicy { when_missing, probe, ..TestPolicy::default() };
        let new: NewGeneration = store::generation(&policy);
        let id = write_generation(root.path(), &new).unwrap();
        set_current(root.path(), &id, None).unwrap();
        let slots = steering_slots(server.engine.clone(), kind);
        Store::open(root.path(), store::binding(), slots).map(|_| ()).map_err(|e| e.to_string())
    };
    use ClassifierKind::{Generation, Http, Off};
    for (kind, probe, expected) in [
        (Off, true, "`classifier.kind` is `off`"),
        (Off, false, "`classifier.kind` is `off`"),
        (Generation, false, "no probe.safetensors"),
    ] {
        let error = open(kind, probe, "auto").unwrap_err();
        assert!(error.contains("policy.toml: `when_missing` is `auto`, and"), "{error}");
        assert!(error.contains(expected), "{error}");
        assert_eq!(open(kind, probe, "none"), Ok(()));
    }
    for (kind, probe) in [(Generation, true), (Http, true), (Http, false)] {
        assert_eq!(open(kind, probe, "auto"), Ok(()), "{kind:?} {probe}");
    }
}
