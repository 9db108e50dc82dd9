//! Every route, and the errors that no handler makes.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use sha2::{Digest, Sha256};
use skeg_server::{PrincipalEntry, Principals};

use crate::harness::{MAX_MODEL_LEN, Setup, chat_request};
use crate::scripted::Script;

#[tokio::test]
async fn models_are_listed_under_all_names() {
    let server = Setup::default().start();
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(
        (&list["data"][0]["id"], &list["data"][1]["id"]),
        (&json!("tiny"), &json!("org/tiny"))
    );
    for name in ["tiny", "org/tiny", "default"] {
        let model = server.get(&format!("/v1/models/{name}")).await.json();
        assert_eq!(
            (&model["id"], &model["root"], &model["object"]),
            (&json!(name), &json!("tiny"), &json!("model"))
        );
        assert_eq!(model["max_model_len"], MAX_MODEL_LEN);
    }
    assert_eq!(server.get("/v1/models/other").await.error(), (404, "model_not_found".to_owned()));
}

#[tokio::test]
async fn metrics_are_in_the_text_form_of_prometheus() {
    let metrics = Setup::default().start().get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    let text = &metrics.text;
    assert!(text.contains("vllm:num_requests_running{model_name=\"tiny\"} 0.0"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn a_server_that_drains_says_so_and_takes_no_request() {
    let server = Setup::default().start();
    assert_eq!(server.get("/health/live").await.status, 200);
    let ready = server.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (200, &json!("ready")));
    server.engine.drain();
    let ready = server.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (503, &json!("not_ready")));
    assert!(ready.json()["reason"].as_str().unwrap().contains("shutting down"));
    assert_eq!(server.get("/health/live").await.status, 200);
    let refused = server.chat(&[], json!({})).await;
    assert_eq!(refused.error(), (503, "shutting_down".to_owned()));
    assert_eq!(refused.header("connection"), "close");
}

#[tokio::test]
async fn a_server_whose_engine_died_says_so_and_takes_no_request() {
    let mut server = Setup { script: Script::panics(), ..Setup::default() }.start();
    let lost = server.chat(&[], json!({})).await;
    assert_eq!(lost.error(), (500, "internal_error".to_owned()));
    server.engine_ended.changed().await.unwrap_err();
    let ready = server.get("/health/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["reason"].as_str().unwrap().contains("engine thread has ended"));
    assert_eq!(server.chat(&[], json!({})).await.error(), (503, "engine_stopped".to_owned()));
}

#[tokio::test]
async fn unknown_paths_methods_and_bodies_are_answered_in_openais_shape() {
    let server = Setup::default().start();
    let missing = server.get("/v2/nothing").await;
    assert_eq!(missing.error(), (404, "not_found".to_owned()));
    assert!(!missing.header("x-request-id").is_empty());
    assert_eq!(missing.json()["error"]["type"], "not_found_error");
    assert_eq!(
        server.get("/v1/chat/completions").await.error(),
        (405, "method_not_allowed".to_owned())
    );
    let raw =
        |bytes: Vec<u8>| Request::post("/v1/chat/completions").body(Body::from(bytes)).unwrap();
    assert_eq!(
        server.send(raw(b"{\"messages\": ".to_vec())).await.error(),
        (400, "invalid_json".to_owned())
    );
    assert_eq!(
        server.send(raw(vec![b' '; 64 * 1024 + 1])).await.error(),
        (413, "body_too_large".to_owned())
    );
}

#[tokio::test]
async fn a_method_that_is_not_served_is_told_which_are() {
    let server = Setup::default().start();
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        server.send(request).await
    };
    let options = ask("OPTIONS", "/v1/chat/completions").await;
    assert_eq!(options.error(), (405, "method_not_allowed".to_owned()));
    assert_eq!(options.header("allow"), "POST");
    let post = ask("POST", "/v1/models").await;
    assert_eq!(post.error(), (405, "method_not_allowed".to_owned()));
    assert_eq!(post.header("allow"), "GET,HEAD");
    let head = ask("HEAD", "/health/ready").await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    let bad_path = ask("GET", "/v1/models/%ff").await;
    assert_eq!(bad_path.error(), (400, "invalid_path".to_owned()));
}

#[tokio::test]
async fn a_sane_request_id_is_echoed_and_another_replaced() {
    let server = Setup::default().start();
    let answer = server.chat(&[("x-request-id", "my-id_1")], json!({})).await;
    assert_eq!(answer.header("x-request-id"), "my-id_1");
    let long = "x".repeat(129);
    for insane in ["", "has space", long.as_str()] {
        let answer = server.chat(&[("x-request-id", insane)], json!({})).await;
        assert!(!answer.header("x-request-id").is_empty());
        assert_ne!(answer.header("x-request-id"), insane);
    }
}

#[tokio::test]
async fn keys_are_asked_for_where_they_are_configured() {
    let entry = PrincipalEntry {
        name: "ann".to_owned(),
        key_sha256: Sha256::digest(b"secret").into(),
        group: "anonymous".to_owned(),
    };
    let server =
        Setup { principals: Principals::from_entries(vec![entry]), ..Setup::default() }.start();
    let without = server.chat(&[], json!({})).await;
    assert_eq!(without.error(), (401, "invalid_api_key".to_owned()));
    assert_eq!(without.header("www-authenticate"), "Bearer");
    assert_eq!(server.get("/v1/models").await.status, 401);
    assert_eq!(server.chat(&[("authorization", "Bearer wrong")], json!({})).await.status, 401);
    assert_eq!(server.chat(&[("authorization", "Bearer secret")], json!({})).await.status, 200);
    assert_eq!(server.get("/health/live").await.status, 200);
    let lines = server.decisions();
    assert_eq!((lines.len(), &lines[0]["principal"]), (1, &json!("ann")));
}

#[tokio::test]
async fn a_request_for_another_model_is_a_404() {
    let server = Setup::default().start();
    assert_eq!(
        server.chat(&[], json!({"model": "gpt-4"})).await.error(),
        (404, "model_not_found".to_owned())
    );
    assert_eq!(server.chat(&[], json!({"model": "default"})).await.status, 200);
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(server.send(chat_request(&[], &body)).await.status, 200);
}
