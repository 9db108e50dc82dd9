//! Tuning a sentence encoder on labelled prompts, so that a probe can read its embeddings as those of any other.
//!
//! The last layers of a BERT are trained by `AdamW` (Loshchilov and Hutter, arXiv 1711.05101) together with a linear head for harm and
//! the categories. The head begins as the one that is fitted to the frozen encoder: a random one spoils what the encoder knows of texts that
//! are unlike the training sets (Kumar et al., arXiv 2202.10054). [`TunedEmbedder::write`] makes a folder that
//! [`SentenceEmbedder`] loads. [`TuneReport`] compares both heads on sets that neither saw.
//!
//! A tuned encoder has seen its training sets: what a probe on its embeddings makes of them, also with a set left out, is too good.
//! [`EmbedderTraining`] lies beside the weights and says which they were.

mod bert;
mod folder;
mod head;
mod report;
mod spec;
mod states;
mod training;
mod weights;

use std::path::{Path, PathBuf};

use candle_transformers::models::bert::Config;

use self::bert::Bert;
use self::head::{Head, Labels};
use self::states::States;
use self::training::Training;
use self::weights::Weights;
use super::corpus::Corpus;
use super::member::Planes;
use super::rows::Rows;
use super::text::whole;
use super::train::{fit_planes, trained_on};
use crate::error::{Error, Result};
use crate::judge::{Embed as _, SentenceEmbedder};
use crate::progress::Progress;

pub use folder::{EmbedderTraining, refuse_existing};
pub use report::{Heads, TuneReport, unseen};
pub use spec::TuneSpec;

/// The file of the weights in an encoder's folder.
const WEIGHTS: &str = "model.safetensors";

/// A tuned encoder, in memory.
#[derive(Debug, Clone)]
pub struct TunedEmbedder {
    /// What it was made of.
    pub training: EmbedderTraining,
    /// The loss of each step, before the step.
    pub losses: Vec<f32>,
    /// The head on the frozen encoder, and the one that was trained with the tuned encoder.
    heads: [Planes; 2],
    /// The folder of the encoder that it was made from.
    base: PathBuf,
    /// `model.safetensors`.
    weights: Vec<u8>,
}

/// Tunes the encoder of a folder on a corpus. The same folder, corpus and spec give the same weights.
///
/// # Errors
/// [`Error::Io`] and [`Error::Embedder`] when the folder does not hold a BERT; [`Error::Spec`] for a spec that it cannot be tuned by;
/// [`Error::Data`] when the corpus lacks harmful or harmless prompts or a category has none, or the loss stops being a
/// number; [`Error::Interrupted`] when `progress` asks to stop, and nothing is kept.
pub fn tune(
    folder: &Path,
    corpus: &Corpus,
    spec: &TuneSpec,
    progress: &mut dyn Progress,
) -> Result<TunedEmbedder> {
    // Says what is wrong with the folder, if something is.
    let base = SentenceEmbedder::load(folder)?.id().to_owned();
    let config = config(folder)?;
    spec.check(config.num_hidden_layers, config.max_position_embeddings)?;
    let path = folder.join(WEIGHTS);
    let bytes = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
    let failed = |error: candle_core::Error| Error::Embedder {
        path: path.clone(),
        reason: error.to_string(),
    };
    let weights = Weights::from_bytes(&bytes).map_err(failed)?;
    let bert = Bert::new(&weights, &config, spec.num_layers).map_err(failed)?;

    let texts: Vec<String> =
        corpus.prompts.iter().map(|prompt| whole(&prompt.conversation)).collect();
    let token_ids = states::read(folder, &texts, spec.max_tokens)?;
    let states = States::new(&bert, &token_ids, (&failed, progress))?;
    let training = Training { bert: &bert, states: &states, spec, failed: &failed };
    let rows = Rows::Dense(training.pooled(progress)?);
    let before = fit_planes(corpus, &rows, spec.l2)?;
    let head = Head::new(&before).map_err(failed)?;
    let losses = training.run(&head, &Labels::new(corpus), progress)?;
    Ok(TunedEmbedder {
        training: EmbedderTraining { base, trained_on: trained_on(corpus), spec: spec.clone() },
        losses,
        heads: [before, head.planes().map_err(failed)?],
        base: folder.to_owned(),
        weights: weights.to_bytes(&bert.tuned).map_err(failed)?,
    })
}

fn config(folder: &Path) -> Result<Config> {
    let path = folder.join("config.json");
    let bytes = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Embedder { path, reason: error.to_string() })
}

#[cfg(test)]
mod tests;
