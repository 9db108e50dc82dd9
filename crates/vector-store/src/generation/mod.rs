//! A generation: policy, vectors and card, immutable, addressed by content, bound to a model.

mod bounds;
mod figures;
mod load;
mod probe;
mod repolicy;
mod verify;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub use figures::FIGURES_FORMAT_VERSION;
pub use load::{load_files, load_generation, read_files};
pub use repolicy::{with_card, with_policy, with_probe};
pub use verify::{FileReport, Verification, verify};
pub(crate) use write::check_names;
pub use write::{NewGeneration, add_generation, write_generation};

use crate::error::{Error, Result};
use crate::{
    Category, CategoryVectors, GenerationId, Manifest, Policy, Signatures, WhenMissing, files,
};

/// A generation in memory, valid as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// First digits of the root hash.
    pub id: GenerationId,
    /// SHA-256 over all files but the signatures, lower-case hex; see the crate documentation.
    pub root_hash: String,
    /// What it is.
    pub manifest: Manifest,
    /// What is done with it.
    pub policy: Policy,
    /// The vectors, for the manifest's categories.
    pub vectors: BTreeMap<Category, CategoryVectors>,
    /// `CARD.md`: what was measured, in words.
    pub card: String,
    /// The text of `figures.json`, if it has figures: an object in JSON, of which this crate reads `format_version` alone.
    pub figures: Option<String>,
    /// The bytes of `probe.safetensors`, if it has a probe. Its classes are the categories and `none` and its values are finite; the
    /// rest is its reader's.
    pub probe: Option<Vec<u8>>,
    /// Who signed it, each signature checked; whether they are trusted is for [`TrustedKeys`](crate::TrustedKeys) to say.
    pub signatures: Signatures,
    /// The loaded weights are none that the vectors were measured on, and the policy allows that.
    pub weights_mismatch: bool,
}

impl Generation {
    /// Whether it has a probe.
    #[must_use]
    pub fn has_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Whether its policy has categories found, and it has no probe that could: then it is for servers that ask another
    /// classifier.
    #[must_use]
    pub fn needs_classifier(&self) -> bool {
        self.policy.when_missing == WhenMissing::Auto && !self.has_probe()
    }

    /// Whether it has machine-readable figures.
    #[must_use]
    pub fn has_figures(&self) -> bool {
        self.figures.is_some()
    }
}

/// The ids of all generations in a store, sorted; what is being written or has another name is left out.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be listed. A store without the folder has no generations.
pub fn list_generations(root: &Path) -> Result<Vec<GenerationId>> {
    let dir = files::generations_dir(root);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && root.is_dir() => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(Error::io("list", &dir))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", &dir))?;
        ids.extend(GenerationId::parse(&entry.file_name().to_string_lossy()));
    }
    ids.sort();
    Ok(ids)
}
