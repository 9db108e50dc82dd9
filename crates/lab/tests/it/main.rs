//! Integration tests of skeg-lab on a tiny random Llama and, where data is given, on public data.
#![expect(clippy::unwrap_used, reason = "clippy lets tests panic, not the functions they share")]

mod answering;
mod calibrate;
mod calibrate_categories;
mod data;
mod embedder;
mod endpoint_classifier;
mod endpoint_judge;
mod exchange;
mod experiment;
mod extraction;
mod generation;
mod guided;
mod ifeval;
mod improve;
mod judge;
mod judges;
mod likelihood;
mod probe;
mod probe_answers;
mod real_model;
mod recompute;
mod served;
mod study;
mod tiny_model;
mod twins;
mod variants;
