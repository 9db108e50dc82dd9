//! Integration tests of skeg-vector-store, one binary.
#![expect(clippy::unwrap_used, reason = "clippy lets tests panic, not the functions they share")]

mod bucket;
mod collecting;
mod compatibility;
mod copying;
mod differing;
mod dying;
mod forge;
mod integrity;
mod leading;
mod mirroring;
mod places;
mod policies;
mod probes;
mod publishing;
mod reloading;
mod round_trip;
mod signing;
mod support;
mod trusting;
mod validation;
mod validation_bounds;
mod validation_vectors;
mod watching;
