//! The run: from texts to vectors, with a state file and what is reported.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base16ct::lower::encode_string;
use serde::Serialize;
use sha2::{Digest, Sha256};
use skeg_model::steering::Site;
use skeg_model::{Llama, LoadedModel, ModelIdentity};
use skeg_vector_store::Category;

use super::batches::Run;
use super::checkpoint;
use super::encode::{EncodedInput, Side, encode};
use super::guided::GuidedReport;
use super::several::{Several, check_variants};
use super::spec::{ExtractSpec, PromptForm, TokenMode};
use super::statistics::Statistics;
use super::variant::Variant;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How a run is made; none of it changes the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// Inputs share a forward pass up to this many tokens; a longer input gets a pass of its own.
    pub max_batch_tokens: usize,
    /// State file for going on after an interruption; removed at the end.
    pub checkpoint: Option<PathBuf>,
    /// The state file is written after this many inputs, and when the run is interrupted.
    pub checkpoint_every_inputs: usize,
    /// Keep the state file at the end, so that the same run is there at once.
    pub keep_checkpoint: bool,
}

impl Default for RunOptions {
    /// 512 tokens a pass, no state file.
    fn default() -> Self {
        Self {
            max_batch_tokens: 512,
            checkpoint: None,
            checkpoint_every_inputs: 100,
            keep_checkpoint: false,
        }
    }
}

/// One layer's vector and how large and stable it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerExtraction {
    /// Block index from 0.
    pub layer: usize,
    /// `[hidden_size]`: mean of the safe side minus mean of the unsafe side (Eq. 1), or what the variant makes of
    /// their differences.
    #[serde(skip)]
    pub vector: Vec<f32>,
    /// Norm of the vector.
    pub norm: f64,
    /// Mean norm of the rows at the site, over both sides.
    pub activation_norm: f64,
    /// `norm / activation_norm`: how much strength 1 adds, relative to what is there.
    pub relative_norm: f64,
    /// Cosine between the vectors of the even and of the odd inputs: near 1 when more inputs would
    /// change little. `None` with fewer than two inputs a side.
    pub split_half_cosine: Option<f64>,
    /// Differences that counted, where the variant prunes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_kept: Option<usize>,
}

/// One category's vectors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryExtraction {
    /// Inputs on the safe side.
    pub num_safe: u64,
    /// Inputs on the unsafe side.
    pub num_unsafe: u64,
    /// One a layer, ascending.
    pub layers: Vec<LayerExtraction>,
}

/// Vectors with everything needed to say where they come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Extraction {
    /// Where activations were read.
    pub site: Site,
    /// Blocks from 0, ascending.
    pub layers: Vec<usize>,
    /// Which tokens counted.
    pub tokens: TokenMode,
    /// How many tokens of each response were shown at most.
    pub max_response_tokens: Option<usize>,
    /// How prompts were shown.
    pub prompt_form: PromptForm,
    /// How inputs became vectors.
    pub variant: Variant,
    /// How inputs were chosen, where judges chose them: set by whoever had [`super::guided_inputs`] do so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided: Option<GuidedReport>,
    /// The vectors.
    pub categories: BTreeMap<Category, CategoryExtraction>,
    /// Lower-case hex SHA-256 of the data files.
    pub data_sha256: Vec<String>,
    /// Lower-case hex SHA-256 over all input texts as they were paired.
    pub inputs_sha256: String,
    /// The model.
    pub model: ModelIdentity,
}

impl Extraction {
    /// The same with only the vectors of some layers; layers it does not have are left out.
    #[must_use]
    pub fn restricted_to(&self, layers: &[usize]) -> Self {
        let mut restricted = self.clone();
        restricted.layers.retain(|layer| layers.contains(layer));
        for category in restricted.categories.values_mut() {
            category.layers.retain(|one| layers.contains(&one.layer));
        }
        restricted
    }

    /// The method in words, as it stands in manifests and cards: the variant, and who chose the inputs.
    #[must_use]
    pub fn method(&self) -> String {
        match &self.guided {
            None => self.variant.to_string(),
            Some(report) => format!("{}, {report}", self.variant),
        }
    }
}

