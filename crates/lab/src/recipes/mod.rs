//! How the shipped vectors are made, so that anyone can make them again.
//!
//! ```no_run
//! use skeg_lab::{NoProgress, ReadOptions, extract, read_data, recipes};
//! use skeg_model::{LoadOptions, LoadedModel, WeightForm};
//!
//! let options = LoadOptions { weights: WeightForm::F32, ..LoadOptions::default() };
//! let model = LoadedModel::load("SmolLM2-135M-Instruct.Q4_1.gguf".as_ref(), &options)?;
//! let catqa = read_data("catqa.jsonl".as_ref(), &ReadOptions::default())?;
//! let spec = recipes::shipped(&catqa)?;
//! let extraction = extract::extract(&model, &spec, &Default::default(), &mut NoProgress)?;
//! let measured = recipes::Measured::read("vectors/smollm2-135m-instruct/measured.json".as_ref())?;
//! let generation = recipes::shipped_generation(&extraction, &measured);
//! skeg_vector_store::write_generation("vectors/smollm2-135m-instruct".as_ref(), &generation)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod card;
mod measure;
mod measured;

use std::collections::BTreeMap;

use skeg_model::steering::Site;
use skeg_vector_store::{
    Action, CategoryPolicy, DEFAULT_REFUSAL, GroupPolicy, NewGeneration, OnAbstain, Operator,
    Orientation, Policy, Positions, WhenMissing,
};

use crate::contrast::ContrastSet;
use crate::data::DataSet;
use crate::error::Result;
use crate::extract::{
    ExtractSpec, Extraction, PromptForm, PublishOptions, TokenMode, Variant, to_generation,
};
use crate::split::{Part, SplitRule};

pub use measure::{MeasurePlan, measure};
pub use measured::{Measured, StrengthPoint};

/// Layers of the shipped vectors: the middle of SmolLM2-135M's thirty.
pub const SHIPPED_LAYERS: std::ops::RangeInclusive<usize> = 8..=19;

/// First tokens of each response that count. Measured on tuning prompts at strength 0.7: with 8 the
/// model declines 0.72 of them, with whole responses 0.09, because the mean over a whole answer is mostly its topic.
pub const SHIPPED_RESPONSE_TOKENS: usize = 8;

/// The extraction behind `vectors/smollm2-135m-instruct`: on the first 40 CatQA prompts of each category, a
/// safe answer minus a compliant opening, mean over the first response tokens at `attn_out`.
///
/// # Errors
/// [`crate::Error::Data`] when a category of `catqa` has too few prompts.
pub fn shipped(catqa: &DataSet) -> Result<ExtractSpec> {
    let contrast = ContrastSet::built_in()?;
    let prompts = SplitRule::SHIPPED.part(&catqa.items, Part::Extraction)?;
    Ok(ExtractSpec {
        site: Site::AttnOut,
        layers: SHIPPED_LAYERS.collect(),
        tokens: TokenMode::Response,
        max_response_tokens: Some(SHIPPED_RESPONSE_TOKENS),
        prompt_form: PromptForm::ChatTemplate,
        variant: Variant::default(),
        categories: contrast.pair_with(&prompts)?,
        data_sha256: vec![catqa.sha256.clone(), contrast.sha256().to_owned()],
    })
}

/// The generation that is shipped: vectors from an extraction by [`shipped`], and policy and card from
/// what was measured with them.
///
/// The same extraction and measurement give the same bytes.
#[must_use]
pub fn shipped_generation(extraction: &Extraction, measured: &Measured) -> NewGeneration {
    let categories = extraction.categories.keys();
    let options = PublishOptions {
        policy: policy(extraction, measured),
        operator: Operator::Add,
        orientation: Orientation::SafeMinusUnsafe,
        safe_windows: categories.map(|category| (category.clone(), measured.window())).collect(),
        measured: measured.measurements(),
        card: card::card(extraction, measured),
        figures: None,
    };
    to_generation(extraction, options)
}

/// Every category steers; a request that names none is answered unsteered, as OpenAI clients expect,
/// and says so in its evidence; callers without a key (loopback only) may also compare.
fn policy(extraction: &Extraction, measured: &Measured) -> Policy {
    let rule = CategoryPolicy {
        action: Action::Steer,
        strength: measured.strength(),
        positions: Positions::All,
        refusal: DEFAULT_REFUSAL.to_owned(),
    };
    let anonymous = GroupPolicy {
        categories: None,
        may_none: true,
        may_raise: true,
        may_lower: true,
        may_compare: true,
    };
    Policy {
        categories: extraction
            .categories
            .keys()
            .map(|category| (category.clone(), rule.clone()))
            .collect(),
        when_missing: WhenMissing::None,
        on_abstain: OnAbstain::Reject,
        max_combined_norm: 1.0,
        allow_other_quantisation: false,
        groups: BTreeMap::from([("anonymous".to_owned(), anonymous)]),
    }
}
