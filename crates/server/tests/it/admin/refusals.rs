//! Requests that make no sense, are too many or too large, or come too late.

use std::time::Duration;

use axum::body::Body;
use serde_json::json;
use skeg_server::AdminLimits;

use super::{AdminSetup, files_of, place, request, start, upload, variant};

const GENERATIONS: &str = "/v1/steering/generations";
const RELOAD: &str = "/v1/steering/reload";

fn limited(limits: AdminLimits) -> AdminSetup {
    AdminSetup { limits, ..AdminSetup::default() }
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_a_400_that_names_the_field() {
    let server = start();
    let (id, files) = files_of(&variant("new"));
    let whole = upload(&files, json!({}));
    for (path, body, code, param) in [
        (GENERATIONS, json!({}), "invalid_value", json!("files")),
        (GENERATIONS, upload(&files, json!({"directory": "a"})), "invalid_value", json!("files")),
        (GENERATIONS, json!({"files": {}}), "invalid_value", json!("files")),
        (GENERATIONS, json!({"files": [1.0, 2.0]}), "invalid_value", json!("files")),
        (GENERATIONS, json!({"files": {"CARD.md": "!"}}), "invalid_value", json!("files.CARD.md")),
        (GENERATIONS, upload(&files, json!({"publish": "yes"})), "invalid_value", json!("publish")),
        (
            GENERATIONS,
            upload(&files, json!({"dry_run": true})),
            "unknown_parameter",
            json!("dry_run"),
        ),
        (
            GENERATIONS,
            upload(&files, json!({"expected_generation": "latest"})),
            "invalid_value",
            json!("expected_generation"),
        ),
        (
            GENERATIONS,
            upload(&files, json!({"publish": false, "expected_generation": id})),
            "invalid_value",
            json!("expected_generation"),
        ),
        (GENERATIONS, json!([]), "invalid_json", json!(null)),
        (
            "/v1/steering/rollback",
            json!({"generation": "../.."}),
            "invalid_value",
            json!("generation"),
        ),
        ("/v1/steering/rollback", json!({"to": id}), "unknown_parameter", json!("to")),
        (RELOAD, json!({"force": true}), "unknown_parameter", json!("force")),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.error(), (400, code.to_owned()), "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    assert_eq!(server.current().0, 1);
    assert_eq!(server.publish(&whole).await.status, 200);
}

#[tokio::test]
async fn an_upload_above_the_limit_is_a_413() {
    let server =
        limited(AdminLimits { max_upload_bytes: 1000, ..AdminSetup::default().limits }).start();
    let (_, files) = files_of(&variant("new"));
    let body = server.publish(&upload(&files, json!({}))).await;
    assert_eq!(body.error(), (413, "body_too_large".to_owned()));
    place(&server, "new", &files);
    let folder = server.publish(&json!({"directory": "new"})).await;
    assert_eq!(folder.error(), (413, "upload_too_large".to_owned()));
    assert_eq!(server.results("publish"), ["begun", "refused", "begun", "refused"]);
    assert_eq!(server.current().0, 1);
}

#[tokio::test]
async fn a_body_that_does_not_end_is_a_408() {
    let limits =
        AdminLimits { body_read_timeout: Duration::from_millis(5), ..AdminSetup::default().limits };
    let server = limited(limits).start();
    let endless = Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = server.send(request("POST", GENERATIONS, "old-key", endless)).await;
    assert_eq!(answer.error(), (408, "body_timeout".to_owned()));
}

#[tokio::test]
async fn eight_changes_may_be_under_way_and_the_kill_switch_waits_for_none() {
    let server = start();
    let endless = || Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..9 {
        waiting.spawn(server.sending(request("POST", GENERATIONS, "old-key", endless())));
    }
    // Eight wait for their bodies; the one that ends found no place.
    let busy = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(busy.error(), (429, "load_busy".to_owned()));
    assert_eq!(busy.header("retry-after"), "1");
    let refuse = json!({"action": "refuse_all", "expires": 60});
    assert_eq!(server.override_(&refuse).await.status, 200);
    assert_eq!(server.get("/v1/steering").await.status, 200);
    let reload = server.post(RELOAD, &json!({})).await;
    assert_eq!(reload.error(), (429, "load_busy".to_owned()));
    waiting.shutdown().await;
    assert_eq!(server.post(RELOAD, &json!({})).await.status, 200, "the places are free again");
}

#[tokio::test(start_paused = true)]
async fn changes_have_a_rate_and_the_kill_switch_has_none() {
    let server =
        limited(AdminLimits { max_changes_per_minute: 2, ..AdminLimits::default() }).start();
    for _ in 0..2 {
        assert_eq!(server.post(RELOAD, &json!({})).await.status, 200);
    }
    let limited = server.post(RELOAD, &json!({})).await;
    assert_eq!(limited.error(), (429, "rate_limited".to_owned()));
    assert_eq!(server.results("reload").len(), 4, "what the limit refuses fills no disk");
    for _ in 0..5 {
        let refuse = json!({"action": "refuse_all", "expires": 60});
        assert_eq!(server.override_(&refuse).await.status, 200);
    }
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(server.post(RELOAD, &json!({})).await.status, 200);
    assert_eq!(server.post(RELOAD, &json!({})).await.status, 429);
}

#[tokio::test]
async fn a_server_that_ends_changes_nothing_more_and_still_shows_its_state() {
    let server = start();
    server.server.engine.drain();
    let refused = server.post(RELOAD, &json!({})).await;
    assert_eq!(refused.error(), (503, "shutting_down".to_owned()));
    assert_eq!(server.get("/v1/steering").await.status, 200);
    assert_eq!(server.audited("reload").len(), 0);
}

#[tokio::test]
async fn requests_are_counted_by_the_status_of_their_answers() {
    let server = start();
    server.get("/v1/steering").await;
    for _ in 0..2 {
        server.send(request("GET", "/v1/steering", "no-key", Body::empty())).await;
    }
    let metrics = server.server.get("/metrics").await;
    for line in ["status=\"200\"} 1", "status=\"401\"} 2"] {
        assert!(metrics.text.contains(line), "{}", metrics.text);
    }
}
