//! Steering as plain numbers: where, how, how much, and which slot of the table.
//!
//! The model knows no category. Whoever does (the server) registers vectors with the engine, gets a
//! [`SlotLease`] and hands each request a [`SteeringPlan`] that names slots. A positive strength adds
//! the vector as it stands, so it moves activations the way the vector points (safe minus unsafe).
//!
//! Source: arXiv 2410.01174, Eq. 2: `attn_l <- attn_l + m * omega_l`; `strength` is the paper's m.

mod fingerprint;
mod lease;
mod plan;
mod registering;
mod table_store;
mod tables;

pub(crate) use fingerprint::SteeringId;
pub use lease::SlotLease;
pub use plan::{LayerVector, Operator, Positions, Site, SteeringPlan, SteeringVector};
pub use registering::Registering;
pub use tables::SteeringTables;
