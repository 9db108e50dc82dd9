//! The arithmetic of a forward pass: one module an operation, each with a CPU kernel and the same of
//! candle's operations for other devices.
//!
//! Architecture invariants: on the CPU a row's result is set by the weights, the row and its own
//! sequence's cache, never by the number of rows, the tile or the thread; unsafe code lives here
//! alone, beside a portable twin. The composites run on the CPU too: unit tests hold each kernel
//! against its composite.

mod accumulate;
mod attention;
mod cpu;
mod dense;
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
pub(crate) use dense::matmul_dense;
pub(crate) use elementwise::{add, rms_norm, swiglu};
pub(crate) use logits::{largest, weights};
pub(crate) use packed::{
    PackedMatrix, matmul as matmul_packed, rows as packed_rows, swiglu_matmul as swiglu_packed,
};
pub(crate) use quantized::matmul_quantized;
pub(crate) use steer::{SteerRow, add_steered, prefetch_slots, steer};
