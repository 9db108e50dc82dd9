//! The command line: one file a command.

mod administration;
mod audit;
mod bench;
mod calibrate;
mod chat;
mod columns;
mod conversation;
mod data_flags;
mod evaluate;
mod evaluate_auto;
mod extract;
mod extract_guided;
mod extract_variant;
mod extractions;
mod judge_flags;
mod judges;
mod laboratory;
mod layers;
mod model;
mod policy;
mod print_flags;
mod probe;
mod probe_answers;
mod probe_disguise;
mod probe_read;
mod probe_seen;
mod probe_tune;
mod progress;
mod recipe;
mod running;
mod serve;
mod signals;
mod study;
mod study_methods;
mod vector_source;
mod vectors;
mod vectors_export;
mod vectors_history;
mod vectors_import;
mod vectors_publish;
mod vectors_recompute;
mod vectors_sign;
mod written;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use skeg_vector_store::TrustedKeys;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, RawConfig};

/// Serves Llama-family models behind the OpenAI API, steered per request and harm category inside the
/// forward pass.
#[derive(Debug, Parser)]
#[command(name = "skeg", version, about, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  skeg model fetch                      fetch the default model
  skeg serve                            serve it on 127.0.0.1:8080
  skeg chat --compare                   talk to it, unsteered and steered side by side

Settings come from flags, then SKEG_* variables, then skeg.toml, then defaults.

Exit codes: 0 success, 1 failure, 2 wrong command line, 64 unusable configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Chat(chat::Args),
    #[command(subcommand)]
    Model(model::Command),
    #[command(subcommand)]
    Vectors(vectors::Command),
    #[command(subcommand)]
    Policy(policy::Command),
    Extract(Box<extract::Args>),
    Calibrate(Box<calibrate::Args>),
    #[command(subcommand)]
    Evaluate(evaluate::Command),
    #[command(subcommand)]
    Probe(Box<probe::Command>),
    #[command(subcommand)]
    Bench(Box<bench::Command>),
    #[command(subcommand)]
    Audit(audit::Command),
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if !matches!(self.command, Command::Serve(_)) {
            show_warnings_of_the_model();
        }
        match self.command {
            Command::Serve(args) => serve::run(*args),
            Command::Chat(args) => chat::run(args),
            Command::Model(command) => model::run(command),
            Command::Vectors(command) => vectors::run(command),
            Command::Policy(command) => policy::run(&command),
            Command::Extract(args) => extract::run(&args),
            Command::Calibrate(args) => calibrate::run(&args),
            Command::Evaluate(command) => evaluate::run(&command),
            Command::Probe(command) => probe::run(&command),
            Command::Bench(command) => bench::run(&command),
            Command::Audit(command) => audit::run(&command),
        }
    }
}

/// Has the model's warnings, such as that no GPU was found, written to standard error. `serve` has a log for them.
fn show_warnings_of_the_model() {
    let started = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("skeg_model=warn"))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        // They would go to the same place, and end the program where nobody reads that any more.
        .log_internal_errors(false)
        .try_init();
    // It fails where a log was started before, which then has them.
    drop(started);
}

/// Settings of every command that loads a model and its vectors.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelFlags {
    /// Configuration file [default: skeg.toml here, if there is one]
    #[arg(long, env = "SKEG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model: a catalogue name, a .gguf file or a Hugging Face folder [default: smollm2-135m-instruct]
    #[arg(long, env = "SKEG_MODEL", value_name = "NAME|PATH")]
    model: Option<String>,
    /// Where the model runs: auto, cpu, cuda or cuda:N; auto is a GPU where this build has CUDA and there is one, else the
    /// CPU [default: auto to chat and to measure speed, cpu for everything else, so that its results do not depend on the machine]
    #[arg(long, env = "SKEG_DEVICE")]
    device: Option<String>,
    /// Weights in memory: `as-stored`, or `f32` (dequantised) [default: as-stored]
    #[arg(long, env = "SKEG_WEIGHTS", value_name = "FORM")]
    weights: Option<String>,
    /// Instructions of the CPU kernels: portable, avx2 or avx512 [default: the fastest this processor has]
    #[arg(long, env = "SKEG_CPU_KERNELS", value_name = "LEVEL")]
    cpu_kernels: Option<String>,
    /// Threads of a forward pass on the CPU [default: the processors this process may use]
    #[arg(long, env = "SKEG_THREADS", value_name = "NUM")]
    threads: Option<usize>,
    /// On a GPU, give each row the same bits in any company: answers do not depend on other requests to the last bit, and prompts
    /// take longer; not with a GGUF's blocks, unless --weights is f32. On the CPU it is always so, and this changes nothing
    #[arg(
        long,
        env = "SKEG_BATCH_INVARIANT",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    batch_invariant: Option<bool>,
    /// On a GPU, start the operations of each step one by one instead of replaying them as a CUDA graph
    #[arg(
        long,
        env = "SKEG_NO_CUDA_GRAPHS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    no_cuda_graphs: Option<bool>,
    /// On a GPU of compute capability 9.0 or more, begin each kernel while the one before it ends: shorter steps. Off, since it was not
    /// tried on a GPU yet
    #[arg(
        long,
        env = "SKEG_PROGRAMMATIC_LAUNCHES",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    programmatic_launches: Option<bool>,
    /// Folder for fetched models [default: the platform's cache folder]
    #[arg(long, env = "SKEG_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Public keys, as base64 or name:base64, one of which must have signed the vectors [default: none, signatures are not asked for]
    #[arg(long, env = "SKEG_TRUSTED_KEYS", value_name = "KEY", value_delimiter = ',')]
    trusted_keys: Option<Vec<String>>,
    /// Fetch a catalogue model that is not in the cache
    #[arg(long)]
    fetch: bool,
}

impl ModelFlags {
    /// The configuration with these flags on top, and `vectors` where the command takes a store.
    fn config(&self, vectors: Option<PathBuf>) -> Result<Config, ConfigError> {
        Config::load(self.given(vectors), self.config.as_deref())
    }

    /// The same for commands that run a model as `serve` does.
    fn serving_config(&self, vectors: Option<PathBuf>) -> Result<Config, ConfigError> {
        Config::load_serving(self.given(vectors), self.config.as_deref())
    }

    /// The keys that are trusted, whatever the model.
    fn trusted_keys(&self) -> Result<TrustedKeys, ConfigError> {
        Config::load_trusted_keys(self.given(None), self.config.as_deref())
    }

    fn given(&self, vectors: Option<PathBuf>) -> RawConfig {
        RawConfig {
            model: self.model.clone(),
            device: self.device.clone(),
            weights: self.weights.clone(),
            cpu_kernels: self.cpu_kernels.clone(),
            threads: self.threads,
            batch_invariant: self.batch_invariant,
            no_cuda_graphs: self.no_cuda_graphs,
            programmatic_launches: self.programmatic_launches,
            cache_dir: self.cache_dir.clone(),
            vectors,
            trusted_keys: self.trusted_keys.clone(),
            ..RawConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_a_help_text() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no help");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
            }
            for inner in command.get_subcommands() {
                check(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        check(&Cli::command(), "skeg");
    }
}
