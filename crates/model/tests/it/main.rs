//! Integration tests of skeg-model.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy lets tests panic, not the functions they share"
)]

mod forward;
mod invariants;
mod invariants_steering;
mod tiny;
