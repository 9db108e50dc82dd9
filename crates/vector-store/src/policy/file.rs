//! The text of `policy.toml`, in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Action, AutoPolicy, AutoThresholds, CategoryPolicy, DEFAULT_MAX_RELATIVE_NORM, DEFAULT_REFUSAL,
    GroupPolicy, OnAbstain, Policy, Strength, WhenMissing,
};
use crate::error::{BadValue, Error, Result};
use crate::manifest::check::list;
use crate::{Category, Positions, files};

/// A sum is bounded by its longest summand unless the file says otherwise.
const DEFAULT_MAX_COMBINED_NORM: f32 = 1.0;
/// Longest text of a refusal, in bytes: it is an answer, not a document.
const MAX_REFUSAL_BYTES: usize = 4096;

/// What is done about each harm category, how strongly, and who may ask for what. It is a part of a generation of vectors and has a
/// rule for each of the generation's categories.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(title = "policy.toml of skeg")
)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    /// What holds where a request names no category: the rule of a category of this file, `auto` (a classifier's verdict; needs
    /// a probe, or servers that ask another one), `none` (it is answered unsteered) or `reject` (it is refused with `category_required`).
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::schema::when_missing"))]
    when_missing: String,
    /// What holds where the probe does not know: the rule of a category of this file, `none` or `reject`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::schema::on_abstain"))]
    #[serde(default = "default_on_abstain")]
    on_abstain: String,
    /// The most that the sum of several categories' vectors may have in a layer, as a multiple of the longest summand there.
    #[cfg_attr(feature = "schema", schemars(range(min = 1.0)))]
    #[serde(default = "default_max_combined_norm")]
    max_combined_norm: f32,
    /// The most that steering may add in a layer, as a multiple of the mean norm of what it is added to there; checked when a
    /// generation is loaded, for every category that steers, at its ceiling.
    #[cfg_attr(feature = "schema", schemars(extend("exclusiveMinimum" = 0, "default" = DEFAULT_MAX_RELATIVE_NORM)))]
    #[serde(
        default = "default_max_relative_norm",
        skip_serializing_if = "is_default_max_relative_norm"
    )]
    max_relative_norm: f32,
    /// Serve also with weights that the vectors were not measured on; answers then say `weights_mismatch`.
    #[serde(default)]
    allow_other_quantisation: bool,
    /// Take only a generation whose manifest has measured figures of every category that steers.
    #[cfg_attr(feature = "schema", schemars(extend("default" = false)))]
    #[serde(default, skip_serializing_if = "is_false")]
    require_measured: bool,
    /// What is done with a classifier's verdict.
    #[cfg_attr(feature = "schema", schemars(with = "AutoPolicy"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto: Option<AutoPolicy>,
    /// A rule for each category of the generation, and no other.
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"$ref": "#/definitions/Category"})))]
    categories: BTreeMap<Category, CategoryFile>,
    /// What the callers of each group may ask for. A group that is not named here, `anonymous` (callers without a key) included, may
    /// name any category and nothing else.
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"minLength": 1})))]
    #[serde(default)]
    groups: BTreeMap<String, GroupFile>,
}

/// The rule for one category.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "CategoryRule", extend(
        "if" = {"properties": {"action": {"const": "refuse"}}},
        "then" = {"required": ["refusal"]},
    ))
)]
#[serde(deny_unknown_fields)]
struct CategoryFile {
    /// What is done.
    action: Action,
    /// On which tokens.
    positions: Positions,
    /// What a refused caller is told, at most 4096 bytes and not blank. Required where the action is `refuse`.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "String", length(max = MAX_REFUSAL_BYTES), regex(pattern = "\\S"))
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    /// How strongly.
    strength: Strength,
    /// When a verdict for this category holds; left out: as `[auto]` says.
    #[cfg_attr(feature = "schema", schemars(with = "AutoThresholds"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto: Option<AutoThresholds>,
}

