//! Operations of a device, each against what was not written for it.

mod batch_invariance;
mod emulated_add_norm;
mod emulated_attention;
mod emulated_rows;
mod emulator;
mod gated;
mod host_add_norm;
mod host_attention;
mod host_memory;
mod host_rows;
mod meanwhile;
mod quantized;
mod random_step;
mod ranks;
mod replayed;
mod sample;
mod sample_filter;
mod skinny;
mod support;
mod whole_model;
