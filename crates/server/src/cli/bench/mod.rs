//! `skeg bench`: speed in this process, the cost of steering and of the gate, a load on a running server, what speed costs in
//! accuracy, and publications under load.
//!
//! What computes figures of measurements (`stats`, `bootstrap`, `draw`) knows nothing of models or HTTP.

mod accuracy;
mod bootstrap;
mod draw;
mod gate;
mod gpu;
mod instructions;
mod load;
mod machine;
mod model;
mod modes;
mod paired;
mod pairs;
mod rig;
mod serve;
mod stats;
mod steering;
mod swaps;
mod throughput;

use serde::Serialize;
use skeg_model::{KvCacheDtype, LoadedModel, ModelFiles, device_name};

use super::ModelFlags;
use super::running::model_path;
use crate::output;
use instructions::Instructions;
use machine::Machine;

/// Measure speed: of a model, of steering, of the gate, of a server, of publications, against a device's limits; and accuracy.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Model(model::Args),
    Steering(steering::Args),
    Gate(gate::Args),
    Gpu(gpu::Args),
    Serve(serve::Args),
    Accuracy(accuracy::Args),
    Swaps(swaps::Args),
}

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Model(args) => model::run(args),
        Command::Steering(args) => steering::run(args),
        Command::Gate(args) => gate::run(args),
        Command::Gpu(args) => gpu::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Accuracy(args) => accuracy::run(args),
        Command::Swaps(args) => swaps::run(args),
    }
}

/// What every measurement in this process is asked for.
#[derive(Debug, clap::Args)]
struct InProcessFlags {
    /// Type of cached keys and values: f16 or f32
    #[arg(long, value_name = "DTYPE", default_value_t = KvCacheDtype::default())]
    kv_cache_dtype: KvCacheDtype,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    model: ModelFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A model in this process, with the count that was started before any of its threads.
struct InProcess {
    model: LoadedModel,
    subject: Subject,
    instructions: Instructions,
}

/// What is measured.
#[derive(Debug, Serialize)]
struct Subject {
    model: String,
    /// Numeric types of the matrices, with how many tensors are of each.
    weight_types: serde_json::Value,
    weight_file_bytes: u64,
    device: String,
    weights: &'static str,
    kv_cache_dtype: String,
    /// Instructions of the CPU kernels.
    cpu_kernels: String,
    /// Threads of a forward pass.
    threads: usize,
}

impl InProcess {
    fn load(flags: &InProcessFlags) -> anyhow::Result<Self> {
        let instructions = Instructions::start();
        let config = flags.model.serving_config(None)?;
        let path = model_path(&config.model, flags.model.fetch)?;
        let model = LoadedModel::load(&path, &config.model.load_options())?;
        let files = ModelFiles::discover(&path)?;
        let sizes = files.weight_files().iter().map(|file| Ok(std::fs::metadata(file)?.len()));
        let subject = Subject {
            model: config.model.source.slug(),
            weight_types: serde_json::to_value(files.weight_types()?)?,
            weight_file_bytes: sizes.sum::<std::io::Result<u64>>()?,
            device: device_name(model.llama.device()),
            weights: config.model.weights_name(),
            kv_cache_dtype: flags.kv_cache_dtype.to_string(),
            cpu_kernels: model.llama.cpu_kernels().to_string(),
            threads: model.llama.num_threads(),
        };
        Ok(Self { model, subject, instructions })
    }
}

/// The line above a table.
fn print_head(subject: &Subject, machine: &Machine) -> std::io::Result<()> {
    output::line(&format!(
        "{} on {}: {} kernels, {} threads of {} processors, {} cache, {} build of skeg {}",
        subject.model,
        subject.device,
        subject.cpu_kernels,
        subject.threads,
        machine.num_cpus,
        subject.kv_cache_dtype,
        machine.build,
        machine.version
    ))
}

/// What stands below a table.
fn print_foot(peak_memory_bytes: Option<u64>, refused: Option<&str>) -> anyhow::Result<()> {
    if let Some(bytes) = peak_memory_bytes {
        output::line(&format!("peak memory: {} MB", bytes / 1_000_000))?;
    }
    if let Some(reason) = refused {
        output::note(&format!("no instruction counts: {reason}"));
    }
    Ok(())
}
