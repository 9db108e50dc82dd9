//! The kill switch: what it does to requests, and when it ends.

use std::time::Duration;

use serde_json::{Value, json};

use super::{AdminServer, AdminSetup, start};
use crate::harness::{Setup, body, chat_request};
use crate::store::TestPolicy;

const FRAUD: (&str, &str) = ("x-safety-category", "fraud_deception");

async fn engage(server: &AdminServer, action: &str) {
    let answer = server.override_(&json!({"action": action, "expires": 60})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["override"]["action"], action);
}

#[tokio::test]
async fn refuse_all_refuses_without_a_forward_pass() {
    let server = start();
    assert_eq!(
        server.server.chat(&[FRAUD], json!({})).await.header("x-steering-applied"),
        "planned"
    );
    engage(&server, "refuse_all").await;
    for (headers, extra) in [
        (vec![], json!({})),
        (vec![FRAUD], json!({"steering": {"strength": 1.2}})),
        (vec![("x-safety-category", "none")], json!({"n": 3})),
        (vec![FRAUD], json!({"steering": {"compare": true}})),
    ] {
        let answer = server.server.chat(&headers, extra).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-steering-applied")), (200, "refused"));
        assert_eq!(answer.header("x-steering-override"), "refuse_all");
        assert_eq!(answer.header("x-steering-generation"), server.live());
        let json = answer.json();
        assert_eq!(json["choices"].as_array().unwrap().len(), 1);
        let choice = &json["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("content_filter"), &Value::Null)
        );
        assert_eq!(choice["message"]["refusal"], skeg_vector_store::DEFAULT_REFUSAL);
        let steering = &choice["steering"];
        assert_eq!(
            (&steering["override"], &steering["category"]),
            (&json!("refuse_all"), &json!("none"))
        );
        assert_eq!(
            (&steering["steered_completion_tokens"], &json["usage"]["completion_tokens"]),
            (&json!(0), &json!(0))
        );
    }
    let stream = server.server.chat(&[], json!({"stream": true})).await.frames();
    let last = &stream.last().unwrap()["choices"][0];
    assert_eq!(
        (&last["finish_reason"], &last["steering"]["override"]),
        (&json!("content_filter"), &json!("refuse_all"))
    );
    assert_eq!(server.server.control.journal.lock().unwrap().submitted.len(), 1, "the one before");
}

