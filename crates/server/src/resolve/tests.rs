//! Every case of the resolution table.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use skeg_vector_store::ALIASES;

use super::*;

fn rule(action: Action) -> CategoryRule {
    CategoryRule {
        action,
        floor: 0.5,
        default: 1.0,
        ceiling: 1.5,
        positions: Positions::All,
        refusal: "The policy refuses this.".to_owned(),
    }
}

/// Categories `fraud` and `malware` steer, `adult` refuses, `politics` is logged; everything is allowed.
pub(super) fn rules() -> Rules {
    Rules {
        categories: BTreeMap::from([
            ("adult".to_owned(), rule(Action::Refuse)),
            ("fraud".to_owned(), rule(Action::Steer)),
            ("malware".to_owned(), rule(Action::Steer)),
            ("politics".to_owned(), rule(Action::Log)),
        ]),
        when_missing: Missing::None,
        on_abstain: Abstained::Reject,
        has_gate: false,
        group: GroupRule {
            categories: None,
            may_none: true,
            may_raise: true,
            may_lower: true,
            may_compare: true,
        },
    }
}

pub(super) fn body(names: &[&str]) -> SteeringSpec {
    SteeringSpec {
        category: Some(names.iter().map(|&name| name.to_owned()).collect()),
        ..SteeringSpec::default()
    }
}

/// Resolves a header value and a body; the outcome as `label/source/decision`, or the error's code.
fn check(header: Option<&str>, spec: &SteeringSpec, rules: &Rules) -> Result<String, &'static str> {
    let mut headers = HeaderMap::new();
    if let Some(value) = header {
        headers.insert("x-safety-category", HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let outcome = read_header(&headers)
        .and_then(|names| resolve(names.as_deref(), spec, rules))
        .map(Resolved::now);
    outcome
        .map(|r| format!("{}/{}/{}", r.label(), r.source.as_str(), r.decision.as_str()))
        .map_err(|e| e.code())
}

fn ok(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
}

#[test]
fn header_then_body_then_policy() {
    let (rules, nothing) = (rules(), SteeringSpec::default());
    assert_eq!(check(Some("fraud"), &nothing, &rules), ok("fraud/header/steer"));
    assert_eq!(check(None, &body(&["fraud"]), &rules), ok("fraud/body/steer"));
    assert_eq!(check(Some("fraud"), &body(&["fraud"]), &rules), ok("fraud/header/steer"));
    assert_eq!(
        check(Some("malware, fraud"), &body(&["fraud", "malware"]), &rules),
        ok("fraud,malware/header/steer")
    );
    assert_eq!(check(Some("fraud"), &body(&["malware"]), &rules), Err("category_conflict"));
    assert_eq!(
        check(Some("fraud"), &body(&["fraud", "malware"]), &rules),
        Err("category_conflict")
    );
    assert_eq!(check(Some("none"), &body(&["fraud"]), &rules), Err("category_conflict"));
    assert_eq!(check(Some("none"), &nothing, &rules), ok("none/header/none"));
    assert_eq!(check(None, &nothing, &rules), ok("none/default/none"));
}

#[test]
fn the_policy_decides_where_nothing_is_given() {
    let nothing = SteeringSpec::default();
    let with = |when_missing| Rules { when_missing, ..rules() };
    assert_eq!(
        check(None, &nothing, &with(Missing::Category("fraud".to_owned()))),
        ok("fraud/default/steer")
    );
    assert_eq!(check(None, &nothing, &with(Missing::Reject)), Err("category_required"));
    assert_eq!(check(None, &nothing, &with(Missing::Auto)), Err("steering_unavailable"));
    assert_eq!(check(Some("none"), &nothing, &with(Missing::Reject)), ok("none/header/none"));
}

#[test]
fn names_are_checked() {
    let (rules, nothing) = (rules(), SteeringSpec::default());
    for empty in ["", " ", ",", "fraud,", ",fraud"] {
        assert_eq!(check(Some(empty), &nothing, &rules), Err("invalid_category"), "{empty:?}");
    }
    assert_eq!(check(None, &body(&[]), &rules), Err("invalid_category"));
    assert_eq!(check(None, &body(&["  "]), &rules), Err("invalid_category"));
    assert_eq!(check(Some("fr\u{e9}ud"), &nothing, &rules), Err("invalid_category"));
    for unknown in ["unknown", "Fraud", "fraud;malware", "fraud malware"] {
        assert_eq!(check(Some(unknown), &nothing, &rules), Err("unknown_category"), "{unknown:?}");
    }
    for mixed in ["none,fraud", "auto,fraud", "none,auto"] {
        assert_eq!(check(Some(mixed), &nothing, &rules), Err("category_conflict"), "{mixed:?}");
    }
    assert_eq!(check(Some(" fraud , fraud "), &nothing, &rules), ok("fraud/header/steer"));
    assert_eq!(check(Some("auto"), &nothing, &rules), Err("auto_unavailable"));
    assert_eq!(check(None, &body(&["auto"]), &rules), Err("auto_unavailable"));
}

#[test]
fn an_unknown_category_is_told_the_known_ones() {
    let names = vec!["nonsense".to_owned()];
    let error = resolve(Some(&names), &SteeringSpec::default(), &rules()).unwrap_err();
    assert!(error.to_json().contains("adult, fraud, malware, politics"), "{}", error.to_json());
}

#[test]
fn names_of_other_taxonomies_are_taken_where_the_policy_has_their_category() {
    let mut rules = rules();
    assert_eq!(check(Some("S12"), &SteeringSpec::default(), &rules), Err("unknown_category"));
    rules.categories.insert("adult_content".to_owned(), rule(Action::Steer));
    let expected = ok("adult_content/header/steer");
    assert_eq!(check(Some("S12"), &SteeringSpec::default(), &rules), expected);
    assert_eq!(check(Some("Adult Content"), &body(&["adult_content"]), &rules), expected);
}

#[test]
fn a_name_with_commas_of_its_own_is_one_name() {
    let mut rules = rules();
    for slug in ["adult_content", "illegal_activity"] {
        rules.categories.insert(slug.to_owned(), rule(Action::Steer));
    }
    for alias in ALIASES.iter().filter(|alias| alias.name.contains(',')) {
        let alone = HeaderMap::from_iter([(
            HeaderName::from_static("x-safety-category"),
            HeaderValue::from_static(alias.name),
        )]);
        assert_eq!(read_header(&alone).unwrap().unwrap(), [alias.name]);
    }
    let several = "fraud, sexually_explicit, adult_content ,drug_abuse,weapons,banned_substance";
    assert_eq!(
        check(Some(several), &SteeringSpec::default(), &rules),
        ok("adult_content,fraud,illegal_activity/header/steer")
    );
}

#[test]
fn a_repeated_header_is_one_list() {
    let mut headers = HeaderMap::new();
    headers.append("x-safety-category", HeaderValue::from_static("fraud"));
    headers.append("x-safety-category", HeaderValue::from_static("malware"));
    assert_eq!(read_header(&headers).unwrap().unwrap(), ["fraud", "malware"]);
}

#[test]
fn near_misses_of_the_header_are_answered() {
    for name in ["x-safety-categories", "x-category"] {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("fraud"));
        let error = read_header(&headers).unwrap_err();
        assert_eq!(error.code(), "misspelled_header");
        assert!(error.to_json().contains("X-Safety-Category"));
    }
}

