//! `cargo xtask cuda`: what the CUDA build needs and no other. Nothing here uses the network, a GPU or NVIDIA's toolkit; cargo
//! itself fetches crates that it does not have.

mod check;
mod stand_in;

use anyhow::Result;

pub(crate) use check::check;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run clippy over everything with the feature `cuda`, with a stand-in for NVIDIA's compiler. Nothing is linked.
    Check,
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Check => check(),
    }
}
