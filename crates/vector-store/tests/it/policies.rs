//! The schema of `policy.toml` against what is read, and the example policies against the shipped vectors.

use std::fs;
use std::path::{Path, PathBuf};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;
use skeg_vector_store::{
    Action, Files, Generation, Policy, WhenMissing, load_files, policy_schema, read_current,
    read_files, with_policy,
};

const SCHEMA_NAME: &str = "policy.schema.json";
const EXAMPLES: [&str; 3] = ["hospital.toml", "security_company.toml", "school.toml"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The kept schema, which the first test holds to the code, behind a validator.
struct Validator {
    schemas: Schemas,
    policy: SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let text = fs::read_to_string(repository().join("docs/policy.schema.json")).unwrap();
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource(SCHEMA_NAME, serde_json::from_str(&text).unwrap()).unwrap();
        let policy = compiler.compile(SCHEMA_NAME, &mut schemas).unwrap();
        Self { schemas, policy }
    }

    fn check(&self, text: &str) -> Result<(), String> {
        let policy = json(text);
        let checked = self.schemas.validate(&policy, self.policy);
        checked.map_err(|error| format!("{error:#}"))
    }
}

/// A TOML text as the JSON that an editor validates.
fn json(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

fn shipped() -> (PathBuf, Files) {
    let root = repository().join("vectors/smollm2-135m-instruct");
    let id = read_current(&root).unwrap().generation;
    let files = read_files(&root, &id).unwrap();
    (root.join("generations").join(id.as_str()), files)
}

fn example(name: &str) -> String {
    fs::read_to_string(repository().join("docs/policies").join(name)).unwrap()
}

/// The shipped generation under the example's policy.
fn under(name: &str) -> Generation {
    let (path, files) = shipped();
    load_files(&path, None, &with_policy(&files, &example(name)).unwrap()).unwrap()
}

#[test]
fn the_kept_schema_is_what_the_code_gives() {
    let path = repository().join("docs/policy.schema.json");
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let kept = serde_json::from_str::<Value>(&kept).unwrap_or_default();
    assert!(
        kept == policy_schema(),
        "docs/policy.schema.json is not what the code gives; renew it: cargo run -- policy schema > docs/policy.schema.json"
    );
}

#[test]
fn every_field_of_the_schema_says_what_it_is() {
    fn check(schema: &Value, place: &str) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            assert!(field["description"].is_string(), "{place}{name} has no description");
        }
    }
    let schema = policy_schema();
    check(&schema, "");
    let definitions = schema["definitions"].as_object().unwrap();
    assert!(definitions.len() >= 5, "{definitions:?}");
    for (name, definition) in definitions {
        check(definition, &format!("{name}."));
    }
    assert_eq!(schema["properties"]["max_combined_norm"]["minimum"], 1.0);
    for (field, default) in [
        ("on_abstain", Value::from("reject")),
        ("max_combined_norm", Value::from(1.0)),
        ("max_relative_norm", Value::from(2.0)),
        ("allow_other_quantisation", Value::from(false)),
        ("require_measured", Value::from(false)),
    ] {
        assert_eq!(schema["properties"][field]["default"], default, "{field}");
    }
}

#[test]
fn policies_that_are_read_are_valid_by_the_schema() {
    let validator = Validator::new();
    let (_, files) = shipped();
    let shipped = String::from_utf8(files["policy.toml"].clone()).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-data/policy");
    let golden =
        ["v1.toml", "v1.expected.toml"].map(|name| fs::read_to_string(golden.join(name)).unwrap());
    let texts = EXAMPLES.map(example).into_iter().chain(golden).chain([shipped]);
    for text in texts {
        let policy = Policy::parse(&text).unwrap();
        for text in [text, policy.to_toml().unwrap()] {
            assert_eq!(validator.check(&text), Ok(()), "{text}");
        }
    }
}

#[test]
fn the_guides_policy_is_one() {
    let guide = fs::read_to_string(repository().join("docs/guide.md")).unwrap();
    let (_, rest) = guide.split_once("```toml\n#:schema").unwrap();
    let text = format!("#{}", rest.split_once("```").unwrap().0);
    assert!(text.contains("[groups.anonymous]"), "{text}");
    assert_eq!(Validator::new().check(&text), Ok(()));
    // What the comments call the default is the default.
    let policy = Policy::parse(&text).unwrap();
    let words = policy.to_toml().unwrap();
    assert!(!words.contains("max_relative_norm") && !words.contains("require_measured"), "{words}");
}

/// A policy that is valid until one of its lines is replaced.
const VALID: &str = r#"when_missing = "a_1"
on_abstain = "none"
max_combined_norm = 1.5
max_relative_norm = 0.5
allow_other_quantisation = true
require_measured = true
[categories.a_1]
action = "steer"
positions = "prompt"
strength = { default = 0.7, floor = 0, ceiling = 1.0 }
[categories.b]
action = "refuse"
positions = "all"
strength = { default = 0, floor = 0, ceiling = 0 }
refusal = "No."
[groups.staff]
categories = ["b"]
may_none = true
"#;

