//! Integration tests of skeg-model.

mod forward;
mod invariants;
mod invariants_steering;
mod tiny;
