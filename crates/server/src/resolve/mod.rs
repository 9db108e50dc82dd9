//! Category resolution: what a request says, what the policy says, and what is due.
//!
//! The order is header, body, policy. It is a pure function of plain values, so that every case of the table in
//! the design is a row of a test. Its outcome is either a [`Resolution`] or an error that names the field;
//! no case falls through to "unsteered" by accident.

mod gated;
mod given;
mod overridden;
mod rules;

use skeg_model::steering::Positions;

pub(crate) use gated::{Found, Gated, Resolved};
pub(crate) use given::{Given, Selection, read_header};
pub(crate) use overridden::resolve_under;
pub(crate) use rules::{Abstained, CategoryRule, GroupRule, Missing, Rules};

use crate::errors::ApiError;
use crate::kill_switch::OverrideAction;
use crate::wire::SteeringSpec;
use axum::http::StatusCode;

/// The header's name as clients should write it.
pub(crate) const HEADER: &str = "X-Safety-Category";
const BODY_FIELD: &str = "steering.category";
const COMPARE_FIELD: &str = "steering.compare";

/// What a policy does about a category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Steer,
    Refuse,
    Log,
}

/// Where the category came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Header,
    Body,
    /// The gate found it.
    Auto,
    Default,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Body => "body",
            Self::Auto => "auto",
            Self::Default => "default",
        }
    }
}

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// No category: answered as the model is.
    Unsteered,
    /// Steered by the categories whose action is `steer`.
    Steer,
    /// Answered by this text, without a forward pass.
    Refuse(String),
    /// Shadow mode: answered unsteered, and said so.
    Shadow,
}

impl Decision {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Unsteered => "none",
            Self::Steer => "steer",
            Self::Refuse(_) => "refuse",
            Self::Shadow => "log",
        }
    }
}

/// One category of a resolved request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResolvedCategory {
    pub(crate) slug: String,
    pub(crate) action: Action,
    /// Within the policy's floor and ceiling.
    pub(crate) strength: f32,
}

/// A resolved request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resolution {
    pub(crate) source: Source,
    /// The gate's probability of harm, where it was asked.
    pub(crate) confidence: Option<f32>,
    /// The classifier was asked and gave no verdict, and the operator lets such requests through.
    pub(crate) unclassified: bool,
    /// In the policy's order, each once; empty = none.
    pub(crate) categories: Vec<ResolvedCategory>,
    pub(crate) decision: Decision,
    pub(crate) positions: Positions,
    /// Whether an unsteered answer is wanted beside the steered one; only with [`Decision::Steer`].
    pub(crate) compare: bool,
    /// The override under which it was resolved.
    pub(crate) overridden: Option<OverrideAction>,
}

impl Resolution {
    /// The categories as the evidence headers write them.
    pub(crate) fn label(&self) -> String {
        if self.categories.is_empty() {
            return "none".to_owned();
        }
        let slugs: Vec<&str> =
            self.categories.iter().map(|category| category.slug.as_str()).collect();
        slugs.join(",")
    }

    /// What is said of the classifier where it gave no verdict.
    pub(crate) fn classifier(&self) -> Option<&'static str> {
        self.unclassified.then_some("failed")
    }

    /// What `x-steering-applied` says before the first byte.
    pub(crate) fn applied(&self) -> &'static str {
        match self.decision {
            Decision::Unsteered | Decision::Shadow => "none",
            Decision::Steer => "planned",
            Decision::Refuse(_) => "refused",
        }
    }
}

