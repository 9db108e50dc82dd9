//! Integration tests of skeg-model, one binary.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy lets tests panic, not the functions they share"
)]

mod dequantised;
mod device_pass;
mod engine;
mod engine_asks;
mod engine_company;
mod engine_gate;
mod engine_gate_company;
mod engine_gate_mean;
mod engine_preemption;
mod engine_prefix_cache;
mod engine_real_model;
mod engine_registering;
mod engine_sequences;
mod engine_support;
mod engine_thread;
mod forward;
mod golden_logits;
mod golden_text;
mod invariants;
mod invariants_steering;
mod loader;
mod projection;
mod quantised;
mod sampling;
mod support;
mod tensor_parallel;
mod tiny;
