//! What calibration and evaluation share: the model that answers, its kept answers, and their flags.

use std::path::{Path, PathBuf};

use skeg_lab::KeptLikelihood;
use skeg_lab::evaluate::{Answerer, CachedAnswerer, EngineAnswerer, SharedModel};
use skeg_lab::likelihood::{Likelihood, ModelLikelihood};
use skeg_model::engine::EngineConfig;
use skeg_model::{DeviceChoice, LoadedModel};

use super::ModelFlags;
use super::running::model_path;
use crate::config::Config;

/// Sets of vector rows in the engine at once: arms run side by side.
const NUM_STEERING_SLOTS: usize = 256;

/// Where finished work is kept, and how answers are made.
#[derive(Debug, clap::Args)]
pub(super) struct AnswerFlags {
    /// Longest answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 48)]
    pub(super) max_tokens: usize,
    /// Folder that keeps answers and judgements by what they were made from, so that a second run is quick and a broken one
    /// goes on; it holds texts, for you alone [default: `lab` in the platform's cache folder]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Keep nothing, and use nothing that is kept
    #[arg(long, conflicts_with = "work_dir")]
    no_cache: bool,
    /// Seed of random controls and intervals
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

impl AnswerFlags {
    /// Answers are made anew and not kept.
    pub(super) fn uncached(max_tokens: usize, seed: u64) -> Self {
        Self { max_tokens, work_dir: None, no_cache: true, seed }
    }

    /// Where finished work is kept; `None` = nowhere.
    pub(super) fn work_dir(&self, config: &Config) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        Some(self.work_dir.clone().unwrap_or_else(|| config.model.cache_dir.join("lab")))
    }
}

/// A model that answers, itself, and its likelihoods.
pub(super) struct Answering {
    pub(super) answerer: Box<dyn Answerer>,
    pub(super) likelihood: Box<dyn Likelihood>,
    pub(super) model: SharedModel,
}

/// Prompt and answer are scored up to so many tokens.
pub(super) const MAX_SCORED_TOKENS: usize = 512;

/// The model's name for reports: never the folder it lies in.
pub(super) fn model_name(config: &Config) -> String {
    let source = config.model.source.to_string();
    let path = Path::new(&source);
    let name = if source.contains(std::path::MAIN_SEPARATOR) { path.file_stem() } else { None };
    name.map_or_else(|| source.clone(), |name| name.to_string_lossy().into_owned())
}

/// Loads the model as it is served.
pub(super) fn answering(
    config: &Config,
    model_flags: &ModelFlags,
    flags: &AnswerFlags,
) -> anyhow::Result<Answering> {
    let path = model_path(&config.model, model_flags.fetch)?;
    let loaded = LoadedModel::load(&path, &config.model.load_options())?;
    let engine_config = EngineConfig {
        max_num_seqs: config.engine.max_num_seqs,
        max_num_batched_tokens: config.engine.max_num_batched_tokens,
        kv_cache_tokens: config.engine.kv_cache_tokens,
        max_model_len: config.engine.max_model_len,
        num_steering_slots: NUM_STEERING_SLOTS,
        ..EngineConfig::default()
    };
    let fingerprint = format!(
        "skeg {} {} {} {} {:?} {}",
        env!("CARGO_PKG_VERSION"),
        loaded.identity.architecture_id,
        loaded.identity.weights_id,
        config.model.weights_name(),
        engine_config.kv_cache_dtype,
        flags.max_tokens
    );
    let engine = EngineAnswerer::new(loaded, &engine_config, flags.max_tokens)?;
    let model = engine.model().clone();
    let scorer = ModelLikelihood::new(&model, MAX_SCORED_TOKENS)?;
    // Elsewhere than on the CPU answers depend on what is answered beside them.
    let work_dir = flags.work_dir(config).filter(|_| config.model.device == DeviceChoice::Cpu);
    let (answerer, likelihood): (Box<dyn Answerer>, Box<dyn Likelihood>) = match work_dir {
        Some(folder) => (
            Box::new(CachedAnswerer::open(engine, &folder, fingerprint.clone())?),
            Box::new(KeptLikelihood::open(scorer, &folder, fingerprint)?),
        ),
        None => (Box::new(engine), Box::new(scorer)),
    };
    Ok(Answering { answerer, likelihood, model })
}
