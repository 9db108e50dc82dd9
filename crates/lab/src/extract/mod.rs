//! Extraction: differences of mean activations between a safe and an unsafe side.
//!
//! arXiv 2410.01174, Eq. 1: `omega_l^c = mean over safe x of a_l(x) - mean over unsafe x of a_l(x)`. The
//! vector points from unsafe to safe and is not normalised. `a_l(x)` is the mean of the site's rows over
//! the tokens that a [`TokenMode`] chooses; each input counts once, however long it is.
//!
//! Activations come from the forward pass that serves ([`skeg_model::Llama::forward`] with a capture
//! hook). Sums are made in f64, in the order of the inputs, so neither the size of a batch nor an
//! interruption changes a bit of the result.
//!
//! A [`Variant`] says which differences count and how they become one vector: the paper's pruning, the first principal
//! component, masks. Variants that look at single differences keep every input's mean activation until the end;
//! [`extract_variants`] makes several from one pass. [`inputs_of`] says what is compared with what, and
//! [`guided_inputs`] leaves only what judges confirm.

mod activations;
mod batches;
mod checkpoint;
mod derive;
mod encode;
mod guided;
mod inputs;
mod kept;
mod publish;
mod run;
mod several;
mod spec;
mod statistics;
mod sums;
mod variant;

pub use activations::{ActivationSpec, Activations, activations, activations_encoded};
pub(crate) use encode::messages_token_ids;
pub use encode::{EncodedInput, Side, encode};
pub use guided::{
    Guided, GuidedCounts, GuidedJudges, GuidedOptions, GuidedReport, OnFew, SideCounts,
    guided_inputs,
};
pub use inputs::{Form, inputs_of};
pub use publish::{PublishOptions, to_generation};
pub use run::{
    CategoryExtraction, Extraction, LayerExtraction, RunOptions, extract, extract_encoded,
    extract_variants, extract_variants_encoded,
};
pub use spec::{CategoryInputs, ExtractSpec, PromptForm, Text, TokenMode};
pub use variant::{Estimator, Pairing, PruneCriterion, Pruning, Variant};
