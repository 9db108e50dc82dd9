//! Steering over HTTP: plans, actions, evidence, the decision log, and generations that change.

use serde_json::{Value, json};
use skeg_model::steering::Positions;
use skeg_vector_store::Operator;

use crate::harness::{NUM_LAYERS, PROMPT_TOKENS, Server, Setup};
use crate::scripted::{MAX_RELATIVE_NORM, Script};
use crate::store::{self, TestPolicy};

const FRAUD: (&str, &str) = ("x-safety-category", "fraud_deception");

fn generation(server: &Server) -> String {
    server.store.current().generation.id.to_string()
}

#[tokio::test]
async fn a_named_category_is_steered_and_the_evidence_says_how() {
    let server = Setup::default().start();
    let answer = server.chat(&[FRAUD], json!({"steering": {"strength": 0.75}})).await;
    let id = generation(&server);
    for (name, value) in [
        ("x-safety-category", "fraud_deception"),
        ("x-safety-category-source", "header"),
        ("x-steering-generation", &id),
        ("x-steering-applied", "planned"),
    ] {
        assert_eq!(answer.header(name), value);
    }
    let expected = json!({
        "category": "fraud_deception", "source": "header", "confidence": null, "generation": id, "site": "attn_out",
        "layers": [1, 2], "operator": "add", "strength": 0.75, "positions": "all",
        "steered_prompt_tokens": PROMPT_TOKENS, "steered_completion_tokens": 13,
        "max_relative_norm": MAX_RELATIVE_NORM, "started_at_token": 0, "shadow": false, "compare": false,
        "weights_mismatch": false,
    });
    assert_eq!(answer.json()["choices"][0]["steering"], expected);
    let plan = server.control.journal.lock().unwrap().submitted[0].1.clone().unwrap();
    assert_eq!((plan.strength.to_bits(), plan.positions), (0.75_f32.to_bits(), Positions::All));
    // Slots go by the categories' order, and only the vector's layers use one.
    assert_eq!(plan.slot_by_layer, [0, 2, 2, 0]);
    assert_eq!(plan.slot_by_layer.len(), NUM_LAYERS);

    let lines = server.decisions();
    let mut line = lines[0].clone();
    assert!(line["unix_ms"].is_u64() && line["request_id"].is_string());
    let fields = line.as_object_mut().unwrap();
    fields.remove("unix_ms");
    fields.remove("request_id");
    let expected = json!({
        "principal": "anonymous", "group": "anonymous", "category": "fraud_deception", "source": "header",
        "confidence": null, "generation": id, "action": "steer", "strength": [0.75],
        "steered_prompt_tokens": PROMPT_TOKENS, "steered_completion_tokens": 13, "completion_tokens": 13,
        "outcome": "completed",
    });
    assert_eq!((lines.len(), line), (1, expected));
}

#[tokio::test]
async fn without_a_category_nothing_is_steered_and_the_evidence_says_so() {
    let server = Setup::default().start();
    let answer = server.chat(&[], json!({})).await;
    assert_eq!(
        (answer.header("x-safety-category"), answer.header("x-steering-applied")),
        ("none", "none")
    );
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!((&steering["category"], &steering["source"]), (&json!("none"), &json!("default")));
    assert_eq!(
        (&steering["strength"], &steering["steered_prompt_tokens"]),
        (&Value::Null, &json!(0))
    );
    assert!(server.control.journal.lock().unwrap().submitted[0].1.is_none());
}

#[tokio::test]
async fn an_answer_cut_by_a_stop_string_reports_what_was_measured_up_to_it() {
    let extra = json!({"stop": "lo", "n": 2});
    let server = Setup::default().start();
    let json = server.chat(&[FRAUD], extra).await.json();
    for choice in json["choices"].as_array().unwrap() {
        let steering = &choice["steering"];
        assert_eq!(choice["message"]["content"], "Hel");
        assert_eq!(steering["steered_prompt_tokens"], PROMPT_TOKENS);
        assert_eq!(steering["steered_completion_tokens"], 5);
        assert_eq!(steering["max_relative_norm"], MAX_RELATIVE_NORM);
        assert_eq!(steering["started_at_token"], 0);
    }
    assert_eq!(json["usage"]["completion_tokens"], 10);
    let line = &server.decisions()[0];
    assert_eq!(line["steered_prompt_tokens"], 2 * PROMPT_TOKENS);
    assert_eq!(
        (&line["steered_completion_tokens"], &line["completion_tokens"]),
        (&json!(10), &json!(10))
    );
}

