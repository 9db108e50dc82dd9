//! One entry for developers: `cargo xtask demo | test | ci | tidy | hub | sdk | faults | fleet | vectors | probe | golden | cuda`.

mod cargo;
mod ci;
mod cuda;
mod demo;
mod faults;
mod fleet;
mod golden;
mod hub;
mod model;
mod output;
mod probe;
mod python;
mod sdk;
mod server;
mod test;
mod tidy;
mod tools;
mod vectors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer tasks of the skeg repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Fetch the default model, build, serve on loopback, ask one question unsteered and steered.
    Demo(demo::Args),
    /// Run every test: unit, integration, documentation. Fetches the default model first.
    Test(test::Args),
    /// What CI runs: fmt, tidy, clippy (without and with CUDA), rustdoc, test, deny, demo.
    Ci,
    /// Check what no other tool does: file headers, file length, dependency direction, deployment files.
    Tidy,
    /// Make the shipped vectors again from data and compare them with the ones in the repository.
    Vectors(vectors::Args),
    /// Train the shipped probe again from data, measure it on sets that it never saw; `--ship` makes it live.
    Probe(probe::Args),
    /// Fetch from a hub on loopback that can be broken: resuming, hashes, revisions, tokens.
    Hub,
    /// Talk to a running server with the official OpenAI package for Python.
    Sdk,
    /// Publish to an object store on loopback that three servers follow behind haproxy, take it away, restart replicas.
    Fleet,
    /// Kill publishers and replicas, fill the disk; the old generation or the new one must serve, whole.
    Faults(faults::Args),
    /// Make the golden files again with the Python scripts beside them.
    Golden,
    /// The CUDA build on a machine that need have no GPU: its check, NVIDIA's toolkit, the binary, the kernels' report.
    #[command(subcommand)]
    Cuda(cuda::Command),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(),
        Task::Vectors(args) => vectors::run(&args),
        Task::Probe(args) => probe::run(&args),
        Task::Hub => hub::run(),
        Task::Sdk => sdk::run(),
        Task::Fleet => fleet::run(),
        Task::Faults(args) => faults::run(&args),
        Task::Golden => golden::run(),
        Task::Cuda(command) => cuda::run(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