/// Resolves a request: `header` is what [`read_header`] found, `spec` the body's object, `rules` the policy as
/// it stands for the caller's group.
pub(crate) fn resolve(
    header: Option<&[String]>,
    spec: &SteeringSpec,
    rules: &Rules,
) -> Result<Resolved, ApiError> {
    let given = Given::from_request(header, spec.category.as_deref(), rules)?;
    let slugs = match &given {
        Some(given) => named_slugs(given, rules)?,
        None => missing_slugs(rules)?,
    };
    let (source, slugs) = match (given, slugs) {
        (given, Named::ByGate) => return Gated::resolved(given, Vec::new(), spec, rules),
        // What is named is the least; a caller who may lower is taken at its word.
        (Some(given), Named::Slugs(slugs))
            if rules.when_missing == Missing::Auto
                && !rules.group.may_lower
                && !slugs.is_empty() =>
        {
            return Gated::resolved(Some(given), slugs, spec, rules);
        }
        (given, Named::Slugs(slugs)) => {
            (given.map_or(Source::Default, |given| given.source), slugs)
        }
    };
    let categories = slugs
        .iter()
        .map(|slug| resolve_category(slug, None, spec, rules))
        .collect::<Result<Vec<_>, _>>()?;
    finish((source, None), categories, spec, rules).map(Resolved::Now)
}

/// What a request's words come to.
enum Named {
    /// These categories.
    Slugs(Vec<String>),
    /// What the gate finds.
    ByGate,
}

/// The resolution of these categories.
fn finish(
    (source, confidence): (Source, Option<f32>),
    categories: Vec<ResolvedCategory>,
    spec: &SteeringSpec,
    rules: &Rules,
) -> Result<Resolution, ApiError> {
    // A gate that finds nothing leaves nothing for a strength to act on, and that is no mistake of the caller.
    let is_found = source == Source::Auto;
    if categories.is_empty() && !is_found && (spec.strength.is_some() || spec.positions.is_some()) {
        return Err(ApiError::bad_request(
            "steering_without_category",
            "steering",
            "`steering.strength` and `steering.positions` need a category; none is in effect",
        ));
    }
    let decision = decide(&categories, rules);
    check_compare(spec, &decision, rules)?;
    let positions = resolve_positions(&categories, spec, rules)?;
    Ok(Resolution {
        source,
        confidence,
        unclassified: false,
        categories,
        decision,
        positions,
        compare: spec.compare,
        overridden: None,
    })
}

/// The categories a caller named, if its group may name them.
fn named_slugs(given: &Given, rules: &Rules) -> Result<Named, ApiError> {
    match &given.selection {
        Selection::Auto if rules.has_gate => Ok(Named::ByGate),
        Selection::Auto => Err(ApiError::bad_request(
            "auto_unavailable",
            given.param(),
            "this server has no classifier that could find a category; name one",
        )),
        Selection::None if rules.group.may_none => Ok(Named::Slugs(Vec::new())),
        Selection::None => Err(ApiError::forbidden(
            "steering_required",
            given.param(),
            "this caller may not turn steering off; name a category, or none and leave the field out",
        )),
        Selection::Categories(slugs) => {
            match slugs.iter().find(|slug| !rules.group.may_name(slug)) {
                None => Ok(Named::Slugs(slugs.iter().cloned().collect())),
                Some(slug) => Err(ApiError::forbidden(
                    "category_not_allowed",
                    given.param(),
                    format!("this caller may not name the category `{slug}`"),
                )),
            }
        }
    }
}

/// The policy's word where the request says nothing.
fn missing_slugs(rules: &Rules) -> Result<Named, ApiError> {
    match &rules.when_missing {
        Missing::None => Ok(Named::Slugs(Vec::new())),
        Missing::Category(slug) => Ok(Named::Slugs(vec![slug.clone()])),
        Missing::Auto if rules.has_gate => Ok(Named::ByGate),
        Missing::Reject => Err(ApiError::bad_request(
            "category_required",
            HEADER,
            format!(
                "a category is required: send the header `{HEADER}` or the body field `{BODY_FIELD}` with one of: {}",
                rules.slugs()
            ),
        )),
        // The loader refuses such a policy; a request that meets it anyway is not answered unsteered.
        Missing::Auto => {
            Err(ApiError::steering_unavailable("the policy says `auto` and there is no classifier"))
        }
    }
}

