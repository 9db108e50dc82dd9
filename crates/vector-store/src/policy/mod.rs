//! `policy.toml`: what is done about each category, how strongly, and who may ask for what.
//!
//! The file is read once into these types; nothing in them is left to be decided later.

mod auto;
mod file;
#[cfg(feature = "schema")]
mod schema;
mod words;

pub use auto::{AutoDecision, AutoPolicy, AutoThresholds};
#[cfg(feature = "schema")]
pub use schema::policy_schema;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Category, Positions};

/// What a refused request is answered where the policy gives no text of its own.
pub const DEFAULT_REFUSAL: &str = "I can't help with that.";

/// The most that steering adds in a layer, as a multiple of the mean norm of what it is added to, where the policy does not say.
///
/// It tells what cannot be meant, such as vectors of another scale or with a strength folded in; which strengths keep the text
/// whole is what the safe windows say, and they are narrower. Measured on SmolLM2-135M-Instruct: the shipped vectors
/// (`resid_post`) add at most 0.26 at their ceiling, a sixth of the answers is broken at 0.43 and most at 0.83. At the attention
/// output (`attn_out`) many layers together break from 0.8, single ones bear 1.6, where the search of `skeg calibrate` ends. So 2
/// refuses nothing that was seen to act well, and a vector that is ten times too long.
pub const DEFAULT_MAX_RELATIVE_NORM: f32 = 2.0;

/// The whole policy.
///
/// ```toml
/// when_missing = "reject"            # a category, "auto", "none" or "reject"
/// on_abstain = "reject"              # a category, "none" or "reject"; default "reject"
/// max_combined_norm = 1.0            # default 1.0
/// max_relative_norm = 2.0            # default 2.0
/// allow_other_quantisation = false   # default false
/// require_measured = false           # default false
///
/// [auto]                             # what is done with a verdict; all of it can be left out
/// threshold = 0.5                    # default 0.5
/// abstain = 0.4                      # default: the threshold
/// top_k = 1                          # default 1
/// min_share = 0.25                   # default 0.25
/// scale_strength = false             # default false
/// recheck_every = 16                 # default: answers are not looked at
/// recheck_threshold = 0.9            # default: the threshold
///
/// [categories.malware_viruses]
/// action = "steer"                   # "steer", "refuse" or "log"
/// positions = "all"                  # "all", "prompt" or "generation"
/// strength = { default = 0.7, floor = 0.4, ceiling = 1.0 }
/// refusal = "I can't help with that." # required where the action is "refuse"
/// auto = { threshold = 0.3 }         # default: the thresholds of [auto]
///
/// [groups.staff]
/// categories = ["malware_viruses"]   # default: all
/// may_none = true                    # the others default to false
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// A rule for each category of the generation.
    pub categories: BTreeMap<Category, CategoryPolicy>,
    /// What holds where a request names no category.
    pub when_missing: WhenMissing,
    /// What holds where the probe does not know.
    pub on_abstain: OnAbstain,
    /// What is done with a verdict.
    pub auto: AutoPolicy,
    /// The most that the sum of several categories' vectors may have in a layer, as a multiple of the longest summand
    /// there; at least 1. 1 (the default) keeps a sum as strong as its strongest member, which the safe windows cover.
    pub max_combined_norm: f32,
    /// The most that steering may add in a layer, as a multiple of the mean activation norm in the manifest; above 0. Checked
    /// against every category that steers, at its ceiling, when a generation is loaded.
    pub max_relative_norm: f32,
    /// Serve also with weights that the vectors were not measured on; answers then say `weights_mismatch`.
    pub allow_other_quantisation: bool,
    /// Take only a generation whose manifest has measured figures of every category that steers.
    pub require_measured: bool,
    /// What the callers of each group may ask for; see [`Policy::group`].
    pub groups: BTreeMap<String, GroupPolicy>,
}

/// The rule for one category.
#[derive(Debug, Clone, PartialEq)]
pub struct CategoryPolicy {
    /// What is done.
    pub action: Action,
    /// How strongly.
    pub strength: Strength,
    /// On which tokens.
    pub positions: Positions,
    /// What the caller is told where the request is refused.
    pub refusal: String,
    /// When a verdict for it holds; `None` = as [`Policy::auto`] says.
    pub auto: Option<AutoThresholds>,
}

/// What is done about a category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its vector is applied.
    Steer,
    /// The request is refused without a forward pass.
    Refuse,
    /// Nothing is applied, but what would have been is recorded (shadow mode).
    Log,
}

