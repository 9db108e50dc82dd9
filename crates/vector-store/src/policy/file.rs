//! The text of `policy.toml`, in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Action, CategoryPolicy, DEFAULT_REFUSAL, GroupPolicy, OnAbstain, Policy, Strength, WhenMissing,
};
use crate::error::{BadValue, Error, Result};
use crate::manifest::check::list;
use crate::{Category, Positions, files};

/// A sum is bounded by its longest summand unless the file says otherwise.
const DEFAULT_MAX_COMBINED_NORM: f32 = 1.0;
/// Longest text of a refusal, in bytes: it is an answer, not a document.
const MAX_REFUSAL_BYTES: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    when_missing: String,
    on_abstain: Option<String>,
    max_combined_norm: Option<f32>,
    allow_other_quantisation: Option<bool>,
    categories: BTreeMap<Category, CategoryFile>,
    #[serde(default)]
    groups: BTreeMap<String, GroupFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CategoryFile {
    action: Action,
    positions: Positions,
    refusal: Option<String>,
    strength: Strength,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "one permission each")]
struct GroupFile {
    categories: Option<BTreeSet<Category>>,
    #[serde(default)]
    may_none: bool,
    #[serde(default)]
    may_raise: bool,
    #[serde(default)]
    may_lower: bool,
    #[serde(default)]
    may_compare: bool,
}

impl Policy {
    /// Reads and checks a policy's text.
    ///
    /// # Errors
    /// [`Error::Syntax`] for what is not such a file or has an unknown field, [`Error::Field`] for a value that is
    /// not acceptable.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_at(text, Path::new(files::POLICY))
    }

    /// [`Policy::parse`] with the path for errors.
    pub(crate) fn parse_at(text: &str, path: &Path) -> Result<Self> {
        let file: PolicyFile = toml::from_str(text)
            .map_err(|error| Error::Syntax { path: path.to_owned(), reason: reason(&error) })?;
        file.into_policy().map_err(|bad| Error::Field(bad.in_file(path)))
    }

    /// The text of `policy.toml`, every field written out, sorted.
    ///
    /// # Errors
    /// [`Error::Syntax`] when it cannot be said in TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&PolicyFile::from(self)).map_err(|error| Error::Syntax {
            path: files::POLICY.into(),
            reason: error.to_string(),
        })
    }
}

/// The parser's message with the line it concerns, on one line.
fn reason(error: &toml::de::Error) -> String {
    error
        .to_string()
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

impl PolicyFile {
    fn into_policy(self) -> Result<Policy, Box<BadValue>> {
        let known: Vec<Category> = self.categories.keys().cloned().collect();
        let when_missing = match self.when_missing.as_str() {
            "auto" => WhenMissing::Auto,
            "none" => WhenMissing::None,
            "reject" => WhenMissing::Reject,
            slug => WhenMissing::Category(named(slug, "when_missing", &known)?),
        };
        let on_abstain = match self.on_abstain.as_deref() {
            None | Some("reject") => OnAbstain::Reject,
            Some("none") => OnAbstain::None,
            Some(slug) => OnAbstain::Category(named(slug, "on_abstain", &known)?),
        };
        let max_combined_norm = self.max_combined_norm.unwrap_or(DEFAULT_MAX_COMBINED_NORM);
        if !(max_combined_norm.is_finite() && max_combined_norm >= 1.0) {
            return Err(BadValue::new(
                "max_combined_norm",
                max_combined_norm,
                "a finite multiple of the longest summand, at least 1",
                "leave it out for 1",
            ));
        }
        let categories = self.categories.into_iter();
        let groups = self.groups.into_iter();
        Ok(Policy {
            categories: categories
                .map(|(category, file)| file.into_rule(&category).map(|rule| (category, rule)))
                .collect::<Result<_, _>>()?,
            when_missing,
            on_abstain,
            max_combined_norm,
            allow_other_quantisation: self.allow_other_quantisation.unwrap_or(false),
            groups: groups
                .map(|(name, file)| file.into_group(&name, &known).map(|group| (name, group)))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl CategoryFile {
    fn into_rule(self, category: &Category) -> Result<CategoryPolicy, Box<BadValue>> {
        let Strength { default, floor, ceiling } = self.strength;
        let ordered = 0.0 <= floor && floor <= default && default <= ceiling;
        if !(ordered && ceiling.is_finite()) {
            return Err(BadValue::new(
                format!("categories.{category}.strength"),
                format_args!("floor {floor}, default {default}, ceiling {ceiling}"),
                "0 <= floor <= default <= ceiling, finite",
                "correct the three; positive is the safer side, negative strengths exist in the lab alone",
            ));
        }
        let refusal = match self.refusal {
            Some(text) if !text.trim().is_empty() && text.len() <= MAX_REFUSAL_BYTES => text,
            None if self.action != Action::Refuse => DEFAULT_REFUSAL.to_owned(),
            other => {
                let found =
                    other.map_or("nothing".to_owned(), |text| format!("{} bytes", text.len()));
                return Err(BadValue::new(
                    format!("categories.{category}.refusal"),
                    found,
                    format!("the text a refused caller is given, 1 to {MAX_REFUSAL_BYTES} bytes"),
                    "write it, or choose another action than `refuse`",
                ));
            }
        };
        Ok(CategoryPolicy {
            action: self.action,
            strength: self.strength,
            positions: self.positions,
            refusal,
        })
    }
}

impl GroupFile {
    fn into_group(self, name: &str, known: &[Category]) -> Result<GroupPolicy, Box<BadValue>> {
        if name.is_empty() {
            return Err(BadValue::new(
                "groups",
                "an empty name",
                "a group's name",
                "name the group",
            ));
        }
        for category in self.categories.iter().flatten() {
            named(category.as_str(), &format!("groups.{name}.categories"), known)?;
        }
        Ok(GroupPolicy {
            categories: self.categories,
            may_none: self.may_none,
            may_raise: self.may_raise,
            may_lower: self.may_lower,
            may_compare: self.may_compare,
        })
    }
}

/// A category that the policy has a rule for.
fn named(slug: &str, field: &str, known: &[Category]) -> Result<Category, Box<BadValue>> {
    let found = known.iter().find(|category| category.as_str() == slug);
    found.cloned().ok_or_else(|| {
        let words = match field {
            "when_missing" => ", `auto`, `none`, `reject`",
            "on_abstain" => ", `none`, `reject`",
            _ => "",
        };
        BadValue::new(
            field,
            format_args!("{slug:?}"),
            format!("one of {}{words}", list(known)),
            "name one of them, or add a rule under `categories`",
        )
    })
}

impl From<&Policy> for PolicyFile {
    fn from(policy: &Policy) -> Self {
        let rule = |rule: &CategoryPolicy| CategoryFile {
            action: rule.action,
            positions: rule.positions,
            refusal: Some(rule.refusal.clone()),
            strength: rule.strength,
        };
        let group = |group: &GroupPolicy| GroupFile {
            categories: group.categories.clone(),
            may_none: group.may_none,
            may_raise: group.may_raise,
            may_lower: group.may_lower,
            may_compare: group.may_compare,
        };
        Self {
            when_missing: policy.when_missing.as_str().to_owned(),
            on_abstain: Some(policy.on_abstain.as_str().to_owned()),
            max_combined_norm: Some(policy.max_combined_norm),
            allow_other_quantisation: Some(policy.allow_other_quantisation),
            categories: policy.categories.iter().map(|(c, r)| (c.clone(), rule(r))).collect(),
            groups: policy.groups.iter().map(|(name, g)| (name.clone(), group(g))).collect(),
        }
    }
}
