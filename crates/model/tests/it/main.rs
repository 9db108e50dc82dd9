//! Integration tests of skeg-model, one binary.

mod forward;
mod golden_text;
mod invariants;
mod invariants_steering;
mod support;
mod tiny;
