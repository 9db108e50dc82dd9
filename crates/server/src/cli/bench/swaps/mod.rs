//! `skeg bench swaps`: publications under load, and every answer compared with the same request's alone.

mod requests;
mod server;
mod storm;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Serialize;
use skeg_vector_store::{load_generation, set_current};

use super::super::ModelFlags;
use super::super::running::model_path;
use super::super::vectors::chosen;
use super::machine::Machine;
use super::stats::Percentiles;
use crate::output;
use requests::Material;
use server::Server;
use storm::{Measured, References, Sizes};

/// Bad answers that are told one by one.
const MAX_SHOWN: usize = 5;

/// Publish generations while clients ask: is every answer of one generation, and how soon does a publication count?
///
/// Starts servers of its own on this machine, with a copy of the store in a temporary folder. Fails when a request fails, or an
/// answer differs from what the same request is answered alone under the generation that it names.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Store whose live generation is varied [default: vectors/MODEL here, then beside the program]
    #[arg(long, value_name = "DIR")]
    vectors: Option<PathBuf>,
    /// Requests, of every category, streamed and not
    #[arg(long, value_name = "NUM", default_value_t = 500, value_parser = positive())]
    requests: u64,
    /// Publications over the same time
    #[arg(long, value_name = "NUM", default_value_t = 50, value_parser = positive())]
    publications: u64,
    /// One publication in so many is bad and must take no effect
    #[arg(long, value_name = "NUM", default_value_t = 10, value_parser = positive())]
    bad_every: u64,
    /// Generations that are published in turn: variants of the store's live one
    #[arg(long, value_name = "NUM", default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=64))]
    generations: u64,
    /// Clients that ask at the same time
    #[arg(long, value_name = "NUM", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    clients: u64,
    /// Tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 8, value_parser = positive())]
    max_tokens: u64,
    /// Places in the servers' KV cache; small, so that it is full early and memory says something about the swaps
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    kv_cache_tokens: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  skeg bench swaps --requests 500 --publications 50
  skeg bench swaps --model model.gguf --vectors store --json";

fn positive() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..)
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    model: String,
    requests: usize,
    publications: usize,
    bad_publications: usize,
    clients: usize,
    max_tokens: u64,
    /// Different requests, and generations that were published in turn.
    kinds: usize,
    generations: usize,
    /// Requests without an answer.
    failed: usize,
    /// Answers that differ from those alone, or name no generation that was published.
    different: usize,
    swaps: f64,
    failed_swaps: f64,
    /// Mean time from the server's look at `CURRENT` until the generation was live.
    swap_seconds: f64,
    publish_seconds: Option<Percentiles>,
    to_first_request_seconds: Option<Percentiles>,
    to_first_answer_seconds: Option<Percentiles>,
    /// Memory of the server's process, from before the first publication to after the last request.
    resident_bytes: Vec<u64>,
    seconds: f64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let config = args.model.serving_config(args.vectors.clone())?;
    let path = model_path(&config.model, args.model.fetch)?;
    let path = std::path::absolute(&path).with_context(|| path.display().to_string())?;
    let store = config.model.vectors_root()?;
    let generation = load_generation(&store, &chosen(&store, None)?, None)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (num_variants, max_tokens) =
        (usize::try_from(args.generations)?, usize::try_from(args.max_tokens)?);
    let material = Material::write(folder.path(), &generation, num_variants, max_tokens)?;
    let sizes = args.sizes()?;
    let mut flags: Vec<OsString> = vec!["--model".into(), path.into()];
    let mut flag = |name: &str, value: String| flags.extend([name.into(), value.into()]);
    flag("--device", config.model.device.to_string());
    flag("--weights", config.model.weights_name().to_owned());
    flag("--max-num-seqs", sizes.clients.to_string());
    flag("--kv-cache-tokens", args.kv_cache_tokens.to_string());
    if let Some(kernels) = config.model.cpu.kernels {
        flag("--cpu-kernels", kernels.to_string());
    }
    if let Some(threads) = config.model.cpu.num_threads {
        flag("--threads", threads.to_string());
    }

    output::note("asking each kind of request alone under each generation");
    let references = references(&flags, &material)?;
    let server = Server::start(&flags, &material.root, sizes.clients + 1)?;
    // What is loaded at a first use is loaded before the memory is looked at.
    material.requests.iter().try_for_each(|request| server.ask(request).map(drop))?;
    output::note("publishing and asking");
    let began = Instant::now();
    let measured = storm::run(&server, &material, &references, sizes)?;
    let seconds = began.elapsed().as_secs_f64();
    let report = args.report(config.model.source.slug(), &material, &server, &measured, seconds)?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    verdict(&measured)
}

