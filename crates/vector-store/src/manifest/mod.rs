//! `manifest.json`: what a generation is, which model it was made for, how, and what was measured.

pub(crate) mod check;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{Category, Operator, Orientation, Site};

/// The manifest format that this crate writes. It stands for all files of a generation but `figures.json`, which has
/// [a version of its own](crate::FIGURES_FORMAT_VERSION); both follow these rules.
///
/// *When it rises*: when a file that is written from then on would be taken by an older reader and mean something else, or when
/// a field that the older reader needs goes. It does not rise for an optional field or file whose absence means what was always
/// meant: such a field is written only where it differs from that, and an older reader, to whom it is unknown, refuses it by name.
///
/// *What a reader does*: every version from 1 on is read, and means what it meant when it was written; a generation keeps its
/// bytes and its id, nothing is rewritten. A newer version is refused before anything else of the file is looked at, with the
/// versions that are read; the generation that serves stays.
///
/// `test-data/stores/v<version>` has generations of each version, as they were written then; they are never made anew. Whoever
/// raises the version adds a folder there, keeps the types of the old version for reading, and turns what was read into
/// today's [`Manifest`]. `tests/it/compatibility.rs` fails until the folder is there.
pub const FORMAT_VERSION: u32 = 1;

/// What binds vectors to a model: the plain data of the model crate's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelBinding {
    /// Digest over configuration, tensor shapes and tokenizer; quantisations of one model share it.
    pub architecture_id: String,
    /// Digest over the weight files.
    pub weights_id: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
}

/// The manifest. Its fields are written in this order, maps by key, so that equal content gives equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Must equal the model's.
    pub architecture_id: String,
    /// The weights that the vectors were made on.
    pub weights_id: String,
    /// Other weights of the same architecture on which their effect was measured.
    pub also_measured_on: Vec<String>,
    /// Width of the residual stream, the length of a row.
    pub hidden_size: usize,
    /// Number of blocks of the model.
    pub num_hidden_layers: usize,
    /// Sorted, each once; the same set as in the policy and in the vectors.
    pub categories: Vec<Category>,
    /// Steered blocks from 0, ascending; the rows of each tensor in this order.
    pub layers: Vec<usize>,
    /// Where the vectors act.
    pub site: Site,
    /// What is done with them.
    pub operator: Operator,
    /// Which difference they are.
    pub orientation: Orientation,
    /// For each category that was measured: the strengths that act and keep the text whole.
    pub safe_windows: BTreeMap<Category, SafeWindow>,
    /// For each category: one entry a layer, in the order of `layers`.
    pub norms: BTreeMap<Category, Vec<LayerNorm>>,
    /// Lower-case hex SHA-256 of every other file of the generation, by name.
    pub files: BTreeMap<String, String>,
    /// How the vectors were made.
    pub provenance: Provenance,
    /// What was measured; the card says it in words.
    pub measured: Vec<Measurement>,
}

/// The strengths between which a category's vector was measured to act without breaking the text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SafeWindow {
    /// The weakest strength, at least 0.
    pub min: f32,
    /// The strongest strength.
    pub max: f32,
}

/// How long a row is beside what it is added to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm {
    /// Euclidean norm of the row; 0 in a layer that the category leaves alone, but never in all of them.
    pub vector: f32,
    /// Mean Euclidean norm of the activations at the site, over the extraction inputs.
    pub activation: f32,
}

/// Where vectors come from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// How they were computed, for example `difference_of_means`.
    pub method: String,
    /// Which tokens counted: `all`, `prompt`, `response` or `last`.
    pub tokens: String,
    /// How prompts were shown to the model: `chat_template` or `raw`.
    pub prompt_form: String,
    /// Lower-case hex SHA-256 of the data files.
    pub data_sha256: Vec<String>,
    /// Lower-case hex SHA-256 over the inputs as they were paired; empty if not known.
    pub inputs_sha256: String,
    /// Program and version that made them.
    pub made_by: String,
    /// When, RFC 3339, where the maker wants it on record. It becomes part of the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<String>,
    /// Counts and stability, for the categories where they are known.
    pub categories: BTreeMap<Category, CategoryProvenance>,
}

/// Where one category's vector comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryProvenance {
    /// Inputs on the safe side.
    pub num_safe: u64,
    /// Inputs on the unsafe side.
    pub num_unsafe: u64,
    /// Cosine between the vectors of two halves of the inputs, one a layer; empty if not computed.
    pub split_half_cosine: Vec<f32>,
}

/// One figure of the measured card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// What was counted, for example `refusal_rate` or `perplexity`.
    pub metric: String,
    /// Under which condition, for example `unsteered`, `steered` or `random_vector`.
    pub condition: String,
    /// On which data.
    pub data: String,
    /// The category it concerns; absent = all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<Category>,
    /// The figure; a share is in 0..=1.
    pub value: f32,
    /// How many items it was taken over.
    pub num_items: u64,
}

impl Manifest {
    /// The model that the vectors were made for.
    #[must_use]
    pub fn model(&self) -> ModelBinding {
        ModelBinding {
            architecture_id: self.architecture_id.clone(),
            weights_id: self.weights_id.clone(),
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
        }
    }

    /// Reads and checks the manifest of format [`FORMAT_VERSION`]; `path` is for errors.
    ///
    /// # Errors
    /// [`Error::UnsupportedFormat`] for another version, [`Error::Syntax`] for what is not a manifest,
    /// [`Error::Field`] for what contradicts itself.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        check_format_version(bytes, path)?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| syntax(path, &error))?;
        manifest.check().map_err(|bad| Error::Field(bad.in_file(path)))?;
        Ok(manifest)
    }

    /// The bytes of `manifest.json`: indented, fields in order, one newline at the end.
    ///
    /// # Errors
    /// [`Error::Syntax`] when a number is not finite, which JSON cannot say.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let path = Path::new(crate::files::MANIFEST);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| syntax(path, &error))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The name of a category's tensor.
    #[must_use]
    pub fn tensor_name(&self, category: &Category) -> String {
        format!("{category}/{}", self.site)
    }
}

/// The version decides how the rest is read, so it is looked at first and alone.
fn check_format_version(bytes: &[u8], path: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Versioned {
        format_version: serde_json::Value,
    }
    let versioned: Versioned =
        serde_json::from_slice(bytes).map_err(|error| syntax(path, &error))?;
    if versioned.format_version.as_u64() == Some(FORMAT_VERSION.into()) {
        return Ok(());
    }
    Err(Error::UnsupportedFormat {
        path: path.to_owned(),
        found: versioned.format_version.to_string(),
        expected: FORMAT_VERSION,
    })
}

fn syntax(path: &Path, error: &serde_json::Error) -> Error {
    Error::Syntax { path: path.to_owned(), reason: error.to_string() }
}
