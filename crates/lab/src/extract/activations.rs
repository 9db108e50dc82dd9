//! The activations themselves, one row an input and layer, for what is fitted to single prompts.

use skeg_model::steering::Site;
use skeg_model::{Llama, LoadedModel};

use super::batches::Run;
use super::encode::{EncodedInput, Side, prompt_token_ids};
use super::kept::Kept;
use super::run::RunOptions;
use super::spec::{ExtractSpec, PromptForm, Text, TokenMode};
use super::statistics::Statistics;
use super::variant::Variant;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivationSpec {
    /// Where in a block.
    pub site: Site,
    /// Blocks from 0, ascending, each once.
    pub layers: Vec<usize>,
    /// The tokens whose mean a row is; of a prompt alone, [`TokenMode::Last`] is its last one.
    pub tokens: TokenMode,
    /// How a prompt is shown to the model.
    pub prompt_form: PromptForm,
}

/// Mean activations of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Activations {
    /// Blocks from 0, ascending.
    pub layers: Vec<usize>,
    /// Numbers a row.
    pub hidden_size: usize,
    /// `[num_texts, num_layers, hidden_size]`, in the order of the texts.
    pub values: Vec<f32>,
}

impl Activations {
    /// Texts that were read.
    #[must_use]
    pub fn num_texts(&self) -> usize {
        self.values.len() / (self.layers.len() * self.hidden_size).max(1)
    }

    /// One text at one layer, `[hidden_size]`; `layer_idx` counts in [`Self::layers`].
    ///
    /// # Panics
    /// When there is no such text or layer.
    #[must_use]
    pub fn row(&self, text_idx: usize, layer_idx: usize) -> &[f32] {
        assert!(layer_idx < self.layers.len(), "layer {layer_idx} of {}", self.layers.len());
        let start = (text_idx * self.layers.len() + layer_idx) * self.hidden_size;
        &self.values[start..][..self.hidden_size]
    }

    /// Every text at one layer, in order; `layer_idx` counts in [`Self::layers`].
    ///
    /// # Panics
    /// When there is no such layer.
    #[must_use]
    pub fn rows(&self, layer_idx: usize) -> Vec<&[f32]> {
        (0..self.num_texts()).map(|text_idx| self.row(text_idx, layer_idx)).collect()
    }
}

/// Reads one mean activation a text and layer, by the passes of [`super::extract`]. A state file is neither read nor
/// written: [`RunOptions::max_batch_tokens`] alone counts, and does not change the result.
///
/// # Errors
/// [`Error::Spec`] when the layers are not ascending or a text is longer than the model's context or has no token to read;
/// [`Error::Interrupted`] when `progress` asked to stop; [`Error::Model`] when a layer is not the model's, a text
/// cannot be tokenised, or a pass fails.
pub fn activations(
    model: &LoadedModel,
    texts: &[Text],
    spec: &ActivationSpec,
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<Activations> {
    let encoded = texts.iter().enumerate().map(|(idx, text)| encode_one(model, idx, text, spec));
    let inputs = encoded.collect::<Result<Vec<_>>>()?;
    activations_encoded(&model.llama, &inputs, spec, options, progress)
}

/// [`activations`] after tokenisation: needs no tokenizer. Categories and sides of the inputs are not looked at.
///
/// # Errors
/// As [`activations`].
pub fn activations_encoded(
    llama: &Llama,
    inputs: &[EncodedInput],
    spec: &ActivationSpec,
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<Activations> {
    let ActivationSpec { site, layers, tokens, prompt_form } = spec;
    if layers.is_empty() || !layers.is_sorted_by(|a, b| a < b) {
        return Err(Error::Spec(format!(
            "layers {layers:?}; expected at least one, ascending, each once"
        )));
    }
    // A run of no category: `Kept` keeps what is wanted, and nothing is made of it.
    let run_spec = ExtractSpec {
        site: *site,
        layers: layers.clone(),
        tokens: *tokens,
        max_response_tokens: None,
        prompt_form: *prompt_form,
        variant: Variant::default(),
        categories: Vec::new(),
        data_sha256: Vec::new(),
    };
    let hidden_size = llama.config().hidden_size;
    let mut kept = Kept::new(&run_spec, inputs, hidden_size);
    let mut run = Run::new(llama, &run_spec, inputs, options)?;
    progress.start("prompts", inputs.len());
    while kept.num_done() < inputs.len() {
        let num_added = run.add_batch(&mut kept)?;
        let stop = progress.advance(num_added).is_break();
        if stop && kept.num_done() < inputs.len() {
            return Err(Error::Interrupted { done: kept.num_done(), total: inputs.len() });
        }
    }
    progress.finish();
    Ok(Activations { layers: layers.clone(), hidden_size, values: kept.into_activations() })
}

fn encode_one(
    model: &LoadedModel,
    idx: usize,
    text: &Text,
    spec: &ActivationSpec,
) -> Result<EncodedInput> {
    let text_side = (&model.tokenizer, model.chat_template.as_ref());
    let prompt = prompt_token_ids(text_side, spec.prompt_form, &text.prompt)?;
    let response = match &text.response {
        Some(response) => model.tokenizer.encode(response, false)?,
        None => Vec::new(),
    };
    let input = EncodedInput::new((0, Side::Unsafe, idx), &prompt, &response, spec.tokens)
        .ok_or_else(|| {
            let (id, tokens) = (&text.id, spec.tokens);
            Error::Spec(format!("`{id}` has no token that token mode `{tokens}` would read"))
        })?;
    let max_tokens = model.llama.config().max_position_embeddings;
    if input.token_ids.len() > max_tokens {
        return Err(Error::Spec(format!(
            "`{}` has {} tokens; the model's context is {max_tokens}",
            text.id,
            input.token_ids.len()
        )));
    }
    Ok(input)
}
