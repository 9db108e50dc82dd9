//! `cargo xtask cuda`: what the CUDA build needs and no other. Nothing here runs on a GPU.
//!
//! `check` uses neither network nor NVIDIA's toolkit, beyond the crates that cargo fetches. The others use a toolkit that is
//! there, or assemble one from wheels.

mod build;
mod check;
mod driver_stub;
mod environment;
mod kernels;
mod ptxas;
mod stand_in;
mod toolkit;
mod wheels;

use anyhow::Result;

pub(crate) use check::check;
pub(crate) use kernels::check_where_possible as check_kernels_where_possible;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run clippy over everything with the feature `cuda`, with a stand-in for NVIDIA's compiler. Nothing is linked.
    Check,
    /// Find NVIDIA's toolkit, or assemble one from wheels in the user's cache; print how to use it.
    Toolkit,
    /// Build the binary `skeg` with the feature `cuda`, optimised and stripped.
    Build(build::Args),
    /// Compile the kernels and report registers, spills and shared memory; a spill is an error.
    Kernels(kernels::Args),
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Check => check(),
        Command::Toolkit => toolkit::print(),
        Command::Build(args) => build::run(args),
        Command::Kernels(args) => kernels::run(args),
    }
}
