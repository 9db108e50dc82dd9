//! The policy's text, read and asked.

use super::*;
use crate::Error;

const STEER: &str =
    "action = 'steer'\npositions = 'all'\nstrength = { default = 0.7, floor = 0.4, ceiling = 1 }\n";

fn category(slug: &str) -> Category {
    slug.parse().unwrap()
}

/// A policy with the rules `[categories.a]` and `[categories.b]`, `head` before and `tail` after them.
fn parse(head: &str, rule_a: &str, tail: &str) -> Result<Policy, Error> {
    Policy::parse(&format!("{head}\n[categories.a]\n{rule_a}\n[categories.b]\n{STEER}\n{tail}"))
}

/// The error's text starts with the file's name and goes on with `expected`.
fn check_refused(policy: Result<Policy, Error>, expected: &str) {
    let message = policy.unwrap_err().to_string();
    let message = message.strip_prefix("policy.toml: ").expect("the file's name");
    assert!(message.contains(expected), "{message}\ndoes not contain\n{expected}");
}

#[test]
fn fields_left_out_have_the_documented_values() {
    let policy = parse("when_missing = 'a'", STEER, "[groups.anonymous]").unwrap();
    assert_eq!(policy.when_missing, WhenMissing::Category(category("a")));
    assert_eq!(policy.on_abstain, OnAbstain::Reject);
    assert_eq!(policy.max_combined_norm.to_bits(), 1.0_f32.to_bits());
    assert!(!policy.allow_other_quantisation);
    assert_eq!(policy.categories[&category("a")].refusal, DEFAULT_REFUSAL);
    assert_eq!(policy.group("anonymous"), &GroupPolicy::default());
}

#[test]
fn words_and_categories_are_told_apart() {
    for (word, expected) in [
        ("auto", WhenMissing::Auto),
        ("none", WhenMissing::None),
        ("reject", WhenMissing::Reject),
        ("b", WhenMissing::Category(category("b"))),
    ] {
        let policy = parse(&format!("when_missing = '{word}'"), STEER, "").unwrap();
        assert_eq!(policy.when_missing, expected);
    }
    for (word, expected) in [("none", OnAbstain::None), ("b", OnAbstain::Category(category("b")))] {
        let head = format!("when_missing = 'none'\non_abstain = '{word}'");
        assert_eq!(parse(&head, STEER, "").unwrap().on_abstain, expected);
    }
}

#[test]
fn an_unknown_field_is_refused_wherever_it_stands() {
    for (head, rule, tail) in [
        ("when_missing = 'none'\nwhen_mising = 'none'", STEER.to_owned(), ""),
        ("when_missing = 'none'", format!("{STEER}colour = 1"), ""),
        ("when_missing = 'none'", STEER.replace("ceiling", "cieling = 1, ceiling"), ""),
        ("when_missing = 'none'", STEER.to_owned(), "[groups.staff]\nmay_fly = true"),
    ] {
        check_refused(parse(head, &rule, tail), "unknown field");
    }
}

#[test]
fn a_missing_field_is_named() {
    check_refused(parse("", STEER, ""), "missing field `when_missing`");
    check_refused(parse("when_missing = 'none'", "action = 'steer'", ""), "missing field");
}

#[test]
fn strengths_out_of_order_are_refused() {
    let refused = |strength: &str| {
        let rule = format!("action = 'steer'\npositions = 'all'\nstrength = {{ {strength} }}");
        let expected = "field `categories.a.strength`: found floor ";
        check_refused(parse("when_missing = 'none'", &rule, ""), expected);
    };
    refused("default = 0.7, floor = 0.8, ceiling = 1.0");
    refused("default = 1.1, floor = 0.8, ceiling = 1.0");
    refused("default = 0.0, floor = -1.0, ceiling = 1.0");
    refused("default = 0.7, floor = 0.4, ceiling = inf");
    refused("default = nan, floor = 0.4, ceiling = 1.0");
}

#[test]
fn a_refusing_rule_needs_its_text() {
    let rule = STEER.replace("steer", "refuse");
    let expected =
        "field `categories.a.refusal`: found nothing, expected the text a refused caller is given";
    check_refused(parse("when_missing = 'none'", &rule, ""), expected);
    let empty = format!("{rule}refusal = '  '");
    check_refused(parse("when_missing = 'none'", &empty, ""), "found 2 bytes");
    let policy = parse("when_missing = 'none'", &format!("{rule}refusal = 'No.'"), "").unwrap();
    assert_eq!(policy.categories[&category("a")].refusal, "No.");
}

#[test]
fn a_category_without_a_rule_cannot_be_named() {
    check_refused(
        parse("when_missing = 'c'", STEER, ""),
        "field `when_missing`: found \"c\", expected one of `a`, `b`, `auto`, `none`, `reject`; \
         name one of them, or add a rule under `categories`",
    );
    check_refused(
        parse("when_missing = 'none'\non_abstain = 'auto'", STEER, ""),
        "field `on_abstain`: found \"auto\", expected one of `a`, `b`, `none`, `reject`",
    );
    check_refused(
        parse("when_missing = 'none'", STEER, "[groups.staff]\ncategories = ['a', 'c']"),
        "field `groups.staff.categories`: found \"c\", expected one of `a`, `b`;",
    );
}

#[test]
fn a_bound_on_sums_below_one_summand_is_refused() {
    for bound in ["0.5", "nan", "inf", "-1"] {
        let head = format!("when_missing = 'none'\nmax_combined_norm = {bound}");
        check_refused(parse(&head, STEER, ""), "field `max_combined_norm`: found");
    }
}

#[test]
fn a_request_gets_the_default_or_what_it_asked_for_within_the_range() {
    let policy = parse("when_missing = 'none'", STEER, "").unwrap();
    let ask = |requested| policy.strength(&category("a"), requested);
    assert_eq!(ask(None), Ok(0.7));
    for strength in [0.4, 0.9, 1.0] {
        assert_eq!(ask(Some(strength)), Ok(strength));
    }
    for requested in [0.0, 0.39, 1.01, -0.7, f32::INFINITY] {
        let expected = StrengthError::OutOfRange { requested, floor: 0.4, ceiling: 1.0 };
        assert_eq!(ask(Some(requested)), Err(expected));
    }
    assert!(ask(Some(f32::NAN)).is_err());
    let unknown = category("c");
    assert_eq!(
        policy.strength(&unknown, None),
        Err(StrengthError::UnknownCategory(unknown.clone()))
    );
}

#[test]
fn a_group_that_is_not_named_may_name_categories_and_nothing_else() {
    let tail = "[groups.staff]\ncategories = ['a']\nmay_none = true\nmay_compare = true";
    let policy = parse("when_missing = 'none'", STEER, tail).unwrap();
    let staff = policy.group("staff");
    assert!(staff.may_name(&category("a")) && !staff.may_name(&category("b")));
    assert!(staff.may_none && staff.may_compare && !staff.may_raise && !staff.may_lower);
    let others = policy.group("anonymous");
    assert!(others.may_name(&category("a")) && others.may_name(&category("b")));
    assert_eq!(others, &GroupPolicy::default());
}
