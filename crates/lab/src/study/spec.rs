//! What a study is given.

use std::collections::BTreeMap;

use skeg_model::steering::{LayerVector, Operator, Positions, Site};
use skeg_vector_store::Category;

use crate::calibrate::Candidate;
use crate::data::Item;
use crate::experiment::{Arm, Prompt};

/// One row of the paper's table: how vectors were made.
#[derive(Debug, Clone)]
pub struct Method {
    /// In words, for example `unsupervised, matched, pruned`.
    pub name: String,
    /// Whether only differences above the median count.
    pub is_pruned: bool,
    /// The vectors at the attention output. Prompts of a category without one stay unsteered.
    pub candidate: Candidate,
}

/// Prompts under one name.
#[derive(Debug, Clone)]
pub struct PromptSet {
    /// The data set's name.
    pub name: String,
    /// Its prompts: harmful ones under their own category, harmless ones dealt out to the categories.
    pub prompts: Vec<Prompt>,
}

/// Vectors that were calibrated before: those of a store.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The generation's id.
    pub name: String,
    /// Where.
    pub site: Site,
    /// How.
    pub operator: Operator,
    /// The rows, all for the same layers. Prompts of a category without rows stay unsteered.
    pub rows: BTreeMap<Category, Vec<LayerVector>>,
    /// How each category's are applied.
    pub rules: BTreeMap<Category, ChosenRule>,
}

/// How a category's vector is applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChosenRule {
    /// Its default strength.
    pub strength: f32,
    /// On which tokens.
    pub positions: Positions,
}

/// A whole study.
#[derive(Debug, Clone)]
pub struct StudySpec<'a> {
    /// The paper's rows.
    pub methods: &'a [Method],
    /// The calibrated vectors, for their own row, controls and improvements.
    pub chosen: Option<Chosen>,
    /// More rows, made by the caller: vectors in the null space, strength by condition.
    pub more_arms: Vec<Arm>,
    /// Harmful prompts that the paper's rows are tuned on; none is in a set.
    pub tuning: &'a [Prompt],
    /// Harmful prompts to report on.
    pub harmful: &'a [PromptSet],
    /// Harmless prompts to report on, steered all the same.
    pub harmless: &'a [PromptSet],
    /// Prompts with constraints that can be checked by rule (`IFEval`); may be empty.
    pub constraints: &'a [Item],
    /// Plain texts whose perplexity says what steering costs; may be empty.
    pub texts: &'a [String],
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Seed of the random control and of intervals.
    pub seed: u64,
}

impl StudySpec<'_> {
    /// The layer that corresponds to the paper's 14 of 32, the most stable one there, among those of a candidate.
    pub(super) fn papers_layer(candidate: &Candidate, num_hidden_layers: usize) -> Option<usize> {
        let wanted = num_hidden_layers * 14 / 32;
        candidate.layers.iter().copied().min_by_key(|layer| layer.abs_diff(wanted))
    }
}