#[tokio::test]
async fn a_category_that_is_refused_costs_no_forward_pass() {
    for stream in [false, true] {
        let server = Setup::default().start();
        let extra = json!({"stream": stream, "steering": {"category": "adult_content"}});
        let answer = server.chat(&[], extra).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-steering-applied")), (200, "refused"));
        if stream {
            let frames = answer.frames();
            assert_eq!(
                frames[1]["choices"][0]["delta"],
                json!({"refusal": "The policy refuses this."})
            );
            assert_eq!(frames[2]["choices"][0]["finish_reason"], "content_filter");
            assert_eq!(frames[2]["choices"][0]["steering"]["category"], "adult_content");
        } else {
            let choice = answer.json()["choices"][0].clone();
            let message = json!({"role": "assistant", "content": null, "refusal": "The policy refuses this."});
            assert_eq!(
                (&choice["message"], &choice["finish_reason"]),
                (&message, &json!("content_filter"))
            );
        }
        assert_eq!(answer.header("x-total-time").is_empty(), stream, "timing is for whole answers");
        assert!(server.control.journal.lock().unwrap().submitted.is_empty());
        assert_eq!(server.decisions()[0]["outcome"], "refused");
    }
}

#[tokio::test]
async fn a_category_that_is_logged_is_answered_unsteered_and_marked() {
    let server = Setup::default().start();
    let answer = server.chat(&[("x-safety-category", "political_campaigning")], json!({})).await;
    assert_eq!(answer.header("x-steering-applied"), "none");
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!(
        (&steering["shadow"], &steering["category"]),
        (&json!(true), &json!("political_campaigning"))
    );
    assert!(server.control.journal.lock().unwrap().submitted[0].1.is_none());
    // What a roll-out counts: the action, and the strength that steering would have had.
    let line = &server.decisions()[0];
    assert_eq!(
        (&line["action"], &line["category"]),
        (&json!("log"), &json!("political_campaigning"))
    );
    assert_eq!((&line["strength"], &line["outcome"]), (&json!([1.0]), &json!("completed")));
    let steered = (&line["steered_prompt_tokens"], &line["steered_completion_tokens"]);
    assert_eq!(steered, (&json!(0), &json!(0)));
}

/// The first step of a roll-out: what names no category is logged under the default's, and answered unsteered.
#[tokio::test]
async fn a_default_category_that_is_logged_counts_every_request_that_names_none() {
    let policy = TestPolicy { when_missing: "political_campaigning", ..TestPolicy::default() };
    let server = Setup { policy, ..Setup::default() }.start();
    assert_eq!(server.chat(&[], json!({})).await.header("x-steering-applied"), "none");
    let line = &server.decisions()[0];
    assert_eq!((&line["action"], &line["source"]), (&json!("log"), &json!("default")));
    assert_eq!(line["category"], "political_campaigning");
}

#[tokio::test]
async fn weights_that_were_not_measured_are_named_in_the_evidence() {
    let policy = TestPolicy { other_weights: true, ..TestPolicy::default() };
    let server = Setup { policy, ..Setup::default() }.start();
    let answer = server.chat(&[FRAUD], json!({})).await;
    assert_eq!(answer.json()["choices"][0]["steering"]["weights_mismatch"], true);
}

#[tokio::test]
async fn several_categories_get_a_slot_of_their_own() {
    let server = Setup::default().start();
    let answer =
        server.chat(&[("x-safety-category", "malware_viruses, fraud_deception")], json!({})).await;
    assert_eq!(answer.header("x-safety-category"), "fraud_deception,malware_viruses");
    let steering = &answer.json()["choices"][0]["steering"];
    assert_eq!(steering["category"], json!(["fraud_deception", "malware_viruses"]));
    assert_eq!(steering["strength"], json!([1.0, 1.0]));
    let journal = server.control.journal.lock().unwrap();
    assert_eq!(journal.registered, [4, 1]);
    let plan = journal.submitted[0].1.clone().unwrap();
    assert_eq!(
        (plan.strength.to_bits(), plan.slot_by_layer),
        (1.0_f32.to_bits(), vec![0, 5, 5, 0])
    );
}

#[tokio::test]
async fn a_layer_that_a_category_leaves_alone_is_not_steered_for_it() {
    let policy = TestPolicy { partial: true, ..TestPolicy::default() };
    let server = Setup { policy, ..Setup::default() }.start();
    for (categories, layers, slots) in [
        ("malware_viruses", json!([2]), [0, 0, 3, 0]),
        ("fraud_deception", json!([1, 2]), [0, 2, 2, 0]),
        ("malware_viruses,fraud_deception", json!([1, 2]), [0, 5, 5, 0]),
    ] {
        let answer = server.chat(&[("x-safety-category", categories)], json!({})).await;
        assert_eq!(answer.json()["choices"][0]["steering"]["layers"], layers, "{categories}");
        let plan = server.control.journal.lock().unwrap().submitted.pop().unwrap().1.unwrap();
        assert_eq!(plan.slot_by_layer, slots, "{categories}");
    }
}