#[test]
fn what_a_schema_can_say_is_refused_by_both() {
    let validator = Validator::new();
    let both = |text: &str| (validator.check(text).is_ok(), Policy::parse(text).is_ok());
    assert_eq!(both(VALID), (true, true));
    assert_eq!(both(&VALID.replace("[\"b\"]", "[\"b\", \"b\"]")), (true, true), "twice is once");
    let long = format!("{:?}", "x".repeat(4097));
    let slug = "x".repeat(65);
    for (from, to) in [
        ("when_missing = \"a_1\"\n", ""),
        ("when_missing = \"a_1\"", "when_missing = \"A\""),
        ("when_missing = \"a_1\"", "when_missing = \"all\""),
        ("when_missing = \"a_1\"", "when_mising = \"a_1\""),
        ("when_missing = \"a_1\"", "when_missing = 1"),
        ("on_abstain = \"none\"", "on_abstain = \"auto\""),
        ("max_combined_norm = 1.5", "max_combined_norm = 0.5"),
        ("max_relative_norm = 0.5", "max_relative_norm = 0"),
        ("max_relative_norm = 0.5", "max_relative_norm = -1.0"),
        ("require_measured = true", "require_measured = \"yes\""),
        ("[categories.b]", "[categories.B]"),
        ("[categories.b]", "[categories.b_]"),
        ("[categories.b]", "[categories.none]"),
        ("[categories.b]", &format!("[categories.{slug}]")),
        ("action = \"steer\"\n", ""),
        ("action = \"steer\"", "action = \"warn\""),
        ("positions = \"prompt\"", "positions = \"last\""),
        ("positions = \"prompt\"", "positions = \"prompt\"\ncolour = 1"),
        ("floor = 0, ceiling = 1.0", "floor = -0.1, ceiling = 1.0"),
        ("floor = 0, ceiling = 1.0", "floor = 0"),
        ("floor = 0, ceiling = 1.0", "floor = 0, ceiling = 1.0, step = 1"),
        ("refusal = \"No.\"\n", ""),
        ("refusal = \"No.\"", "refusal = \" \""),
        ("\"No.\"", &long),
        ("[groups.staff]", "[groups.\"\"]"),
        ("categories = [\"b\"]", "categories = [\"all\"]"),
        ("may_none = true", "may_none = 1"),
        ("may_none = true", "may_fly = true"),
    ] {
        assert!(VALID.contains(from), "{from}");
        let text = VALID.replacen(from, to, 1);
        assert_eq!(both(&text), (false, false), "by schema and reader: {from:?} -> {to:?}");
    }
    // What a schema cannot say is the reader's.
    for (from, to) in [
        ("when_missing = \"a_1\"", "when_missing = \"c\""),
        ("floor = 0, ceiling = 1.0", "floor = 0.8, ceiling = 1.0"),
        ("categories = [\"b\"]", "categories = [\"c\"]"),
    ] {
        let text = VALID.replacen(from, to, 1);
        assert_eq!(both(&text), (true, false), "by schema and reader: {from:?} -> {to:?}");
    }
}

#[test]
fn every_example_is_a_policy_of_the_shipped_vectors() {
    for name in EXAMPLES {
        let generation = under(name);
        assert_eq!(generation.policy, Policy::parse(&example(name)).unwrap());
        let windows = &generation.manifest.safe_windows;
        for (category, rule) in &generation.policy.categories {
            let (window, strength) = (&windows[category], rule.strength);
            assert!(
                window.min <= strength.floor && strength.ceiling <= window.max,
                "{name} {category}"
            );
        }
        // Loading takes them; a server without a probe does too.
        assert_ne!(generation.policy.when_missing, WhenMissing::Auto, "{name}");
    }
    let files = fs::read_dir(repository().join("docs/policies")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["hospital.toml", "school.toml", "security_company.toml"]);
}

/// What the comments of the examples promise.
#[test]
fn the_examples_differ_in_what_they_allow() {
    let [hospital, security, school] = EXAMPLES.map(|name| under(name).policy);
    for policy in [&hospital, &security, &school] {
        let anonymous = policy.group("anonymous");
        assert!(!anonymous.may_none && !anonymous.may_lower && !anonymous.may_compare);
    }
    let red_team = security.group("red_team");
    assert!(red_team.may_none && red_team.may_lower && red_team.may_raise && red_team.may_compare);
    assert!(school.groups.values().all(|group| !group.may_none && !group.may_lower));
    assert!(hospital.require_measured);
    for action in [Action::Steer, Action::Refuse, Action::Log] {
        let has = |policy: &Policy| policy.categories.values().any(|rule| rule.action == action);
        assert!([&hospital, &security, &school].into_iter().any(has), "{action:?}");
    }
}

#[test]
fn another_policy_makes_another_generation_of_the_same_vectors() {
    let (path, files) = shipped();
    let before = load_files(&path, None, &files).unwrap();
    let text = example("school.toml");
    let changed = with_policy(&files, &text).unwrap();
    let after = load_files(&path, None, &changed).unwrap();
    assert_ne!(before.id, after.id);
    assert_eq!(changed["policy.toml"], text.as_bytes(), "comments stay");
    assert_eq!(
        (&before.vectors, &before.card, &before.figures),
        (&after.vectors, &after.card, &after.figures)
    );
    let same = with_policy(&changed, std::str::from_utf8(&files["policy.toml"]).unwrap()).unwrap();
    assert_eq!(load_files(&path, None, &same).unwrap().id, before.id);
    let narrow = text.replace("[categories.adult_content]", "[categories.adults]");
    let error = with_policy(&files, &narrow).unwrap_err().to_string();
    assert!(error.contains("without `adult_content` and with `adults`"), "{error}");
}
