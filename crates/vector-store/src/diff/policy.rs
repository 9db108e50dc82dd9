//! The difference of two policies.

use std::collections::BTreeSet;

use super::{Fact, FieldChange, compare, list, word, yes_or_no};
use crate::policy::{AutoThresholds, CategoryPolicy, GroupPolicy, Policy};

/// The most characters of a refusal that are shown.
const MAX_SHOWN_CHARS: usize = 80;

pub(super) fn changes(from: &Policy, to: &Policy) -> Vec<FieldChange> {
    let mut changes = compare("", &facts(from), &facts(to));
    let names: BTreeSet<_> = from.categories.keys().chain(to.categories.keys()).collect();
    for category in names {
        let (before, after) = (from.categories.get(category), to.categories.get(category));
        let sides = (before.map(rule_facts), after.map(rule_facts));
        changes.extend(one("category", category.as_str(), sides));
    }
    let names: BTreeSet<&String> = from.groups.keys().chain(to.groups.keys()).collect();
    for name in names {
        // A group that a policy does not name may name any category and nothing else, and so is never quite absent.
        let sides = (from.groups.get(name), to.groups.get(name));
        let sides = (sides.0.map(group_facts), sides.1.map(group_facts));
        changes.extend(one("group", name, sides));
    }
    changes
}

/// What changed of a category or group: its fields, or, where one side lacks it, the whole in one line.
fn one(what: &str, name: &str, sides: (Option<Vec<Fact>>, Option<Vec<Fact>>)) -> Vec<FieldChange> {
    let whole = |facts: &[Fact]| {
        let words: Vec<String> =
            facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        words.join(", ")
    };
    let of = if what == "category" { name.to_owned() } else { format!("{what} {name}") };
    match sides {
        (Some(from), Some(to)) => compare(&of, &from, &to),
        (from, to) => vec![FieldChange {
            of,
            field: what.to_owned(),
            from: from.as_deref().map(whole),
            to: to.as_deref().map(whole),
        }],
    }
}

fn facts(policy: &Policy) -> Vec<Fact> {
    let auto = policy.auto;
    vec![
        ("auto thresholds".to_owned(), thresholds(auto.thresholds())),
        ("auto top_k".to_owned(), auto.top_k.to_string()),
        ("auto min_share".to_owned(), auto.min_share.to_string()),
        ("auto scale_strength".to_owned(), yes_or_no(auto.scale_strength)),
        ("auto recheck_every".to_owned(), or_none(auto.recheck_every)),
        ("auto recheck_threshold".to_owned(), or_none(auto.recheck_threshold)),
        ("when_missing".to_owned(), policy.when_missing.as_str().to_owned()),
        ("on_abstain".to_owned(), policy.on_abstain.as_str().to_owned()),
        ("max_combined_norm".to_owned(), policy.max_combined_norm.to_string()),
        ("max_relative_norm".to_owned(), policy.max_relative_norm.to_string()),
        ("allow_other_quantisation".to_owned(), yes_or_no(policy.allow_other_quantisation)),
        ("require_measured".to_owned(), yes_or_no(policy.require_measured)),
    ]
}

fn rule_facts(rule: &CategoryPolicy) -> Vec<Fact> {
    vec![
        ("action".to_owned(), word(&rule.action)),
        ("default strength".to_owned(), rule.strength.default.to_string()),
        ("floor".to_owned(), rule.strength.floor.to_string()),
        ("ceiling".to_owned(), rule.strength.ceiling.to_string()),
        ("positions".to_owned(), word(&rule.positions)),
        ("refusal".to_owned(), shown(&rule.refusal)),
        ("auto".to_owned(), rule.auto.map_or("as [auto]".to_owned(), thresholds)),
    ]
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or("none".to_owned(), |value| value.to_string())
}

fn thresholds(AutoThresholds { threshold, abstain }: AutoThresholds) -> String {
    match abstain {
        Some(abstain) => format!("from {threshold}, not sure from {abstain}"),
        None => format!("from {threshold}"),
    }
}

fn group_facts(group: &GroupPolicy) -> Vec<Fact> {
    let categories = group.categories.as_ref();
    vec![
        (
            "categories".to_owned(),
            categories.map_or("all".to_owned(), |categories| list(categories.iter())),
        ),
        ("may_none".to_owned(), yes_or_no(group.may_none)),
        ("may_raise".to_owned(), yes_or_no(group.may_raise)),
        ("may_lower".to_owned(), yes_or_no(group.may_lower)),
        ("may_compare".to_owned(), yes_or_no(group.may_compare)),
    ]
}

/// A text in quotes. Texts that differ behind what is shown say how long they are.
fn shown(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= MAX_SHOWN_CHARS {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    let digest = crate::hash::sha256(text.as_bytes());
    format!("{start:?}... ({chars} characters, SHA-256 {})", &digest[..8])
}
