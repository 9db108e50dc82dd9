//! Integration tests of skeg-model.

mod engine_support;
mod engine_thread;
mod forward;
mod golden_text;
mod invariants;
mod invariants_steering;
mod loader;
mod support;
mod tiny;
