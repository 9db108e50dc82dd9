//! Clients that leave, and a server that is told to stop.

use std::time::Duration;

use serde_json::{Value, json};
use skeg_server::Drained;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::harness::{PROMPT_TOKENS, Server, Setup, body, chat_request};

fn gated() -> Server {
    Setup { gated: true, ..Setup::default() }.start()
}

async fn until_submitted(server: &Server) {
    while server.control.journal.lock().unwrap().submitted.is_empty() {
        tokio::task::yield_now().await;
    }
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
        until_submitted(&server).await;
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

#[tokio::test]
async fn draining_finishes_what_is_running_and_accepts_no_more() {
    let mut server = gated();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { stopped.await.unwrap() };
    let serving = tokio::spawn(skeg_server::serve(
        listener,
        server.router.clone(),
        shutdown,
        Duration::from_secs(60),
    ));
    let mut client = TcpStream::connect(address).await.unwrap();
    let text = body(json!({})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    client.write_all(format!("{head}{text}").as_bytes()).await.unwrap();
    until_submitted(&server).await;
    stop.send(()).unwrap();
    drop(server.control.gate.take());
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("Hello there."), "{answer}");
    assert_eq!(serving.await.unwrap().unwrap(), Drained::Complete);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_grace_period_ends_what_does_not_finish() {
    let server = gated();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { stopped.await.unwrap() };
    let serving =
        tokio::spawn(skeg_server::serve(listener, server.router.clone(), shutdown, Duration::ZERO));
    let text = body(json!({})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    client.write_all(format!("{head}{text}").as_bytes()).await.unwrap();
    until_submitted(&server).await;
    stop.send(()).unwrap();
    assert_eq!(serving.await.unwrap().unwrap(), Drained::GraceExpired);
}