/// Extracts vectors from texts.
///
/// For figures that others can make again, load the model with `WeightForm::F32` on the CPU.
///
/// # Errors
/// [`Error::Spec`] when the spec does not fit the model, [`Error::Interrupted`] when `progress` asked
/// to stop, [`Error::Model`] when a pass fails, [`Error::Io`] for the state file.
pub fn extract(
    model: &LoadedModel,
    spec: &ExtractSpec,
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<Extraction> {
    let inputs = encode(model, spec)?;
    extract_encoded(&model.llama, &model.identity, spec, &inputs, (options, progress))
}

/// [`extract`] after tokenisation: needs no tokenizer.
///
/// # Errors
/// As [`extract`].
pub fn extract_encoded(
    llama: &Llama,
    identity: &ModelIdentity,
    spec: &ExtractSpec,
    inputs: &[EncodedInput],
    (options, progress): (&RunOptions, &mut dyn Progress),
) -> Result<Extraction> {
    let run = (spec, &[spec.variant][..]);
    let mut extractions =
        extract_variants_encoded(llama, identity, run, inputs, (options, progress))?;
    extractions.pop().ok_or_else(|| Error::Spec("no variant was asked for".to_owned()))
}

/// Extracts vectors by several variants from one pass over the texts: an [`Extraction`] for each of `variants`, in
/// their order, the same bit for bit as [`extract`] gives for it alone.
///
/// The inputs are paired for one pairing, so each of `variants` has that of [`ExtractSpec::variant`], whose other
/// choices are not read.
///
/// # Errors
/// As [`extract`]; [`Error::Spec`] also when there is no variant or one has another pairing.
pub fn extract_variants(
    model: &LoadedModel,
    spec: &ExtractSpec,
    variants: &[Variant],
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<Extraction>> {
    let inputs = encode(model, spec)?;
    let run = (spec, variants);
    extract_variants_encoded(&model.llama, &model.identity, run, &inputs, (options, progress))
}

/// [`extract_variants`] after tokenisation: needs no tokenizer.
///
/// # Errors
/// As [`extract_variants`].
pub fn extract_variants_encoded(
    llama: &Llama,
    identity: &ModelIdentity,
    (spec, variants): (&ExtractSpec, &[Variant]),
    inputs: &[EncodedInput],
    (options, progress): (&RunOptions, &mut dyn Progress),
) -> Result<Vec<Extraction>> {
    let hidden_size = llama.config().hidden_size;
    spec.check()?;
    check_variants(spec, variants, hidden_size)?;
    let key = run_key(identity, (spec, variants), inputs);
    let mut statistics = Several::new(spec, variants, inputs, hidden_size);
    let statistics: &mut dyn Statistics = &mut statistics;
    if let Some(path) = &options.checkpoint {
        if let Err(reason) = checkpoint::restore(path, &key, statistics) {
            progress.note(&format!("starting afresh: {} is not used, {reason}", path.display()));
        } else if statistics.num_done() > 0 {
            progress.note(&format!("going on after {} inputs", statistics.num_done()));
        }
    }
    progress.start("inputs", inputs.len());
    let mut run = Run::new(llama, spec, inputs, options)?;
    let mut stop = progress.advance(statistics.num_done()).is_break();
    let mut num_saved = statistics.num_done();
    while statistics.num_done() < inputs.len() {
        let due = statistics.num_done() - num_saved >= options.checkpoint_every_inputs.max(1);
        if let Some(path) = options.checkpoint.as_ref().filter(|_| due || stop) {
            checkpoint::save(path, &key, statistics)?;
            num_saved = statistics.num_done();
        }
        if stop {
            return Err(Error::Interrupted { done: statistics.num_done(), total: inputs.len() });
        }
        let num_added = run.add_batch(statistics)?;
        stop = progress.advance(num_added).is_break();
    }
    match &options.checkpoint {
        Some(path) if options.keep_checkpoint => checkpoint::save(path, &key, statistics)?,
        Some(path) => checkpoint::remove(path)?,
        None => {}
    }
    progress.finish();
    Ok(variants.iter().map(|variant| collect((spec, *variant), identity, statistics)).collect())
}

/// Everything that decides the result: a state file of another key is of no use.
fn run_key(
    identity: &ModelIdentity,
    (spec, variants): (&ExtractSpec, &[Variant]),
    inputs: &[EncodedInput],
) -> String {
    let variants: Vec<String> = variants.iter().map(Variant::to_string).collect();
    let mut hasher = Sha256::new();
    hasher.update(&identity.architecture_id);
    hasher.update(&identity.weights_id);
    let variants = variants.join("; ");
    hasher.update(format!("{:?} {:?} {} {variants}", spec.site, spec.layers, spec.tokens));
    hasher.update(spec.inputs_sha256());
    for input in inputs {
        hasher.update(format!(
            "{} {:?} {} {:?} {:?};",
            input.category_idx, input.side, input.idx, input.rows, input.token_ids
        ));
    }
    encode_string(&hasher.finalize())
}

fn collect(
    (spec, variant): (&ExtractSpec, Variant),
    identity: &ModelIdentity,
    statistics: &dyn Statistics,
) -> Extraction {
    let categories = spec
        .categories
        .iter()
        .enumerate()
        .map(|(idx, inputs)| {
            let extraction = CategoryExtraction {
                num_safe: statistics.num_inputs(idx, Side::Safe),
                num_unsafe: statistics.num_inputs(idx, Side::Unsafe),
                layers: statistics.layers_of(idx, &variant),
            };
            (inputs.category.clone(), extraction)
        })
        .collect();
    Extraction {
        site: spec.site,
        layers: spec.layers.clone(),
        tokens: spec.tokens,
        max_response_tokens: spec.max_response_tokens,
        prompt_form: spec.prompt_form,
        variant,
        guided: None,
        categories,
        data_sha256: spec.data_sha256.clone(),
        inputs_sha256: spec.inputs_sha256(),
        model: identity.clone(),
    }
}