#[test]
fn the_group_bounds_what_a_caller_may_ask() {
    let mut rules = rules();
    rules.group = GroupRule {
        categories: Some(["fraud".to_owned()].into()),
        may_none: false,
        may_raise: false,
        may_lower: false,
        may_compare: false,
    };
    let spec = |strength, positions, compare| SteeringSpec {
        strength,
        positions,
        compare,
        ..body(&["fraud"])
    };
    assert_eq!(check(Some("fraud"), &SteeringSpec::default(), &rules), ok("fraud/header/steer"));
    assert_eq!(
        check(Some("malware"), &SteeringSpec::default(), &rules),
        Err("category_not_allowed")
    );
    assert_eq!(
        check(Some("fraud,malware"), &SteeringSpec::default(), &rules),
        Err("category_not_allowed")
    );
    assert_eq!(check(Some("none"), &SteeringSpec::default(), &rules), Err("steering_required"));
    assert_eq!(check(None, &body(&["none"]), &rules), Err("steering_required"));
    assert_eq!(check(None, &spec(Some(1.0), None, false), &rules), ok("fraud/body/steer"));
    assert_eq!(check(None, &spec(Some(1.1), None, false), &rules), Err("strength_not_allowed"));
    assert_eq!(check(None, &spec(Some(0.9), None, false), &rules), Err("strength_not_allowed"));
    assert_eq!(
        check(None, &spec(None, Some(Positions::All), false), &rules),
        ok("fraud/body/steer")
    );
    assert_eq!(
        check(None, &spec(None, Some(Positions::Prompt), false), &rules),
        Err("positions_not_allowed")
    );
    assert_eq!(check(None, &spec(None, None, true), &rules), Err("compare_not_allowed"));
    // The policy's own default is not the caller's asking.
    rules.when_missing = Missing::Category("malware".to_owned());
    assert_eq!(check(None, &SteeringSpec::default(), &rules), ok("malware/default/steer"));
}

/// What a group may do, by the fields that are true.
fn may(fields: &[&str]) -> Rules {
    let has = |field| fields.contains(&field);
    let group = GroupRule {
        categories: None,
        may_none: has("none"),
        may_raise: has("raise"),
        may_lower: has("lower"),
        may_compare: has("compare"),
    };
    let mut rules = Rules { group, ..rules() };
    rules.categories.values_mut().for_each(|rule| rule.positions = Positions::Prompt);
    rules
}

