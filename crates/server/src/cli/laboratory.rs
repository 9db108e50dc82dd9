//! What calibration and evaluation share: the model that answers, its kept answers, and their flags.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use skeg_lab::KeptLikelihood;
use skeg_lab::evaluate::{Answerer, CachedAnswerer, EngineAnswerer, SharedModel};
use skeg_lab::experiment::{Laboratory, Scorers};
use skeg_lab::judge::Judges;
use skeg_lab::likelihood::{Likelihood, ModelLikelihood};
use skeg_model::LoadedModel;
use skeg_model::engine::EngineConfig;

use super::ModelFlags;
use super::running::model_path;
use crate::config::{Config, ModelConfig};

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
    /// Also score the answers by this model, unsteered: a catalogue name, a .gguf file or a Hugging Face folder
    #[arg(long, value_name = "NAME|PATH")]
    second_model: Option<String>,
}

impl AnswerFlags {
    /// Answers are made anew and not kept.
    pub(super) fn uncached(max_tokens: usize, seed: u64) -> Self {
        Self { max_tokens, work_dir: None, no_cache: true, seed, second_model: None }
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
    pub(super) model: SharedModel,
    likelihood: Box<dyn Likelihood>,
    second_likelihood: Option<Box<dyn Likelihood>>,
}

impl Answering {
    /// The laboratory of this model and these judges.
    pub(super) fn laboratory<'a>(&'a mut self, judges: &'a mut Judges) -> Laboratory<'a> {
        let own = &mut *self.likelihood;
        let second = self.second_likelihood.as_deref_mut();
        let likelihood = Some(Scorers { own, second: second.map(|second| second as _) });
        Laboratory { answerer: &mut *self.answerer, judges, likelihood }
    }
}

/// Prompt and answer are scored up to so many tokens.
const MAX_SCORED_TOKENS: usize = 512;

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
    let base = EngineConfig { num_steering_slots: NUM_STEERING_SLOTS, ..EngineConfig::default() };
    let engine_config = config.engine.on(&loaded.llama)?.over(base, &loaded.llama)?;
    let own = fingerprint(&loaded, &config.model);
    let answers_by = format!("{own} {:?} {}", engine_config.kv_cache_dtype, flags.max_tokens);
    let engine = EngineAnswerer::new(loaded, &engine_config, flags.max_tokens)?;
    let model = engine.model().clone();
    // Elsewhere than on the CPU answers depend on what is answered beside them.
    let work_dir = flags.work_dir(config).filter(|_| model.llama.device().is_cpu());
    let answerer: Box<dyn Answerer> = match &work_dir {
        Some(folder) => Box::new(CachedAnswerer::open(engine, folder, answers_by.clone())?),
        None => Box::new(engine),
    };
    let likelihood = scorer(&model, answers_by, work_dir.as_deref())?;
    let second_likelihood = match &flags.second_model {
        Some(name) => {
            let second = config.model.another(name).context("--second-model")?;
            let path = model_path(&second, model_flags.fetch).context("--second-model")?;
            let loaded = LoadedModel::load(&path, &second.load_options())?;
            let by = fingerprint(&loaded, &second);
            Some(scorer(&loaded.into(), by, work_dir.as_deref())?)
        }
        None => None,
    };
    Ok(Answering { answerer, model, likelihood, second_likelihood })
}

/// What decides a model's figures.
fn fingerprint(loaded: &LoadedModel, model: &ModelConfig) -> String {
    format!(
        "skeg {} {} {} {}",
        env!("CARGO_PKG_VERSION"),
        loaded.identity.architecture_id,
        loaded.identity.weights_id,
        model.weights_name()
    )
}

/// The likelihood of answers under a model, kept where other work is.
fn scorer(
    model: &SharedModel,
    fingerprint: String,
    work_dir: Option<&Path>,
) -> anyhow::Result<Box<dyn Likelihood>> {
    let scorer = ModelLikelihood::new(model, MAX_SCORED_TOKENS)?;
    Ok(match work_dir {
        Some(folder) => Box::new(KeptLikelihood::open(scorer, folder, fingerprint)?),
        None => Box::new(scorer),
    })
}
