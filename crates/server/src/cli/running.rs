//! A model with its engine thread and its vectors, ready to answer: what `serve` listens with, what `chat`
//! talks to, and what `--check-config` checks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::Router;
use skeg_model::engine::{EngineConfig, EngineHandle, EngineThread, LlamaEngine};
use skeg_model::{LoadedModel, ModelIdentity, device_name};
use skeg_server::{
    AppParts, Canary, CanaryModel, CanaryOptions, ClassifierKind, DecisionLog, Operations, Origin,
    Principals, SteeringSlots, app, steering_slots,
};
use skeg_vector_store::{Category, Generation, ModelBinding, Store, load_generation, read_current};
use tokio::sync::watch;

use super::vector_source::{VectorSource, open_store};
use crate::config::{Config, ModelConfig};
use crate::fetch::{self, FetchOptions};

/// Generations that may have slots at once: the live one, the one that replaces it, and older ones to which
/// running requests hold on when publications follow each other quickly.
const LIVE_GENERATIONS: usize = 4;

/// Everything that was started.
pub(super) struct Running {
    /// The HTTP interface over all of it.
    pub(super) router: Router,
    pub(super) store: Arc<Store<SteeringSlots>>,
    pub(super) engine: EngineHandle,
    pub(super) engine_thread: EngineThread,
    pub(super) engine_ended: EngineEnded,
    pub(super) operations: Operations,
    pub(super) origin: Origin,
    pub(super) model: ModelFacts,
}

/// Tells when the engine thread has ended, to as many as want to know.
#[derive(Debug, Clone)]
pub(super) struct EngineEnded(watch::Receiver<()>);

impl EngineEnded {
    /// Waits until it has.
    pub(super) async fn wait(mut self) {
        // Nothing is ever sent: the error is that the sender is gone, and it goes with the thread.
        while self.0.changed().await.is_ok() {}
    }
}

/// What is worth saying about a model that runs.
pub(super) struct ModelFacts {
    pub(super) path: PathBuf,
    pub(super) identity: ModelIdentity,
    pub(super) max_model_len: usize,
    /// Where it runs: `cpu`, or `cuda:N`.
    pub(super) device: String,
}

/// The model's path, fetched first where that is wanted.
pub(super) fn model_path(model: &ModelConfig, fetch_missing: bool) -> anyhow::Result<PathBuf> {
    match model.path() {
        Err(_) if fetch_missing => {
            let name = model.source.to_string();
            Ok(fetch::fetch(&name, &model.cache_dir, &FetchOptions::default())?.path)
        }
        path => Ok(path?),
    }
}

impl Running {
    /// Loads the model, starts its engine and opens its vectors. `principals` and the decision log are the
    /// configuration's for a server, none for a terminal.
    pub(super) fn start(
        config: &Config,
        path: PathBuf,
        audience: Audience,
    ) -> anyhow::Result<Self> {
        let source = VectorSource::of(&config.model)?;
        let classifier = config.classifier.connect()?;
        if let Some(classifier) = &classifier {
            classifier.announce();
        }
        let model = LoadedModel::load(&path, &config.model.load_options())?;
        let Some(chat_template) = model.chat_template else {
            bail!(
                "{} has no chat template, so it cannot answer messages: use an instruction-tuned model, \
                 or put its tokenizer_config.json or chat_template.jinja beside the file",
                path.display()
            );
        };
        let binding = binding(&model.identity);
        let origin = source.open(&binding, &config.trusted_keys)?;
        let num_categories = num_categories(origin.root());
        let num_hidden_layers = model.identity.num_hidden_layers;
        let device = device_name(model.llama.device());
        let (engine, max_model_len) = start_engine(config, model.llama, num_categories)?;
        let StartedEngine { thread: engine_thread, handle: engine, ended } = engine;
        let tokenizer = Arc::new(model.tokenizer);
        let canary = (config.canary && audience == Audience::Network).then(|| {
            let model = CanaryModel {
                engine: engine.clone(),
                tokenizer: Arc::clone(&tokenizer),
                chat_template: chat_template.clone(),
                stop_token_ids: model.stop_token_ids.clone(),
                num_hidden_layers,
            };
            Canary::new(model, CanaryOptions::default())
        });
        let prepare = prepare(engine.clone(), config.classifier.kind(), canary);
        let store = open_store(&origin, (&binding, &config.trusted_keys), prepare)?;
        let (principals, decision_log) = audience.parts(config)?;
        let operations = Operations::default();
        let router = app(AppParts {
            served_names: config.served_model_names.clone(),
            tokenizer,
            chat_template: Some(chat_template),
            stop_token_ids: model.stop_token_ids,
            max_model_len,
            num_hidden_layers,
            engine: engine.clone(),
            store: Arc::clone(&store),
            origin: origin.clone(),
            classifier,
            principals,
            decision_log,
            limits: config.limits,
            operations: operations.clone(),
        });
        let model = ModelFacts { path, identity: model.identity, max_model_len, device };
        let engine_ended = ended;
        Ok(Self { router, store, engine, engine_thread, engine_ended, operations, origin, model })
    }

