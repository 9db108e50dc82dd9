//! A server in process with a real engine: a random Llama of two layers, and a store of generations for it.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use candle_core::DType;
use skeg_model::ChatTemplate;
use skeg_model::CpuOptions;
use skeg_model::engine::{Engine, EngineConfig, EngineHandle, EngineThread, LlamaEngine};
use skeg_model::steering::{LayerVector, Site, SteeringVector};
use skeg_model::testing::{RandomWeights, random_llama_with, tiny_config};
use skeg_server::{
    AppParts, ClassifierKind, Limits, Operations, Origin, Principals, SteeringSlots, app,
    steering_slots,
};
use skeg_vector_store::place::LocalPlace;
use skeg_vector_store::{Category, GenerationId, Reload, Store, set_current};
use tower::ServiceExt as _;

use super::generations::{HIDDEN_SIZE, NUM_LAYERS, binding, write_good};
use super::kinds::Kind;
use crate::harness::{Answer, END_OF_TURN, tokenizer};

/// Vectors of one generation.
pub(super) const NUM_CATEGORIES: usize = Category::CATQA.len();

/// How an engine is set up.
pub(super) struct Setup {
    pub(super) num_slots: usize,
    pub(super) prefix_caching: bool,
    /// Places of the KV cache.
    pub(super) kv_cache_tokens: usize,
}

impl Default for Setup {
    /// Room for the live generation, the one that replaces it and a sum; every answer is computed anew.
    fn default() -> Self {
        Self { num_slots: 2 * NUM_CATEGORIES + 1, prefix_caching: false, kv_cache_tokens: 4096 }
    }
}

/// The server, and what a test looks at and changes.
pub(super) struct Rig {
    router: Router,
    pub(super) store: Arc<Store<SteeringSlots>>,
    pub(super) engine: EngineHandle,
    /// The good generations; the first is live at the start.
    pub(super) good: Vec<GenerationId>,
    num_slots: usize,
    files: tempfile::TempDir,
}

impl Setup {
    pub(super) fn start(self) -> Rig {
        self.start_with(|engine| Box::new(engine))
    }

    /// With something of the test's around the engine.
    pub(super) fn start_with(self, wrap: impl FnOnce(LlamaEngine) -> Box<dyn Engine>) -> Rig {
        let config = EngineConfig {
            max_num_seqs: 16,
            kv_cache_tokens: self.kv_cache_tokens,
            block_size: 8,
            enable_prefix_caching: self.prefix_caching,
            num_steering_slots: self.num_slots,
            ..EngineConfig::default()
        };
        let engine = LlamaEngine::new(Arc::new(llama()), &config).unwrap();
        let max_model_len = engine.max_model_len();
        let (_thread, engine) = EngineThread::spawn(wrap(engine), 64, || ()).unwrap();
        let files = tempfile::tempdir().unwrap();
        let good = write_good(files.path());
        set_current(files.path(), &good[0], None).unwrap();
        let slots = steering_slots(engine.clone(), ClassifierKind::Generation);
        let store = Store::open(files.path(), binding(), slots).unwrap();
        let store = Arc::new(store);
        let template =
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>";
        let router = app(AppParts {
            served_names: vec!["tiny".to_owned()],
            tokenizer: Arc::new(tokenizer(files.path())),
            chat_template: Some(ChatTemplate::compile(template, None, None).unwrap()),
            stop_token_ids: vec![END_OF_TURN],
            max_model_len,
            num_hidden_layers: NUM_LAYERS,
            engine: engine.clone(),
            store: Arc::clone(&store),
            origin: Origin::Folder(LocalPlace::new(files.path())),
            classifier: None,
            principals: Principals::default(),
            decision_log: None,
            limits: Limits::default(),
            operations: Operations::default(),
        });
        Rig { router, store, engine, good, num_slots: self.num_slots, files }
    }
}

/// Two layers of width 16 and a token a byte, on one thread.
fn llama() -> skeg_model::Llama {
    let config = skeg_model::LlamaConfig {
        hidden_size: HIDDEN_SIZE,
        intermediate_size: 2 * HIDDEN_SIZE,
        num_hidden_layers: NUM_LAYERS,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        vocab_size: END_OF_TURN as usize + 1,
        max_position_embeddings: 1024,
        ..tiny_config()
    };
    let cpu = CpuOptions { num_threads: NonZeroUsize::new(1), kernels: None };
    random_llama_with(config, 7, RandomWeights::Dense(DType::F32), cpu).unwrap()
}

impl Rig {
    pub(super) fn root(&self) -> &Path {
        self.files.path()
    }

    pub(super) fn live(&self) -> GenerationId {
        self.store.current().generation.id.clone()
    }

    /// Sends a request and reads its whole answer.
    pub(super) async fn ask(&self, kind: &Kind) -> Answer {
        Answer::of(self.router.clone().oneshot(kind.request()).await.unwrap()).await
    }

    /// Names a generation in `CURRENT` and has the store look.
    pub(super) fn publish(&self, id: &GenerationId) -> Result<Reload, skeg_vector_store::Error> {
        set_current(self.root(), id, None)?;
        self.store.reload()
    }

    /// Waits until the engine has carried out everything it was told before.
    pub(super) fn settle(&self) {
        self.engine.register_vectors(Vec::new()).unwrap();
    }

    /// Vectors that can still be registered; found out by filling the tables for a moment.
    pub(super) fn num_free_slots(&self) -> usize {
        let layers = vec![LayerVector { layer: 0, values: vec![1.0; HIDDEN_SIZE] }];
        let vector = SteeringVector { site: Site::AttnOut, layers };
        let fits = |count| self.engine.register_vectors(vec![vector.clone(); count]).is_ok();
        (0..=self.num_slots).rev().find(|&count| fits(count)).unwrap()
    }
}
