//! The program `skeg` itself: its exit codes and messages, on files that are made here.

mod audit;
mod bad_start;
mod bench;
mod bench_gpu;
mod bench_swaps;
mod bucket_server;
mod classifier;
mod deployment;
mod evaluate_auto;
mod extract;
mod fetch;
mod files;
mod judges;
mod model;
mod policy;
mod probe;
mod probe_tune;
mod serve;
mod serve_followed;
mod vectors;
mod vectors_exchange;
mod vectors_publish;
mod vectors_recompute;
mod vectors_sign;

use std::path::Path;
use std::process::{Command, Output};

/// The program with nothing of the caller's settings, in `folder`.
pub(crate) fn skeg(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skeg"));
    command.current_dir(folder).env_clear().env("HOME", folder).env("SKEG_CACHE_DIR", folder);
    command
}

/// Runs it to its end: exit code, standard output, standard error.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}
