//! From data to what a calibration needs: sides to extract from, and prompts to choose and to test on.

use std::collections::{BTreeMap, HashSet};

use skeg_vector_store::Category;

use crate::contrast::ContrastSet;
use crate::data::{DataSet, Item};
use crate::divide::{Divided, Shares};
use crate::error::Result;
use crate::experiment::{Prompt, harmful_prompts, spread};
use crate::extract::{CategoryInputs, Form, Pairing, inputs_of};

/// First tokens of each contrast text that count. Measured on `SmolLM2-135M-Instruct`, tuning prompts, strength 0.7: with 8
/// the model declines 0.72 of them, with whole responses 0.09, because the mean over a whole answer is mostly its topic.
pub const CONTRAST_RESPONSE_TOKENS: usize = 8;

/// What vectors are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// Fixed safe answers against compliant openings behind the harmful prompts.
    Contrast,
    /// Harmful prompts against harmless ones.
    Prompts,
    /// Unsafe answers against safe ones.
    Responses,
}

/// The data of a calibration, divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Both sides of each category.
    pub inputs: Vec<CategoryInputs>,
    /// Harmful prompts to choose on.
    pub calibration: Vec<Prompt>,
    /// Harmful prompts to test on.
    pub test: Vec<Prompt>,
    /// SHA-256 of what inputs were made from.
    pub data_sha256: Vec<String>,
}

impl Recipe {
    /// Divides data by its harmful prompts and makes the two sides of the extraction part. At most `per_category` prompts
    /// of each category are kept to choose on, and as many to test on.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when the data has no unsafe side, too few prompts, or no partner for them;
    /// [`crate::Error::Spec`] for shares that leave a part empty.
    pub fn plan(
        self,
        data: &[DataSet],
        (shares, per_category): (Shares, usize),
        pairing: Pairing,
        contrast: &ContrastSet,
    ) -> Result<Plan> {
        let is_unsafe_side = |item: &&Item| match self {
            Self::Contrast | Self::Prompts => item.harmful == Some(true),
            Self::Responses => item.response_label.is_some() && item.category.is_some(),
        };
        let all = || data.iter().flat_map(|set| &set.items);
        let divided = shares.divide(all().filter(is_unsafe_side))?;
        let mut data_sha256: Vec<String> = data.iter().map(|set| set.sha256.clone()).collect();
        let inputs = match self {
            Self::Contrast => {
                data_sha256.push(contrast.sha256().to_owned());
                let prompts = divided
                    .iter()
                    .map(|(category, parts)| (category.clone(), parts.extraction.clone()));
                contrast.pair_with(&prompts.collect())?
            }
            Self::Prompts => inputs_of(&self.extracted(&divided, all()), Form::Prompts, pairing)?,
            Self::Responses => {
                inputs_of(&self.extracted(&divided, all()), Form::Responses, pairing)?
            }
        };
        let part = |chosen: for<'p, 'd> fn(&'p Divided<'d>) -> &'p Vec<&'d Item>| -> Vec<Prompt> {
            let of = |parts| spread(chosen(parts), per_category);
            let parts = divided.iter().map(|(category, parts)| (category.clone(), of(parts)));
            harmful_prompts(&parts.collect::<BTreeMap<Category, Vec<&Item>>>())
        };
        let (calibration, test) = (part(|parts| &parts.calibration), part(|parts| &parts.test));
        Ok(Plan { inputs, calibration, test, data_sha256 })
    }

    /// The extraction part with what belongs to it: items of no category, and harmless items that are not the twins of
    /// prompts of other parts.
    fn extracted<'a>(
        self,
        divided: &BTreeMap<Category, Divided<'a>>,
        all: impl Iterator<Item = &'a Item>,
    ) -> Vec<&'a Item> {
        let extraction = || divided.values().flat_map(|parts| &parts.extraction);
        let ids: HashSet<&str> = extraction().map(|item| item.id.as_str()).collect();
        let is_harmless = |item: &&Item| match self {
            Self::Responses => item.category.is_none(),
            Self::Contrast | Self::Prompts => item.harmful == Some(false),
        };
        let is_free = |item: &&Item| item.twin_of.as_deref().is_none_or(|twin| ids.contains(twin));
        extraction().copied().chain(all.filter(is_harmless).filter(is_free)).collect()
    }
}
