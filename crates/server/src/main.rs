//! The binary `skeg`: reads the command line, runs one command, and turns its outcome into an exit code.

mod cli;
mod config;
mod fetch;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

/// The command failed.
const FAILURE: u8 = 1;
/// The configuration cannot be used (`EX_USAGE` of sysexits.h; clap's own 2 is for the command line).
const BAD_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough: `skeg vectors list | head -1`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::failure(&error);
            let is_configuration = error.chain().any(|cause| cause.is::<config::ConfigError>());
            ExitCode::from(if is_configuration { BAD_CONFIGURATION } else { FAILURE })
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
