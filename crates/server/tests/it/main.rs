//! The HTTP interface in process: a scripted engine, a tiny tokenizer, a store in a temporary folder; no network but
//! loopback, no sleeps.

#![expect(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their helpers"
)]

mod admin;
mod answer_looks;
mod auto;
mod auto_mean;
mod chat;
mod classifier;
mod cli;
mod client;
mod disconnect;
mod endpoint;
mod harness;
mod listening;
mod metrics;
mod projection;
mod real_model;
mod routes;
mod scripted;
mod steering;
mod store;
mod stream;
mod swap_storm;
