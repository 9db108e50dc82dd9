//! The listener: how it drains, and what it does about slow and about many clients.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use serde_json::json;
use skeg_server::{ConnectionLimits, Drained, Stop};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::client::{Client, Listening, chat_head};
use crate::harness::{Setup, body};

fn gated() -> Setup {
    Setup { gated: true, ..Setup::default() }
}

#[tokio::test]
async fn draining_finishes_what_is_running_and_refuses_what_comes() {
    let mut listening = Listening::start(gated(), ConnectionLimits::default()).await;
    let mut running = Client::connect(listening.address).await;
    running.send_chat(&body(json!({}))).await;
    listening.server.until_submitted().await;
    let mut kept_alive = Client::connect(listening.address).await;
    assert_eq!(kept_alive.get("/health/ready").await.status, 200);

    listening.ask_to_stop().await;
    let ready = kept_alive.get("/health/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["reason"].as_str().unwrap().contains("shutting down"));
    kept_alive.send_chat(&body(json!({}))).await;
    let refused = kept_alive.response().await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("shutting_down")));
    assert!(refused.head.contains("connection: close"), "{}", refused.head);
    assert_eq!(kept_alive.rest().await, "", "the connection is closed");
    let mut late = Client::connect(listening.address).await;
    assert_eq!(late.get("/health/ready").await.status, 503);

    drop(listening.server.control.gate.take());
    let answer = running.response().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "Hello there.");
    let address = listening.address;
    assert_eq!(listening.end().await, Drained::Complete);
    assert!(Client::try_connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn the_grace_period_cuts_what_does_not_finish() {
    let limits = ConnectionLimits::default();
    let mut listening = Listening::with_grace(gated(), limits, Duration::ZERO).await;
    let mut client = Client::connect(listening.address).await;
    client.send_chat(&body(json!({}))).await;
    listening.server.until_submitted().await;
    listening.ask_to_stop().await;
    // The gate stays closed, so that no answer can come.
    let Listening { server, serving, .. } = listening;
    assert_eq!(serving.await.unwrap(), Drained::GraceExpired);
    assert_eq!(client.rest().await, "");
    assert_eq!(server.decisions()[0]["outcome"], "client_closed");
}

#[tokio::test]
async fn a_client_that_does_not_end_its_head_is_disconnected() {
    let header_read_timeout = Duration::from_millis(5);
    let limits = ConnectionLimits { header_read_timeout, ..ConnectionLimits::default() };
    let listening = Listening::start(Setup::default(), limits).await;
    for head in ["", "GET /health/live HT"] {
        let mut client = Client::connect(listening.address).await;
        client.write(head).await;
        assert_eq!(client.rest().await, "", "{head:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_end_its_body_gets_408() {
    let setup = Setup { body_read_timeout: Duration::from_millis(5), ..Setup::default() };
    let listening = Listening::start(setup, ConnectionLimits::default()).await;
    let mut client = Client::connect(listening.address).await;
    client.write(&format!("{}{{\"mess", chat_head(100))).await;
    let response = client.response().await;
    assert_eq!(response.status, 408);
    let error = &response.json()["error"];
    assert_eq!(error["code"], "body_timeout");
    assert_eq!(error["type"], "invalid_request_error");
    assert!(response.head.contains("connection: close"), "{}", response.head);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_disconnected() {
    let limits =
        ConnectionLimits { write_timeout: Duration::from_millis(5), ..ConnectionLimits::default() };
    let (answering, mut dropped) = mpsc::channel::<()>(1);
    let answering = Mutex::new(Some(answering));
    let endless = move || {
        let answering = answering.lock().unwrap().take();
        let parts = std::iter::repeat_with(move || {
            assert!(answering.is_some());
            Ok::<_, Infallible>(vec![b'x'; 1 << 16])
        });
        let body = Body::from_stream(tokio_stream::iter(parts));
        std::future::ready(body)
    };
    let endless = Arc::new(endless);
    let router = Router::new().route("/", get(move || endless()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, finished) = (std::future::pending(), std::future::pending());
    let stop = Stop { asked, finished, grace: Duration::ZERO };
    tokio::spawn(skeg_server::serve(listener, router, limits, stop));
    let mut client = Client::connect(address).await;
    client.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(dropped.recv().await, None, "the answer is given up");
    drop(client);
}

#[tokio::test]
async fn a_connection_over_the_limit_is_served_when_another_leaves() {
    let limits = ConnectionLimits { max_connections: 2, ..ConnectionLimits::default() };
    let listening = Listening::start(Setup::default(), limits).await;
    let mut first = Client::connect(listening.address).await;
    let mut second = Client::connect(listening.address).await;
    assert_eq!(first.get("/health/live").await.status, 200);
    assert_eq!(second.get("/health/live").await.status, 200);
    let mut third = Client::connect(listening.address).await;
    third.write("GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // The server has its turn often enough to answer, if it were to.
    for _ in 0..20 {
        assert_eq!(first.get("/health/live").await.status, 200);
        assert!(!third.has_something_to_read());
    }
    drop(second);
    assert_eq!(third.response().await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let mut listening = Listening::start(Setup::default(), ConnectionLimits::default()).await;
    let mut idle = Client::connect(listening.address).await;
    assert_eq!(idle.get("/health/live").await.status, 200);
    listening.ask_to_stop().await;
    assert_eq!(listening.end().await, Drained::Complete);
    assert_eq!(idle.rest().await, "");
}
