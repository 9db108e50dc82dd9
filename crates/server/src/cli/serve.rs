//! `skeg serve`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use skeg_server::{AuditLog, Drained, Origin, SteeringSlots, Stop, reload_for_signal, serve};
use skeg_vector_store::mirror::{FollowGuard, FollowOptions};
use skeg_vector_store::{Generation, Reload, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::administration::Administration;
use super::running::{Audience, EngineEnded, Running, model_path};
use super::signals;
use crate::config::{ClassifierConfig, Config, LogConfig, LogFormat, RawConfig};
use crate::output;

/// Serve a model behind the OpenAI API, steered per request.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Configuration file [default: skeg.toml here, if there is one]
    #[arg(long, env = "SKEG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check settings, model, vectors and policy, then exit
    #[arg(long)]
    check_config: bool,
    /// Fetch a catalogue model that is not in the cache
    #[arg(long)]
    fetch: bool,
    #[command(flatten)]
    settings: RawConfig,
}

const AFTER_HELP: &str = "\
Examples:
  skeg serve                                     the default model on 127.0.0.1:8080
  skeg serve --model model.gguf --vectors store  a file with its vector store
  skeg serve --config skeg.toml --check-config   is this configuration sound?

SIGHUP reads the vector store again. At SIGTERM and SIGINT the server is not ready any more, takes no new
requests, lets running answers end within the grace period, and exits with 0.";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::load_serving(args.settings, args.config.as_deref())?;
    start_log(&config.log)?;
    output::line(&config.to_string())?;
    let path = model_path(&config.model, args.fetch)?;
    let running = Running::start(&config, path, Audience::Network)?;
    if args.check_config {
        output::line(&summary(&config, &running))?;
        output::line("the configuration is sound")?;
        return stopped(running);
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let (running, served) = runtime.block_on(listen(&config, running));
    // Cuts what outlived the grace period, so that the engine has nobody left to answer.
    runtime.shutdown_background();
    let stopped = stopped(running);
    served.and(stopped)
}

/// Ends the engine; an error if it had died.
fn stopped(running: Running) -> anyhow::Result<()> {
    if running.stop() {
        Ok(())
    } else {
        bail!("the engine thread panicked; its reason is in the log")
    }
}

fn start_log(log: &LogConfig) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&log.filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // They would go to the same place, and end the program where nobody reads that any more.
        .log_internal_errors(false);
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// Binds, says where, and serves until the process is asked to end or the engine dies.
async fn listen(config: &Config, running: Running) -> (Running, anyhow::Result<()>) {
    let served = listen_inner(config, &running).await;
    (running, served)
}

async fn listen_inner(config: &Config, running: &Running) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.address).await.with_context(|| {
        format!("cannot listen on {}; choose another with --host and --port", config.address)
    })?;
    let address = listener.local_addr().context("the listener has no address")?;
    let end_requests = signals::EndRequests::listen()?;
    let admin = Administration::start(config, running).await?;
    // A store that is led by what it follows is not watched.
    let following = follow(config, running)?;
    let _watch = following.is_none().then(|| Store::watch(&running.store)).transpose()?;
    let reloads = reload_on_request(
        Arc::clone(&running.store),
        running.origin.clone(),
        admin.audit.clone(),
        signals::reload_requests()?,
    );
    tokio::spawn(reloads);
    output::line(&summary(config, running))?;
    if let Some(address) = admin.address() {
        output::line(&format!("administration on http://{address}"))?;
    }
    output::line(&format!("listening on http://{address}"))?;
    output::line(&curl(&format!("http://{address}"), &running.store))?;
    tracing::info!(%address, "listening");
    let (engine, ended) = (running.engine.clone(), running.engine_ended.clone());
    let (running_on, stopping) = watch::channel(());
    let asked = async move {
        reason_to_end(end_requests, ended).await;
        // Nothing new from here on: not ready, new requests refused, running answers finished.
        engine.drain();
        drop(running_on);
    };
    let finished = running.engine_ended.clone().wait();
    let stop = Stop { asked, finished, grace: config.grace_period };
    let (drained, ()) = tokio::join!(
        serve(listener, running.router.clone(), config.connections, stop),
        admin.serve(config, running, stopping),
    );
    if drained == Drained::GraceExpired {
        tracing::warn!("the grace period ended before every answer did; the rest was cut");
    }
    if let Some(following) = following {
        following.stop_without_waiting();
    }
    tracing::info!("ended");
    Ok(())
}

