//! Integration tests of skeg-vector-store, one binary.
#![expect(clippy::unwrap_used, reason = "clippy lets tests panic, not the functions they share")]

mod compatibility;
mod copying;
mod forge;
mod integrity;
mod publishing;
mod reloading;
mod round_trip;
mod support;
mod validation;
mod validation_vectors;
mod watching;