    /// Lets the engine finish what it has and waits for its thread; false when it had panicked.
    pub(super) fn stop(self) -> bool {
        self.engine.drain();
        self.engine_thread.join()
    }
}

/// What a generation needs before it goes live: slots, and a canary where there is one.
fn prepare(
    engine: EngineHandle,
    classifier: ClassifierKind,
    canary: Option<Canary>,
) -> impl Fn(&Generation) -> Result<SteeringSlots, String> + Send + Sync + Clone + 'static {
    let slots = steering_slots(engine, classifier);
    move |generation| {
        let slots = slots(generation)?;
        match &canary {
            Some(canary) => canary.examine(generation, slots),
            None => Ok(slots),
        }
    }
}

/// For whom a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Callers over the network, as configured.
    Network,
    /// The person at the terminal: no key and no decision log, but the same policy.
    Terminal,
}

impl Audience {
    fn parts(self, config: &Config) -> anyhow::Result<(Principals, Option<DecisionLog>)> {
        if self == Self::Terminal {
            return Ok((Principals::default(), None));
        }
        let open = |path: &Path| {
            let opened = DecisionLog::open(path);
            opened.with_context(|| {
                format!("setting `decision_log`: cannot append to {}", path.display())
            })
        };
        let decision_log = config.decision_log.as_deref().map(open).transpose()?;
        Ok((Principals::from_entries(config.principals.clone()), decision_log))
    }
}

/// A model's identity in the store's words.
pub(super) fn binding(identity: &ModelIdentity) -> ModelBinding {
    ModelBinding {
        architecture_id: identity.architecture_id.clone(),
        weights_id: identity.weights_id.clone(),
        hidden_size: identity.hidden_size,
        num_hidden_layers: identity.num_hidden_layers,
    }
}

/// Categories that a generation may have: those of the live one, and at least CatQA's, so that a
/// generation with more categories than the first can go live as well.
fn num_categories(root: &Path) -> usize {
    let found = read_current(root).and_then(|it| load_generation(root, &it.generation, None));
    // A store that cannot be read is refused when it is opened.
    let found = found.map_or(0, |generation| generation.manifest.categories.len());
    found.max(Category::CATQA.len())
}

struct StartedEngine {
    thread: EngineThread,
    handle: EngineHandle,
    ended: EngineEnded,
}

fn start_engine(
    config: &Config,
    llama: skeg_model::Llama,
    num_categories: usize,
) -> anyhow::Result<(StartedEngine, usize)> {
    let given = config.engine;
    let sizes = given.on(&llama)?;
    let base = EngineConfig {
        kv_cache_dtype: given.kv_cache_dtype,
        enable_prefix_caching: given.enable_prefix_caching,
        projection_sample_interval: given.projection_sample_interval,
        // Each running sequence may hold a sum of several categories.
        num_steering_slots: LIVE_GENERATIONS * num_categories + sizes.max_num_seqs,
        ..EngineConfig::default()
    };
    let engine_config = sizes.over(base, &llama)?;
    let engine = LlamaEngine::new(Arc::new(llama), &engine_config)?;
    let max_model_len = engine.max_model_len();
    let (running, ended) = watch::channel(());
    let (thread, handle) =
        EngineThread::spawn(Box::new(engine), sizes.max_admitted_seqs, || drop(running))?;
    Ok((StartedEngine { thread, handle, ended: EngineEnded(ended) }, max_model_len))
}
