//! What `skeg probe` reads conversations with: model, embedder, and the rows that are kept.

use std::path::PathBuf;

use anyhow::bail;
use skeg_lab::judge::{Embed, SentenceEmbedder};
use skeg_lab::probe::{KeptEmbedder, RowCache, Sources};
use skeg_model::LoadedModel;

use super::ModelFlags;
use super::data_flags::DataFlags;
use super::print_flags::PrintFlags;
use super::running::model_path;

/// How conversations are read, whatever is done with them.
#[derive(Debug, clap::Args)]
pub(super) struct ReadFlags {
    /// Folder of a BERT sentence embedder, such as all-MiniLM-L6-v2
    #[arg(long, value_name = "DIR")]
    pub(super) embedder: Option<PathBuf>,
    /// Keep activations and embeddings in this folder, which is made if need be: another run computes only what is new
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    pub(super) data_flags: DataFlags,
    #[command(flatten)]
    pub(super) print: PrintFlags,
    #[command(flatten)]
    model_flags: ModelFlags,
}

/// What rows are made with, as far as it is needed.
pub(super) struct Loaded {
    pub(super) model: Option<LoadedModel>,
    embedder: Option<Box<dyn Embed>>,
    cache: Option<RowCache>,
}

impl Loaded {
    pub(super) fn new(
        flags: &ReadFlags,
        needs_model: bool,
        needs_embedder: bool,
    ) -> anyhow::Result<Self> {
        let open = |computed_by: &str| {
            let folder = flags.cache.as_deref();
            folder.map(|folder| RowCache::open(folder, computed_by)).transpose()
        };
        let (model, cache) = if needs_model {
            let config = flags.model_flags.config(None)?;
            let path = model_path(&config.model, flags.model_flags.fetch)?;
            let cache = open(config.model.weights_name())?;
            (Some(LoadedModel::load(&path, &config.model.load_options())?), cache)
        } else {
            (None, None)
        };
        let embedder = match (&flags.embedder, needs_embedder) {
            (Some(folder), true) => {
                let embedder = SentenceEmbedder::load(folder)?;
                Some(match open("embedder")? {
                    Some(cache) => Box::new(KeptEmbedder::new(embedder, cache)) as Box<dyn Embed>,
                    None => Box::new(embedder),
                })
            }
            (None, true) => bail!("--embedder is missing: sentence embeddings need its folder"),
            (_, false) => None,
        };
        Ok(Self { model, embedder, cache })
    }

    pub(super) fn sources(&self) -> Sources<'_> {
        Sources {
            model: self.model.as_ref(),
            embedder: self.embedder.as_deref(),
            cache: self.cache.as_ref(),
        }
    }
}