/// What the callers of a group may ask for.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Group"))]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "one permission each")]
struct GroupFile {
    /// The categories they may name; left out: all of this file.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<Category>"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    categories: Option<BTreeSet<Category>>,
    /// They may ask for `none`: an unsteered answer.
    #[serde(default)]
    may_none: bool,
    /// They may ask for more than the default strength, up to the ceiling, and for all positions.
    #[serde(default)]
    may_raise: bool,
    /// They may ask for less than the default strength, down to the floor, and for fewer positions.
    #[serde(default)]
    may_lower: bool,
    /// They may see the unsteered answer beside the steered one.
    #[serde(default)]
    may_compare: bool,
}

fn default_on_abstain() -> String {
    OnAbstain::Reject.as_str().to_owned()
}

fn default_max_combined_norm() -> f32 {
    DEFAULT_MAX_COMBINED_NORM
}

fn default_max_relative_norm() -> f32 {
    DEFAULT_MAX_RELATIVE_NORM
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_default_max_relative_norm(bound: &f32) -> bool {
    bound.to_bits() == DEFAULT_MAX_RELATIVE_NORM.to_bits()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !*value
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

    /// The text of `policy.toml`, sorted, every field written out but those that programs before them would refuse: they
    /// are written where they differ from their default alone.
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
        let on_abstain = match self.on_abstain.as_str() {
            "reject" => OnAbstain::Reject,
            "none" => OnAbstain::None,
            slug => OnAbstain::Category(named(slug, "on_abstain", &known)?),
        };
        self.check_bounds()?;
        let auto = self.auto.unwrap_or_default();
        auto.check()?;
        let categories = self.categories.into_iter();
        let groups = self.groups.into_iter();
        Ok(Policy {
            categories: categories
                .map(|(category, file)| file.into_rule(&category).map(|rule| (category, rule)))
                .collect::<Result<_, _>>()?,
            when_missing,
            on_abstain,
            auto,
            max_combined_norm: self.max_combined_norm,
            max_relative_norm: self.max_relative_norm,
            allow_other_quantisation: self.allow_other_quantisation,
            require_measured: self.require_measured,
            groups: groups
                .map(|(name, file)| file.into_group(&name, &known).map(|group| (name, group)))
                .collect::<Result<_, _>>()?,
        })
    }

    fn check_bounds(&self) -> Result<(), Box<BadValue>> {
        let combined = self.max_combined_norm;
        if !(combined.is_finite() && combined >= DEFAULT_MAX_COMBINED_NORM) {
            let expected = "a finite multiple of the longest summand, at least 1";
            return Err(BadValue::new(
                "max_combined_norm",
                combined,
                expected,
                "leave it out for 1",
            ));
        }
        let relative = self.max_relative_norm;
        if !(relative.is_finite() && relative > 0.0) {
            let expected = "a finite multiple of the activations' mean norm, above 0";
            let advice = format!("leave it out for {DEFAULT_MAX_RELATIVE_NORM}");
            return Err(BadValue::new("max_relative_norm", relative, expected, advice));
        }
        Ok(())
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
        if let Some(thresholds) = self.auto {
            thresholds.check(&format!("categories.{category}.auto"))?;
        }
        Ok(CategoryPolicy {
            auto: self.auto,
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
            auto: rule.auto,
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
            on_abstain: policy.on_abstain.as_str().to_owned(),
            auto: (policy.auto != AutoPolicy::default()).then_some(policy.auto),
            max_combined_norm: policy.max_combined_norm,
            max_relative_norm: policy.max_relative_norm,
            allow_other_quantisation: policy.allow_other_quantisation,
            require_measured: policy.require_measured,
            categories: policy.categories.iter().map(|(c, r)| (c.clone(), rule(r))).collect(),
            groups: policy.groups.iter().map(|(name, g)| (name.clone(), group(g))).collect(),
        }
    }
}
