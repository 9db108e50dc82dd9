//! The policy as it stands for one caller's group, in plain values.

use std::collections::{BTreeMap, BTreeSet};

use skeg_model::steering::Positions;

use super::Action;

/// All that resolution needs to know of a policy.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) categories: BTreeMap<String, CategoryRule>,
    pub(crate) when_missing: Missing,
    pub(crate) on_abstain: Abstained,
    /// Whether there is somebody who finds categories.
    pub(crate) has_gate: bool,
    pub(crate) group: GroupRule,
}

/// The policy for one category; `floor <= default <= ceiling`.
#[derive(Debug, Clone)]
pub(crate) struct CategoryRule {
    pub(crate) action: Action,
    pub(crate) floor: f32,
    pub(crate) default: f32,
    pub(crate) ceiling: f32,
    pub(crate) positions: Positions,
    /// The text a caller is given where the action is [`Action::Refuse`].
    pub(crate) refusal: String,
}

/// What holds where a request names no category.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    Category(String),
    Auto,
    None,
    Reject,
}

/// What holds where the gate is not sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Abstained {
    Category(String),
    None,
    Reject,
}

/// What the members of a group may ask for.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "one permission each, as the policy names them")]
pub(crate) struct GroupRule {
    /// The categories they may name; `None` = all.
    pub(crate) categories: Option<BTreeSet<String>>,
    pub(crate) may_none: bool,
    pub(crate) may_raise: bool,
    pub(crate) may_lower: bool,
    pub(crate) may_compare: bool,
}

impl GroupRule {
    pub(crate) fn may_name(&self, slug: &str) -> bool {
        self.categories.as_ref().is_none_or(|allowed| allowed.contains(slug))
    }
}

impl Rules {
    /// The valid names, for error messages.
    pub(crate) fn slugs(&self) -> String {
        let slugs: Vec<&str> = self.categories.keys().map(String::as_str).collect();
        slugs.join(", ")
    }
}