/// Follows the place of the vectors, where there is one.
fn follow(config: &Config, running: &Running) -> anyhow::Result<Option<FollowGuard>> {
    let Origin::Followed(mirror) = &running.origin else { return Ok(None) };
    Ok(Some(mirror.follow(FollowOptions { interval: config.model.poll_interval })?))
}

/// Waits until the process is asked to end, or its engine has died: then the thread is found not to have drained when it is joined
/// ([`Running::stop`]): it panicked, or its device failed for good.
async fn reason_to_end(end_requests: signals::EndRequests, engine_ended: EngineEnded) {
    tokio::select! {
        () = end_requests.next() => tracing::info!("asked to end; running answers may finish"),
        () = engine_ended.wait() => tracing::error!("the engine thread has ended; ending as well"),
    }
}

async fn reload_on_request(
    store: Arc<Store<SteeringSlots>>,
    origin: Origin,
    audit: Option<AuditLog>,
    mut requests: tokio::sync::mpsc::Receiver<()>,
) {
    while requests.recv().await.is_some() {
        let (store, origin, audit) = (Arc::clone(&store), origin.clone(), audit.clone());
        // Reads files and waits for the engine's step, so it has a thread of its own.
        let reload = move || reload_for_signal(&store, &origin, audit.as_ref());
        match tokio::task::spawn_blocking(reload).await {
            Ok(Ok(Reload::Unchanged)) => tracing::info!("SIGHUP: the vectors are unchanged"),
            Ok(Ok(Reload::Swapped { from, to })) => {
                tracing::info!(%from, %to, "SIGHUP: swapped the vectors");
            }
            // The last good generation is kept.
            Ok(Err(error)) => tracing::error!(%error, "SIGHUP: the vectors were not reloaded"),
            Err(error) => tracing::error!(%error, "SIGHUP: the reload did not end"),
        }
    }
}

/// What runs, for the person who started it.
fn summary(config: &Config, running: &Running) -> String {
    let live = running.store.current();
    let manifest = &live.generation.manifest;
    let identity = &running.model.identity;
    let categories: Vec<&str> =
        manifest.categories.iter().map(|category| category.as_str()).collect();
    let callers = match config.principals.as_slice() {
        [] => "anyone on this machine".to_owned(),
        some => format!("{} with a key", some.len()),
    };
    let lines = [
        format!("model    {} ({})", config.model.source, running.model.path.display()),
        format!(
            "         {} layers, hidden size {}, context {}, on {}",
            identity.num_hidden_layers,
            identity.hidden_size,
            running.model.max_model_len,
            running.model.device
        ),
        format!("         architecture {}", identity.architecture_id),
        format!("         weights {}", identity.weights_id),
        format!("vectors  {}", running.origin),
        format!("         generation {}, layers {:?}", live.generation.id, manifest.layers),
        format!("         {}", categories.join(" ")),
        format!("auto     {}", auto(&config.classifier, &live.generation)),
        format!("callers  {callers}"),
    ];
    lines.join("\n")
}

/// Who finds categories.
fn auto(classifier: &ClassifierConfig, generation: &Generation) -> String {
    match classifier {
        ClassifierConfig::Http(http) => {
            format!("asks {} ({}), which gets whole conversations", http.url, http.model)
        }
        ClassifierConfig::Generation if generation.has_probe() => {
            "by the generation's probe".to_owned()
        }
        ClassifierConfig::Generation => "not available: the generation has no probe".to_owned(),
        ClassifierConfig::Off => "off".to_owned(),
    }
}

/// A request to begin with.
fn curl(url: &str, store: &Store<SteeringSlots>) -> String {
    let live = store.current();
    let category =
        live.generation.manifest.categories.first().map_or("none", |first| first.as_str());
    format!(
        "try:\n  curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n    \
         -H 'X-Safety-Category: {category}' \\\n    \
         -d '{{\"model\":\"default\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'"
    )
}
