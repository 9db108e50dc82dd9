//! The folder of a tuned encoder: what any embedder's has, and what it was trained on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{TuneSpec, TunedEmbedder, WEIGHTS};
use crate::error::{Error, Result};
use crate::probe::{Corpus, TrainedOn};

/// The file that says what an encoder was tuned on.
const TRAINING: &str = "training.json";

/// What a tuned encoder was made of: figures and hashes, no text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedderTraining {
    /// Id of the embedder that it was tuned from.
    pub base: String,
    /// The sets that it saw.
    pub trained_on: TrainedOn,
    /// How it was tuned.
    pub spec: TuneSpec,
}

impl EmbedderTraining {
    /// Reads what the encoder of a folder was tuned on; `None` of one that was not tuned here.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Embedder`] when it is not what its name says.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(TRAINING);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io(&path, source)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Embedder {
            path,
            reason: format!("{error}; expected what `skeg probe tune-embedder` wrote there"),
        })
    }

    /// Names of the corpus's sets that the encoder has seen a file of.
    #[must_use]
    pub fn seen(&self, corpus: &Corpus) -> Vec<String> {
        let files: Vec<&String> = self.trained_on.sets.iter().flat_map(|set| &set.sha256).collect();
        let sets = corpus.sets.iter();
        sets.filter(|(_, hashes)| hashes.iter().any(|hash| files.contains(&hash)))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// Refuses a folder that holds an encoder: none is written over.
///
/// # Errors
/// [`Error::Spec`] that names the folder.
pub fn refuse_existing(folder: &Path) -> Result<()> {
    if folder.join(WEIGHTS).exists() {
        return Err(Error::Spec(format!(
            "{} holds an embedder already; name another folder",
            folder.display()
        )));
    }
    Ok(())
}

impl TunedEmbedder {
    /// Writes `config.json`, `tokenizer.json`, `model.safetensors` and `training.json` into a folder, which is made if need be.
    ///
    /// # Errors
    /// As [`refuse_existing`]; [`Error::Io`] when a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        refuse_existing(folder)?;
        std::fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))?;
        for name in ["config.json", "tokenizer.json"] {
            let path = folder.join(name);
            std::fs::copy(self.base.join(name), &path)
                .map_err(|source| Error::io(&path, source))?;
        }
        let training = serde_json::to_vec_pretty(&self.training)
            .map_err(|error| Error::io(&folder.join(TRAINING), error.into()))?;
        for (name, bytes) in [(TRAINING, &training), (WEIGHTS, &self.weights)] {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|source| Error::io(&path, source))?;
        }
        Ok(())
    }
}
