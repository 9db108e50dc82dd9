//! What a study found: figures only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skeg_vector_store::{Category, SafeWindow};

use super::arms::ArmKind;
use crate::calibrate::Rung;
use crate::evaluate::Share;
use crate::experiment::Counts;
use crate::judge::Estimate;

/// A whole study's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyFigures {
    /// The rows of the table.
    pub arms: Vec<ArmFigures>,
    /// Names of the sets of harmful prompts, in the order they were given: the first is the part of the data that nothing was
    /// made from or tuned on.
    pub sets: Vec<String>,
    /// What layers and doses do, of the paper's row that failed least when tuned; `None` without one.
    pub heat: Option<Heat>,
    /// The calibrated vectors' dose-response, ascending; empty without them.
    pub ladder: Vec<Rung>,
    /// The safe window of that dose-response.
    pub window: Option<SafeWindow>,
    /// Cosines between the calibrated vectors of the categories, mean over the layers.
    pub cosines: Vec<Vec<f64>>,
    /// The categories, in the order of the cosines.
    pub categories: Vec<Category>,
    /// Judges, by name.
    pub judges: Vec<String>,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Seed of the random control and of intervals.
    pub seed: u64,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmFigures {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: ArmKind,
    /// Site, layers, strength and the rest.
    pub setting: String,
    /// Answers to harmful prompts, set by set.
    pub harmful: BTreeMap<String, SetFigures>,
    /// Answers to harmless prompts that are steered all the same, set by set.
    pub harmless: BTreeMap<String, Counts>,
    /// Constraints that were followed, of those a rule can check.
    pub constraints: Option<Followed>,
    /// Perplexity of plain texts, each with the vector of some category on every token.
    pub perplexity: Option<f64>,
}

/// Answers to one set of harmful prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFigures {
    /// Over all categories.
    pub total: Counts,
    /// By category.
    pub by_category: BTreeMap<Category, Counts>,
    /// %UR minus the naive arm's, with a paired bootstrap's interval; absent for the naive arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_naive: Option<Estimate>,
}

/// Constraints that were followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Followed {
    /// How many.
    pub count: usize,
    /// Of how many.
    pub total: usize,
}

impl Followed {
    /// With its interval.
    #[must_use]
    pub fn share(&self) -> Share {
        Share::new(self.count, self.total)
    }
}

/// Shares by layer set and dose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heat {
    /// Whose: the row's name.
    pub vectors: String,
    /// Layer sets, in words.
    pub layers: Vec<String>,
    /// Change of a row relative to it.
    pub doses: Vec<f64>,
    /// `[layers, doses]`.
    pub cells: Vec<Vec<Counts>>,
}
