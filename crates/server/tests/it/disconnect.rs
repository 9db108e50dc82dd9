//! Clients that leave.

use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{PROMPT_TOKENS, Server, Setup, body, chat_request};

fn gated() -> Server {
    Setup { gated: true, ..Setup::default() }.start()
}

/// Waits until the engine says that it dropped the sequence; then the decision log's only line.
async fn decision_after_drop(server: Server) -> Value {
    let server = tokio::task::spawn_blocking(move || {
        server.control.dropped.recv().unwrap();
        server
    });
    let mut lines = server.await.unwrap().decisions();
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_frees_its_place() {
    for stream in [false, true] {
        let server = gated();
        let request = chat_request(&[], &body(json!({"stream": stream})));
        let answering = tokio::spawn(server.router.clone().oneshot(request));
        server.until_submitted().await;
        answering.abort();
        assert!(answering.await.unwrap_err().is_cancelled());
        assert_eq!(decision_after_drop(server).await["outcome"], "client_closed");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_stream_frees_its_place_and_the_log_knows_how_far_it_came() {
    let server = gated();
    server.control.gate.as_ref().unwrap().send(()).unwrap();
    let category = [("x-safety-category", "fraud_deception")];
    let request = chat_request(&category, &body(json!({"stream": true})));
    let response = server.router.clone().oneshot(request).await.unwrap();
    drop(response);
    let line = decision_after_drop(server).await;
    assert_eq!(line["outcome"], "client_closed");
    assert_eq!(line["steered_prompt_tokens"], PROMPT_TOKENS);
    assert_eq!(
        (&line["steered_completion_tokens"], &line["completion_tokens"]),
        (&json!(1), &json!(1))
    );
}