#[tokio::test(start_paused = true)]
async fn refuse_all_ends_at_its_time_and_the_decision_log_tells_when_it_held() {
    let server = start();
    server.server.chat(&[FRAUD], json!({})).await;
    engage(&server, "refuse_all").await;
    server.server.chat(&[FRAUD], json!({})).await;
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(
        server.server.chat(&[], json!({})).await.header("x-steering-override"),
        "refuse_all"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    let after = server.server.chat(&[FRAUD], json!({})).await;
    assert_eq!(
        (after.header("x-steering-applied"), after.header("x-steering-override")),
        ("planned", "")
    );
    assert!(after.json()["choices"][0]["steering"].get("override").is_none());

    let lines = server.server.decisions();
    let of =
        |line: &Value| (line["action"].clone(), line["override"].clone(), line["outcome"].clone());
    assert_eq!(of(&lines[0]), (json!("steer"), Value::Null, json!("completed")));
    assert_eq!(lines.len(), 4);
    for line in &lines[1..3] {
        assert_eq!(of(line), (json!("refuse"), json!("refuse_all"), json!("refused")), "{line}");
        assert_eq!((&line["category"], &line["completion_tokens"]), (&json!("none"), &json!(0)));
    }
    assert_eq!(of(&lines[3]), of(&lines[0]));
}

#[tokio::test]
async fn default_only_serves_the_default_and_refuses_what_callers_choose() {
    let policy = TestPolicy { when_missing: "fraud_deception", ..TestPolicy::default() };
    let server =
        AdminSetup { setup: Setup { policy, ..Setup::default() }, ..AdminSetup::default() }.start();
    let malware = ("x-safety-category", "malware_viruses");
    assert_eq!(server.server.chat(&[malware], json!({})).await.status, 200);
    engage(&server, "default_only").await;
    let default = server.server.chat(&[], json!({})).await;
    assert_eq!(
        (default.header("x-safety-category"), default.header("x-steering-applied")),
        ("fraud_deception", "planned")
    );
    assert_eq!(default.header("x-steering-override"), "default_only");
    let steering = &default.json()["choices"][0]["steering"];
    assert_eq!(
        (&steering["override"], &steering["source"]),
        (&json!("default_only"), &json!("default"))
    );
    assert_eq!(server.server.chat(&[FRAUD], json!({})).await.status, 200, "it is the default");
    for (headers, extra) in [
        (vec![malware], json!({})),
        (vec![("x-safety-category", "none")], json!({})),
        (vec![], json!({"steering": {"category": "adult_content"}})),
        (vec![], json!({"steering": {"strength": 0.5}})),
        (vec![FRAUD], json!({"steering": {"compare": true}})),
        (vec![FRAUD], json!({"steering": {"positions": "prompt"}})),
    ] {
        let refused = server.server.chat(&headers, extra).await;
        assert_eq!(refused.error(), (403, "override_default_only".to_owned()), "{headers:?}");
    }
    assert_eq!(server.override_(&json!({"action": "clear"})).await.json()["override"], Value::Null);
    assert_eq!(server.server.chat(&[malware], json!({})).await.status, 200);
    // Every sequence was steered.
    let submitted = server.server.control.journal.lock().unwrap().submitted.clone();
    assert!(submitted.len() == 4 && submitted.iter().all(|(_, plan)| plan.is_some()));
}

#[tokio::test]
async fn default_only_without_a_default_answers_nothing_that_is_due_unsteered() {
    let server = start();
    engage(&server, "default_only").await;
    let refused = server.server.chat(&[FRAUD], json!({})).await;
    assert_eq!(refused.error(), (403, "override_default_only".to_owned()));
    let nothing_due = server.server.chat(&[], json!({})).await;
    assert_eq!(
        (nothing_due.status.as_u16(), nothing_due.header("x-steering-applied")),
        (200, "none")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_under_way_goes_on() {
    let setup = Setup { gated: true, ..Setup::default() };
    let mut server = AdminSetup { setup, ..AdminSetup::default() }.start();
    let gate = server.server.control.gate.take().unwrap();
    gate.send(()).unwrap();
    let request = chat_request(&[FRAUD], &body(json!({"stream": true})));
    let response = tower::ServiceExt::oneshot(server.server.router.clone(), request).await.unwrap();
    engage(&server, "refuse_all").await;
    let refused = server.server.chat(&[FRAUD], json!({})).await;
    assert_eq!(refused.header("x-steering-applied"), "refused");
    drop(gate);
    let answer = crate::harness::Answer::of(response).await;
    let frames = answer.frames();
    let last = &frames.last().unwrap()["choices"][0];
    assert_eq!((&last["finish_reason"], last["steering"].get("override")), (&json!("stop"), None));
}

#[tokio::test(start_paused = true)]
async fn it_is_shown_wherever_operators_look() {
    let server = start();
    let metrics = async || server.server.get("/metrics").await.text;
    assert!(
        metrics()
            .await
            .contains("skeg_override_active{model_name=\"tiny\",action=\"refuse_all\"} 0.0")
    );
    engage(&server, "refuse_all").await;
    tokio::time::advance(Duration::from_secs(20)).await;
    let text = metrics().await;
    for line in [
        "skeg_override_active{model_name=\"tiny\",action=\"refuse_all\"} 1.0",
        "skeg_override_active{model_name=\"tiny\",action=\"default_only\"} 0.0",
        "skeg_override_remaining_seconds{model_name=\"tiny\"} 40.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let expected = json!({"action": "refuse_all", "expires_in_seconds": 40.0});
    assert_eq!(server.get("/v1/steering").await.json()["override"], expected);
    let ready = server.server.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["override"]), (200, &expected));
}

#[tokio::test]
async fn an_override_needs_an_action_and_an_end_within_a_day() {
    let server = start();
    for (body, code, param) in [
        (json!({}), "invalid_value", "action"),
        (json!({"action": "refuse_some", "expires": 60}), "invalid_value", "action"),
        (json!({"action": "refuse_all"}), "expires_required", "expires"),
        (json!({"action": "default_only", "expires": null}), "expires_required", "expires"),
        (json!({"action": "refuse_all", "expires": 0}), "invalid_value", "expires"),
        (json!({"action": "refuse_all", "expires": -1}), "invalid_value", "expires"),
        (json!({"action": "refuse_all", "expires": 86401}), "invalid_value", "expires"),
        (json!({"action": "refuse_all", "expires": "never"}), "invalid_value", "expires"),
        (
            json!({"action": "refuse_all", "expires": "2020-01-01T00:00:00Z"}),
            "invalid_value",
            "expires",
        ),
        (
            json!({"action": "refuse_all", "expires": "9999-01-01T00:00:00Z"}),
            "invalid_value",
            "expires",
        ),
        (json!({"action": "clear", "expires": 60}), "invalid_value", "expires"),
        (
            json!({"action": "refuse_all", "expires": 60, "category": "x"}),
            "unknown_parameter",
            "category",
        ),
    ] {
        let answer = server.override_(&body).await;
        assert_eq!(answer.error(), (400, code.to_owned()), "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    assert_eq!(server.server.chat(&[], json!({})).await.header("x-steering-override"), "");
    let results = server.results("override");
    assert_eq!(
        (results.len(), results.iter().filter(|result| *result == "refused").count()),
        (24, 12)
    );
}

#[tokio::test]
async fn every_turn_of_the_switch_is_audited() {
    let server = start();
    engage(&server, "refuse_all").await;
    engage(&server, "default_only").await;
    assert_eq!(server.override_(&json!({"action": "clear"})).await.status, 200);
    let lines = server.audited("override");
    let done: Vec<_> = lines.iter().filter(|line| line["result"] == "done").collect();
    let of = |line: &Value| (line["from"].clone(), line["to"].clone());
    assert_eq!(of(done[0]), (Value::Null, json!("refuse_all")));
    assert_eq!(of(done[1]), (json!("refuse_all"), json!("default_only")));
    assert_eq!(of(done[2]), (json!("default_only"), json!("clear")));
    let lasts = done[0]["expires_unix_ms"].as_u64().unwrap() - done[0]["unix_ms"].as_u64().unwrap();
    assert!((1..=60_000).contains(&lasts), "{lasts}");
    assert!(done.iter().all(|line| line["who"] == "ops" && line["request_id"].is_string()));
}