/// What each kind is answered under each generation by a server that keeps nothing and does one thing at a time.
fn references(flags: &[OsString], material: &Material) -> anyhow::Result<References> {
    let mut flags = flags.to_vec();
    flags.push("--no-prefix-caching".into());
    let mut references = References::new();
    for generation in &material.variants {
        set_current(&material.root, generation, None)?;
        let quiet = Server::start(&flags, &material.root, 1)?;
        let ask = |request| {
            let answer = quiet.ask(request).context("a request alone")?;
            if answer.generation != generation.as_str() {
                bail!("a server of {generation} alone names `{}`", answer.generation);
            }
            Ok(answer)
        };
        let answers = material.requests.iter().map(ask).collect::<anyhow::Result<_>>()?;
        references.insert(generation.to_string(), answers);
    }
    set_current(&material.root, &material.variants[0], None)?;
    Ok(references)
}

impl Args {
    fn sizes(&self) -> anyhow::Result<Sizes> {
        Ok(Sizes {
            requests: usize::try_from(self.requests)?,
            publications: usize::try_from(self.publications)?,
            clients: usize::try_from(self.clients)?,
            bad_every: usize::try_from(self.bad_every)?,
        })
    }

    fn report(
        &self,
        model: String,
        material: &Material,
        server: &Server,
        measured: &Measured,
        seconds: f64,
    ) -> anyhow::Result<Report> {
        let sizes = self.sizes()?;
        let swap = "skeg_swap_duration_seconds";
        let num_timed = server.metric(&format!("{swap}_count"))?.max(1.0);
        Ok(Report {
            machine: Machine::here(),
            model,
            requests: sizes.requests,
            publications: sizes.publications,
            bad_publications: measured.num_bad,
            clients: sizes.clients,
            max_tokens: self.max_tokens,
            kinds: material.requests.len(),
            generations: material.variants.len(),
            failed: measured.failed.len(),
            different: measured.different.len(),
            swaps: server.metric("skeg_swap_total result=\"ok\"")?,
            failed_swaps: server.metric("skeg_swap_total result=\"failed\"")?,
            swap_seconds: server.metric(&format!("{swap}_sum"))? / num_timed,
            publish_seconds: Percentiles::of(&measured.publishing),
            to_first_request_seconds: Percentiles::of(&measured.to_first_request),
            to_first_answer_seconds: Percentiles::of(&measured.to_first_answer),
            resident_bytes: measured.resident_bytes.clone(),
            seconds,
        })
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    let Report { machine, .. } = report;
    output::line(&format!(
        "{} on {} processors, {} build of skeg {}: {} requests by {} clients and {} publications, {} of them bad, in {:.1} s",
        report.model,
        machine.num_cpus,
        machine.build,
        machine.version,
        report.requests,
        report.clients,
        report.publications,
        report.bad_publications,
        report.seconds
    ))?;
    output::line(&format!(
        "{} requests failed; {} answers differ from those alone ({} kinds, {} generations)",
        report.failed, report.different, report.kinds, report.generations
    ))?;
    output::line(&format!(
        "the server swapped {} times and refused {}; a swap took {:.1} ms in the mean",
        report.swaps,
        report.failed_swaps,
        1e3 * report.swap_seconds
    ))?;
    let mut table =
        output::Table::new(&["FROM A PUBLICATION'S START", "P50 MS", "P95 MS", "P99 MS"]);
    for (name, percentiles) in [
        ("to its end: CURRENT names it", report.publish_seconds),
        ("to the first request under it", report.to_first_request_seconds),
        ("to the first answer of the model", report.to_first_answer_seconds),
    ] {
        let Some(Percentiles { p50, p95, p99 }) = percentiles else { continue };
        let times = [p50, p95, p99].map(|seconds| format!("{:.1}", 1e3 * seconds));
        table.row([vec![name.to_owned()], times.to_vec()].concat());
    }
    table.print()?;
    let memory = report.resident_bytes.iter().map(|bytes| (bytes / 1_000_000).to_string());
    output::line(&format!(
        "memory of the server, start to end: {} MB",
        memory.collect::<Vec<_>>().join(", ")
    ))?;
    Ok(())
}

/// An error if anything was not as it is alone.
fn verdict(measured: &Measured) -> anyhow::Result<()> {
    let Measured { failed, different, .. } = measured;
    if failed.is_empty() && different.is_empty() {
        return Ok(());
    }
    let shown = failed.iter().chain(different).take(MAX_SHOWN).cloned().collect::<Vec<_>>();
    bail!(
        "{} requests failed and {} answers differ from those alone: {}",
        failed.len(),
        different.len(),
        shown.join("; ")
    )
}
