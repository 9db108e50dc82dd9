//! Clients that leave, and a server that is told to stop.

use std::time::Duration;

use serde_json::json;
use skeg_server::Drained;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::harness::{Server, Setup, body, chat_request};

fn gated() -> Server {
    Setup { gated: true, ..Setup::default() }.start()
}

async fn until_submitted(server: &Server) {
    while server.control.journal.lock().unwrap().submitted.is_empty() {
        tokio::task::yield_now().await;
    }
}

/// Sends a question over a connection and waits until the engine has it.
async fn ask(client: &mut TcpStream, server: &Server) {
    let text = body(json!({})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    client.write_all(format!("{head}{text}").as_bytes()).await.unwrap();
    until_submitted(server).await;
}

/// Waits until the engine says that it dropped the sequence; then the log's only outcome.
async fn outcome_after_drop(server: Server) -> String {
    let server = tokio::task::spawn_blocking(move || {
        server.control.dropped.recv().unwrap();
        server
    });
    let lines = server.await.unwrap().decisions();
    assert_eq!(lines.len(), 1);
    lines[0]["outcome"].as_str().unwrap().to_owned()
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
        assert_eq!(outcome_after_drop(server).await, "client_closed");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_stream_frees_its_place() {
    let server = gated();
    server.control.gate.as_ref().unwrap().send(()).unwrap();
    let request = chat_request(&[], &body(json!({"stream": true})));
    let response = server.router.clone().oneshot(request).await.unwrap();
    drop(response);
    assert_eq!(outcome_after_drop(server).await, "client_closed");
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
    ask(&mut client, &server).await;
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
    ask(&mut client, &server).await;
    stop.send(()).unwrap();
    assert_eq!(serving.await.unwrap().unwrap(), Drained::GraceExpired);
}
