//! The listener: how it drains.

use std::time::Duration;

use serde_json::json;
use skeg_server::Drained;

use crate::client::{Client, Listening};
use crate::harness::{Setup, body};

fn gated() -> Setup {
    Setup { gated: true, ..Setup::default() }
}

#[tokio::test]
async fn draining_finishes_what_is_running_and_refuses_what_comes() {
    let mut listening = Listening::start(gated(), Duration::from_secs(60)).await;
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
async fn the_grace_period_ends_what_does_not_finish() {
    let mut listening = Listening::start(gated(), Duration::ZERO).await;
    let mut client = Client::connect(listening.address).await;
    client.send_chat(&body(json!({}))).await;
    listening.server.until_submitted().await;
    listening.ask_to_stop().await;
    assert_eq!(listening.end().await, Drained::GraceExpired);
}
