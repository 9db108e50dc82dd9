//! Defaults, layers and what is refused.

use super::*;

const URL: &str = "url = \"http://127.0.0.1:9/v1\"\nmodel = \"guard\"\n";

fn raw(toml: &str) -> RawClassifier {
    toml::from_str(toml).unwrap()
}

fn config(toml: &str) -> Result<ClassifierConfig, String> {
    ClassifierConfig::from_raw(&raw(toml)).map_err(|error| error.to_string())
}

fn http(toml: &str) -> HttpConfig {
    match config(&format!("kind = \"http\"\n{URL}{toml}")).unwrap() {
        ClassifierConfig::Http(http) => *http,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_set_means_the_generations_probe() {
    assert_eq!(config("").unwrap().kind(), ClassifierKind::Generation);
    for (kind, expected) in
        [("generation", ClassifierKind::Generation), ("off", ClassifierKind::Off)]
    {
        let said = config(&format!("kind = \"{kind}\"\n{URL}")).unwrap();
        assert_eq!((said.kind(), said.kind_name()), (expected, kind));
        assert!(said.connect().unwrap().is_none());
    }
}

#[test]
fn an_endpoint_has_defaults_and_can_be_set() {
    let default = http("");
    assert_eq!(default.shape, ClassifierShape::Moderations);
    assert_eq!((default.timeout.as_millis(), default.max_concurrent), (2000, 8));
    assert_eq!(default.on_failure, OnFailure::Refuse);
    let set = "shape = \"llama_guard\"\ntimeout_ms = 300\nmax_concurrent = 2\non_failure = \"none\"\n[categories]\n\
               \"hate/x\" = \"own_words\"";
    let set = http(set);
    assert_eq!((set.shape_name(), set.on_failure.as_str()), ("llama_guard", "none"));
    assert_eq!((set.timeout.as_millis(), set.max_concurrent), (300, 2));
    assert_eq!(set.categories["hate/x"].as_str(), "own_words");
    assert!(ClassifierConfig::Http(Box::new(set)).connect().unwrap().is_some());
}

#[test]
fn what_lies_above_hides_what_lies_below() {
    let below = raw(&format!("kind = \"http\"\n{URL}timeout_ms = 5\n[categories]\na = \"b\""));
    let above = raw("url = \"http://127.0.0.1:10/v1\"\ntimeout_ms = 6");
    let ClassifierConfig::Http(http) = ClassifierConfig::from_raw(&above.over(below)).unwrap()
    else {
        panic!()
    };
    assert_eq!(http.url, "http://127.0.0.1:10/v1");
    assert_eq!((http.timeout.as_millis(), http.categories.len()), (6, 1));
}

#[test]
fn what_cannot_be_used_is_named() {
    for (toml, expected) in [
        ("kind = \"magic\"", "`classifier.kind`: `magic`"),
        (URL, "`classifier.kind`: is not set"),
        ("kind = \"http\"", "`classifier.url`: is not set"),
        ("kind = \"http\"\nurl = \"http://127.0.0.1:9/v1\"", "`classifier.model`: is not set"),
        ("kind = \"http\"\nmodel = \"m\"\nurl = \"guard:9\"", "http:// or https://"),
    ] {
        let error = config(toml).unwrap_err();
        assert!(error.contains(expected), "{toml}: {error}");
    }
    for (more, expected) in [
        ("shape = \"chat\"", "`classifier.shape`: `chat`"),
        ("on_failure = \"open\"", "`classifier.on_failure`: `open`"),
        ("timeout_ms = 0", "`classifier.timeout_ms`: is 0"),
        ("timeout_ms = 600001", "1 to 600000"),
        ("max_concurrent = 65", "`classifier.max_concurrent`: is 65; expected 1 to 64"),
        ("[categories]\na = \"Not A Slug\"", "`classifier.categories`: `a`"),
    ] {
        let error = config(&format!("kind = \"http\"\n{URL}{more}")).unwrap_err();
        assert!(error.contains(expected), "{more}: {error}");
    }
    let secret = "kind = \"http\"\nmodel = \"m\"\nurl = \"http://me:hidden@host/v1\"";
    let error = config(secret).unwrap_err();
    assert!(error.contains("`classifier.url`") && !error.contains("hidden"), "{error}");
}

#[test]
fn a_key_that_is_given_in_place_of_a_name_is_not_quoted() {
    let http = ClassifierConfig::Http(Box::new(http("key_env = \"sk-hidden\"")));
    let error = http.connect().unwrap_err().to_string();
    assert!(error.contains("`classifier.key_env`: names a variable"), "{error}");
    assert!(!error.contains("hidden"), "{error}");
}
