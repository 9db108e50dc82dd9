//! The arithmetic of a forward pass on the CPU, one module an operation. A GPU's is in [`crate::gpu`].
//!
//! Architecture invariants: on the CPU a row's result is set by the weights, the row and its own
//! sequence's cache, never by the number of rows, the tile or the thread; unsafe code lives here
//! alone, beside a portable twin. Unit tests hold each kernel against its composite, the same of candle's operations.

mod accumulate;
mod attention;
#[cfg(test)]
mod composite;
mod cpu;
mod element;
mod elementwise;
mod lanes;
mod logits;
mod packed;
mod prefetch;
mod quantized;
mod rows;
mod steer;
#[cfg(test)]
mod tests;

pub(crate) use attention::{AttentionHeads, attention};
pub(crate) use cpu::Cpu;
pub use cpu::{CpuKernels, CpuOptions};
pub(crate) use elementwise::{add, rms_norm, swiglu};
pub(crate) use logits::{largest, weights};
pub(crate) use packed::{
    PackedMatrix, matmul as matmul_packed, rows as packed_rows, swiglu_matmul as swiglu_packed,
};
pub(crate) use quantized::matmul_quantized;
pub(crate) use steer::{SteerRow, add_steered, prefetch_slots, steer};
