//! The arithmetic of a forward pass: one module an operation.

mod steer;

pub(crate) use steer::{SteerRow, steer};