#[tokio::test]
async fn several_categories_without_room_or_with_another_operator_are_refused() {
    let both = [("x-safety-category", "malware_viruses,fraud_deception")];
    let script = Script {
        text: "x".to_owned(),
        fail: None,
        num_slots: 4,
        activations: Vec::new(),
        looks: Vec::new(),
    };
    let full = Setup { script, ..Setup::default() }.start();
    assert_eq!(full.chat(&both, json!({})).await.error(), (429, "no_steering_slot".to_owned()));
    let policy = TestPolicy { operator: Operator::ProjectOut, ..TestPolicy::default() };
    let projecting = Setup { policy, ..Setup::default() }.start();
    assert_eq!(
        projecting.chat(&both, json!({})).await.error(),
        (400, "steering_not_combinable".to_owned())
    );
    assert_eq!(projecting.chat(&[FRAUD], json!({})).await.status, 200);
}

#[tokio::test]
async fn compare_gives_the_unsteered_and_the_steered_answer() {
    let server = Setup::default().start();
    let json =
        server.chat(&[FRAUD], json!({"seed": 5, "steering": {"compare": true}})).await.json();
    let marks: Vec<&Value> =
        json["choices"].as_array().unwrap().iter().map(|c| &c["steering"]["compare"]).collect();
    assert_eq!(marks, [true, false]);
    let submitted = server.control.journal.lock().unwrap().submitted.clone();
    assert!(submitted[0].1.is_none() && submitted[1].1.is_some());
    assert_eq!((submitted[0].0, submitted[1].0), (5, 5));
    let two = server.chat(&[FRAUD], json!({"n": 2, "steering": {"compare": true}})).await;
    assert_eq!(two.error(), (400, "invalid_value".to_owned()));
}

#[tokio::test]
async fn resolution_errors_reach_the_client() {
    let server = Setup::default().start();
    let named = |name: &'static str| [("x-safety-category", name)];
    assert_eq!(
        server.chat(&named("auto"), json!({})).await.error(),
        (400, "auto_unavailable".to_owned())
    );
    let unknown = server.chat(&named("nonsense"), json!({})).await;
    assert_eq!(unknown.error(), (400, "unknown_category".to_owned()));
    assert!(unknown.text.contains("fraud_deception"));
    assert_eq!(
        server.chat(&[("x-category", "x")], json!({})).await.error(),
        (400, "misspelled_header".to_owned())
    );
    let strict = Setup {
        policy: TestPolicy { permissive: false, when_missing: "reject", ..TestPolicy::default() },
        ..Setup::default()
    };
    let strict = strict.start();
    assert_eq!(
        strict.chat(&named("none"), json!({})).await.error(),
        (403, "steering_required".to_owned())
    );
    assert_eq!(strict.chat(&[], json!({})).await.error(), (400, "category_required".to_owned()));
    assert_eq!(strict.chat(&[FRAUD], json!({})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_keeps_the_generation_it_began_with() {
    let policy = TestPolicy::default();
    let mut server = Setup { gated: true, policy: policy.clone(), ..Setup::default() }.start();
    let before = generation(&server);
    let gate = server.control.gate.take().unwrap();
    gate.send(()).unwrap();
    let request =
        crate::harness::chat_request(&[FRAUD], &crate::harness::body(json!({"stream": true})));
    let response = tower::ServiceExt::oneshot(server.router.clone(), request).await.unwrap();
    // The engine holds at the gate with one token out.
    let (root, store) = (server.files.path().to_owned(), server.store.clone());
    let publishing = tokio::task::spawn_blocking(move || {
        let changed = TestPolicy { when_missing: "reject", ..policy };
        store::publish(&root, &changed);
        store.reload().unwrap();
    });
    publishing.await.unwrap();
    let after = generation(&server);
    assert_ne!(before, after);
    drop(gate);
    let answer = crate::harness::Answer::of(response).await;
    assert_eq!(answer.header("x-steering-generation"), before);
    assert_eq!(answer.frames().last().unwrap()["choices"][0]["steering"]["generation"], before);
    let next = server.chat(&[FRAUD], json!({})).await;
    assert_eq!(next.header("x-steering-generation"), after);
}