#[test]
fn each_permission_allows_its_own_and_nothing_else() {
    let spec = |strength, positions, compare| SteeringSpec {
        strength,
        positions,
        compare,
        ..body(&["fraud"])
    };
    let asked = [
        ("none", body(&["none"])),
        ("raise", spec(Some(1.2), None, false)),
        ("raise", spec(None, Some(Positions::All), false)),
        ("lower", spec(Some(0.8), None, false)),
        ("lower", spec(None, Some(Positions::Generation), false)),
        ("compare", spec(None, None, true)),
    ];
    for allowed in ["none", "raise", "lower", "compare"] {
        for (needed, spec) in &asked {
            let outcome = check(None, spec, &may(&[allowed]));
            assert_eq!(outcome.is_ok(), allowed == *needed, "may {allowed}: {spec:?}: {outcome:?}");
        }
    }
    // No permission goes beyond floor and ceiling.
    let everything = may(&["none", "raise", "lower", "compare"]);
    for outside in [0.4, 1.6] {
        let outcome = check(None, &spec(Some(outside), None, false), &everything);
        assert_eq!(outcome, Err("strength_out_of_range"));
    }
}

#[test]
fn a_group_without_categories_names_none_of_them() {
    let mut rules = may(&["none"]);
    rules.group.categories = Some([].into());
    let nothing = SteeringSpec::default();
    assert_eq!(check(Some("fraud"), &nothing, &rules), Err("category_not_allowed"));
    assert_eq!(check(Some("none"), &nothing, &rules), ok("none/header/none"));
}

#[test]
fn the_policys_positions_hold_where_nothing_else_is_asked() {
    for positions in [Positions::All, Positions::Prompt, Positions::Generation] {
        let mut rules = may(&[]);
        rules.categories.values_mut().for_each(|rule| rule.positions = positions);
        let resolved = resolve(None, &body(&["fraud"]), &rules).unwrap().now();
        assert_eq!(resolved.positions, positions);
    }
}

#[test]
fn strength_stays_between_floor_and_ceiling() {
    let with = |strength| SteeringSpec { strength: Some(strength), ..body(&["fraud"]) };
    for inside in [0.5, 1.0, 1.5] {
        assert_eq!(check(None, &with(inside), &rules()), ok("fraud/body/steer"));
    }
    for outside in [0.49, 1.51, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(check(None, &with(outside), &rules()), Err("strength_out_of_range"));
    }
    let error = resolve(None, &with(2.0), &rules()).unwrap_err().to_json();
    assert!(error.contains("0.5") && error.contains("1.5"), "{error}");
    let strength_only = SteeringSpec { strength: Some(1.0), ..SteeringSpec::default() };
    assert_eq!(check(None, &strength_only, &rules()), Err("steering_without_category"));
    assert_eq!(check(Some("none"), &strength_only, &rules()), Err("steering_without_category"));
}

#[test]
fn the_strictest_action_wins() {
    let nothing = SteeringSpec::default();
    assert_eq!(check(Some("adult"), &nothing, &rules()), ok("adult/header/refuse"));
    assert_eq!(check(Some("politics"), &nothing, &rules()), ok("politics/header/log"));
    assert_eq!(
        check(Some("fraud,politics"), &nothing, &rules()),
        ok("fraud,politics/header/steer")
    );
    assert_eq!(check(Some("adult,fraud"), &nothing, &rules()), ok("adult,fraud/header/refuse"));
}

#[test]
fn only_steering_can_be_compared() {
    let compare = SteeringSpec { compare: true, ..SteeringSpec::default() };
    assert_eq!(check(Some("fraud"), &compare, &rules()), ok("fraud/header/steer"));
    for other in ["none", "adult", "politics"] {
        assert_eq!(check(Some(other), &compare, &rules()), Err("invalid_value"), "{other}");
    }
}

#[test]
fn categories_with_different_positions_steer_every_token() {
    let mut rules = rules();
    let positions = |header: &[&str], spec: &SteeringSpec, rules: &Rules| {
        let names: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
        resolve(Some(&names), spec, rules).unwrap().now().positions
    };
    for rule in rules.categories.values_mut() {
        rule.positions = Positions::Generation;
    }
    let nothing = SteeringSpec::default();
    assert_eq!(positions(&["fraud", "malware"], &nothing, &rules), Positions::Generation);
    if let Some(rule) = rules.categories.get_mut("malware") {
        rule.positions = Positions::Prompt;
    }
    assert_eq!(positions(&["fraud", "malware"], &nothing, &rules), Positions::All);
    let asked = SteeringSpec { positions: Some(Positions::Prompt), ..SteeringSpec::default() };
    assert_eq!(positions(&["fraud"], &asked, &rules), Positions::Prompt);
}