/// Signed factors on a vector; `0 <= floor <= default <= ceiling`, finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Strength {
    /// Used where the request says nothing.
    #[cfg_attr(feature = "schema", schemars(range(min = 0.0)))]
    pub default: f32,
    /// The least a request may ask for.
    #[cfg_attr(feature = "schema", schemars(range(min = 0.0)))]
    pub floor: f32,
    /// The most a request may ask for.
    #[cfg_attr(feature = "schema", schemars(range(min = 0.0)))]
    pub ceiling: f32,
}

/// What holds where a request names no category.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhenMissing {
    /// This category's rule.
    Category(Category),
    /// The probe's verdict.
    Auto,
    /// Nothing is due.
    None,
    /// The request is rejected.
    Reject,
}

impl WhenMissing {
    /// As `policy.toml` has it: the category's name, or a word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Category(category) => category.as_str(),
            Self::Auto => "auto",
            Self::None => "none",
            Self::Reject => "reject",
        }
    }
}

/// What holds where the probe abstains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnAbstain {
    /// This category's rule.
    Category(Category),
    /// Nothing is due.
    None,
    /// The request is rejected.
    Reject,
}

impl OnAbstain {
    /// As `policy.toml` has it: the category's name, or a word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Category(category) => category.as_str(),
            Self::None => "none",
            Self::Reject => "reject",
        }
    }
}

/// What the callers of a group may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one permission each, as the file names them")]
pub struct GroupPolicy {
    /// The categories they may name; `None` = all.
    pub categories: Option<BTreeSet<Category>>,
    /// May ask for `none`.
    pub may_none: bool,
    /// May ask for more than the default strength.
    pub may_raise: bool,
    /// May ask for less than the default strength.
    pub may_lower: bool,
    /// May see the unsteered answer beside the steered one.
    pub may_compare: bool,
}

/// May name any category and nothing else: the least that keeps steering on.
static LEAST_GROUP: GroupPolicy = GroupPolicy {
    categories: None,
    may_none: false,
    may_raise: false,
    may_lower: false,
    may_compare: false,
};

/// A request's strength is not acceptable.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StrengthError {
    /// The policy has no rule for the category.
    #[error("`{0}` is not a category of this policy")]
    UnknownCategory(Category),
    /// Outside the policy's range.
    #[error("strength {requested} is out of range: the floor is {floor} and the ceiling {ceiling}")]
    OutOfRange {
        /// What was asked for.
        requested: f32,
        /// The least.
        floor: f32,
        /// The most.
        ceiling: f32,
    },
}

impl Policy {
    /// The policy of vectors that were just made: these rules; a request that names no category is answered unsteered; and
    /// callers without a key, who are on this machine alone, may do everything, comparing included.
    #[must_use]
    pub fn open(categories: BTreeMap<Category, CategoryPolicy>) -> Self {
        let anonymous = GroupPolicy {
            categories: None,
            may_none: true,
            may_raise: true,
            may_lower: true,
            may_compare: true,
        };
        Self {
            categories,
            when_missing: WhenMissing::None,
            on_abstain: OnAbstain::Reject,
            auto: AutoPolicy::default(),
            max_combined_norm: 1.0,
            max_relative_norm: DEFAULT_MAX_RELATIVE_NORM,
            allow_other_quantisation: false,
            require_measured: false,
            groups: BTreeMap::from([("anonymous".to_owned(), anonymous)]),
        }
    }

    /// The strength that a request gets: the one it asked for, or the default.
    ///
    /// # Errors
    /// [`StrengthError::OutOfRange`] with floor and ceiling (also for NaN), [`StrengthError::UnknownCategory`].
    pub fn strength(
        &self,
        category: &Category,
        requested: Option<f32>,
    ) -> Result<f32, StrengthError> {
        let rule = self.categories.get(category);
        let rule = rule.ok_or_else(|| StrengthError::UnknownCategory(category.clone()))?;
        let Strength { default, floor, ceiling } = rule.strength;
        match requested {
            None => Ok(default),
            Some(strength) if (floor..=ceiling).contains(&strength) => Ok(strength),
            Some(requested) => Err(StrengthError::OutOfRange { requested, floor, ceiling }),
        }
    }

    /// What the callers of a group may ask for. A group that the policy does not name, `anonymous` included, may name
    /// any category and nothing else.
    #[must_use]
    pub fn group(&self, name: &str) -> &GroupPolicy {
        self.groups.get(name).unwrap_or(&LEAST_GROUP)
    }
}

impl GroupPolicy {
    /// Whether its callers may name a category.
    #[must_use]
    pub fn may_name(&self, category: &Category) -> bool {
        self.categories.as_ref().is_none_or(|allowed| allowed.contains(category))
    }
}

#[cfg(test)]
mod tests;
