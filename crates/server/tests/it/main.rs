//! The HTTP interface in process: a scripted engine, a tiny tokenizer, a store in a temporary folder; no network but
//! loopback, no sleeps.

mod chat;
mod disconnect;
mod harness;
mod routes;
mod scripted;
mod steering;
mod store;
mod stream;