/// A category with its action and strength: the caller's, or `found`, or the policy's default.
fn resolve_category(
    slug: &str,
    found: Option<f32>,
    spec: &SteeringSpec,
    rules: &Rules,
) -> Result<ResolvedCategory, ApiError> {
    let rule = rules.categories.get(slug).ok_or_else(|| {
        ApiError::steering_unavailable(format!(
            "the policy's default category `{slug}` has no rule"
        ))
    })?;
    let strength = match spec.strength {
        Some(strength) => check_strength(slug, strength, rule, &rules.group)?,
        None => found.unwrap_or(rule.default),
    };
    Ok(ResolvedCategory { slug: slug.to_owned(), action: rule.action, strength })
}

fn check_strength(
    slug: &str,
    strength: f32,
    rule: &CategoryRule,
    group: &GroupRule,
) -> Result<f32, ApiError> {
    const PARAM: &str = "steering.strength";
    if !(rule.floor..=rule.ceiling).contains(&strength) {
        let message = format!(
            "strength {strength} is out of range for `{slug}`: the policy's floor is {} and its ceiling {}",
            rule.floor, rule.ceiling
        );
        return Err(ApiError::bad_request("strength_out_of_range", PARAM, message));
    }
    let allowed = (group.may_raise || strength <= rule.default)
        && (group.may_lower || strength >= rule.default);
    if !allowed {
        let message = format!(
            "this caller may not change the strength of `{slug}` from its default {} to {strength}",
            rule.default
        );
        return Err(ApiError::forbidden("strength_not_allowed", PARAM, message));
    }
    Ok(strength)
}

/// The strictest action among the categories: refuse, then steer, then log.
fn decide(categories: &[ResolvedCategory], rules: &Rules) -> Decision {
    let refusing = categories.iter().find(|category| category.action == Action::Refuse);
    if let Some(rule) = refusing.and_then(|category| rules.categories.get(&category.slug)) {
        return Decision::Refuse(rule.refusal.clone());
    }
    if categories.is_empty() {
        Decision::Unsteered
    } else if categories.iter().any(|category| category.action == Action::Steer) {
        Decision::Steer
    } else {
        Decision::Shadow
    }
}

fn check_may_compare(rules: &Rules) -> Result<(), ApiError> {
    if rules.group.may_compare {
        return Ok(());
    }
    let message = "this caller may not see the unsteered answer beside the steered one";
    Err(ApiError::forbidden("compare_not_allowed", COMPARE_FIELD, message))
}

fn check_compare(spec: &SteeringSpec, decision: &Decision, rules: &Rules) -> Result<(), ApiError> {
    if !spec.compare {
        return Ok(());
    }
    check_may_compare(rules)?;
    if *decision != Decision::Steer {
        let message = format!(
            "there is nothing to compare: the action for this request is `{}`, not `steer`",
            decision.as_str()
        );
        return Err(ApiError::invalid(COMPARE_FIELD, message));
    }
    Ok(())
}

/// The request's positions if the caller may change the policy's. `all` covers the others, so it raises; any other
/// change leaves some token unsteered that the policy steers, so it lowers.
fn resolve_positions(
    categories: &[ResolvedCategory],
    spec: &SteeringSpec,
    rules: &Rules,
) -> Result<Positions, ApiError> {
    let mut of_policy = categories
        .iter()
        .filter(|category| category.action == Action::Steer)
        .filter_map(|category| rules.categories.get(&category.slug))
        .map(|rule| rule.positions);
    let first = of_policy.next().unwrap_or(Positions::All);
    // Several categories share one plan: where their rules differ, every token is steered.
    let default =
        if of_policy.all(|positions| positions == first) { first } else { Positions::All };
    let Some(asked) = spec.positions.filter(|&asked| asked != default) else { return Ok(default) };
    let allowed =
        if asked == Positions::All { rules.group.may_raise } else { rules.group.may_lower };
    if allowed {
        return Ok(asked);
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "positions_not_allowed",
        "this caller may not change which tokens are steered",
    )
    .with_param("steering.positions"))
}

#[cfg(test)]
mod tests;
