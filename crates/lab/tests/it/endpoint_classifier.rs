//! A classifier behind an endpoint, against one on loopback.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use skeg_lab::Error;
use skeg_lab::judge::ApiKey;
use skeg_lab::probe::{ClassifierOptions, ClassifierShape, EndpointClassifier, Verdict};
use skeg_model::ChatMessage;
use skeg_vector_store::Category;

use crate::endpoint_judge::server::{Endpoint, Reply, Request, dead_url, says};

const KEY: &str = "hidden-key";
/// In every conversation, and in what failing endpoints say.
const SECRET: &str = "secret-words";

const SHAPES: [ClassifierShape; 2] = [ClassifierShape::Moderations, ClassifierShape::LlamaGuard];

fn options(endpoint: &Endpoint, shape: ClassifierShape) -> ClassifierOptions {
    // Long enough for a machine that is busy with other tests.
    let timeout = Duration::from_secs(60);
    ClassifierOptions { timeout, ..ClassifierOptions::new(endpoint.url(), "guard", shape) }
}

fn classifier(options: ClassifierOptions) -> EndpointClassifier {
    EndpointClassifier::new(options).unwrap()
}

fn classify(classifier: &EndpointClassifier) -> skeg_lab::Result<Verdict> {
    let slugs = ["adult_content", "hate_harass_violence", "illegal_activity", "physical_harm"];
    let categories = slugs.map(|slug| Category::parse(slug).unwrap());
    classifier.classify(&conversation(), &categories)
}

fn conversation() -> Vec<ChatMessage> {
    let message = |role: &str, content: &str| ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    vec![message("system", "be kind"), message("user", SECRET)]
}

fn moderation(flagged: bool, scores: &Value) -> Reply {
    let result = json!({"flagged": flagged, "category_scores": scores});
    ("200 OK", "", json!({"id": "modr-1", "results": [result]}).to_string())
}

fn shares(verdict: &Verdict) -> Vec<(&str, f32)> {
    verdict.categories.iter().map(|(category, share)| (category.as_str(), *share)).collect()
}

fn assert_near(found: f32, expected: f32) {
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

/// What a failing endpoint's error says; checked to name the address and no secret.
fn error_of(options: ClassifierOptions) -> String {
    let key = Some(ApiKey::new(KEY).unwrap());
    let url = options.base_url.clone();
    let classifier = classifier(ClassifierOptions { api_key: key, ..options });
    let error = classify(&classifier).unwrap_err();
    assert!(matches!(error, Error::Classifier { .. }), "{error:?}");
    let shown = format!("{error} {error:?} {classifier:?}");
    assert!(error.to_string().starts_with(&format!("classifier {url}/")), "{error}");
    assert!(!shown.contains(SECRET) && !shown.contains(KEY), "{shown}");
    error.to_string()
}

#[test]
fn a_moderation_gives_harm_and_shares() {
    let endpoint = Endpoint::start(|_, _| {
        let scores = json!({"self-harm": 0.6, "hate": 0.1, "hate/threatening": 0.2, "spam": 0.1});
        moderation(false, &scores)
    });
    let key = Some(ApiKey::new(KEY).unwrap());
    let options = options(&endpoint, ClassifierShape::Moderations);
    let options = ClassifierOptions { api_key: key, ..options };
    let verdict = classify(&classifier(options)).unwrap();
    assert_near(verdict.harm, 0.6);
    let shares = shares(&verdict);
    let slugs: Vec<&str> = shares.iter().map(|(slug, _)| *slug).collect();
    let expected = ["physical_harm", "hate_harass_violence", "adult_content", "illegal_activity"];
    assert_eq!(slugs, expected);
    for ((_, share), expected) in shares.iter().zip([0.75, 0.25, 0.0, 0.0]) {
        assert_near(*share, expected);
    }
    let [Request { path, headers, body }] = &endpoint.requests()[..] else { panic!() };
    assert_eq!(path, "/v1/moderations");
    assert_eq!(*body, json!({"model": "guard", "input": format!("be kind\n{SECRET}")}));
    assert!(headers.contains(&format!("authorization: bearer {KEY}")), "{headers:?}");
    assert!(!body.to_string().contains(KEY) && !path.contains(KEY));
}

#[test]
fn a_guard_model_gives_harm_and_shares() {
    let endpoint = Endpoint::start(|_, _| {
        let top = [("unsafe", 0.6), ("safe", 0.2)];
        let top = top.map(|(token, p): (_, f64)| json!({"token": token, "logprob": p.ln()}));
        let tokens = [
            json!({"token": "\n\n", "logprob": 0.0, "top_logprobs": []}),
            json!({"token": "unsafe", "logprob": 0.6_f64.ln(), "top_logprobs": top}),
        ];
        let message = json!({"role": "assistant", "content": "\n\nunsafe\nS1,S10"});
        let choice = json!({"index": 0, "message": message, "logprobs": {"content": tokens}});
        ("200 OK", "", json!({"choices": [choice]}).to_string())
    });
    let options = options(&endpoint, ClassifierShape::LlamaGuard);
    let verdict = classify(&classifier(options)).unwrap();
    assert_near(verdict.harm, 0.75);
    let expected = [("hate_harass_violence", 0.5), ("physical_harm", 0.5)];
    assert_eq!(shares(&verdict)[..2], expected);
    let [Request { path, headers, body }] = &endpoint.requests()[..] else { panic!() };
    assert_eq!(path, "/v1/chat/completions");
    let turn = json!({"role": "user", "content": format!("be kind\n\n{SECRET}")});
    let expected = json!({
        "model": "guard", "messages": [turn], "max_tokens": 64, "temperature": 0, "logprobs": true,
        "top_logprobs": 5, "stream": false,
    });
    assert_eq!(*body, expected);
    assert!(!headers.iter().any(|line| line.starts_with("authorization")), "{headers:?}");
}

#[test]
fn harm_that_is_in_no_category_counts_and_says_nothing_of_the_category() {
    let flagged = Endpoint::start(|_, _| moderation(true, &json!({"spam": 0.9})));
    let guarded = Endpoint::start(|_, _| says("unsafe\nS8"));
    for (endpoint, shape, harm) in [(&flagged, SHAPES[0], 0.9), (&guarded, SHAPES[1], 1.0)] {
        let verdict = classify(&classifier(options(endpoint, shape))).unwrap();
        assert_near(verdict.harm, harm);
        for (_, share) in shares(&verdict) {
            assert_near(share, 0.25);
        }
    }
}

#[test]
fn an_endpoint_that_fails_is_asked_once_and_named_without_the_text_or_the_key() {
    let statuses = [
        ("500 Internal Server Error", "answered 500 Internal Server Error; see that it runs"),
        ("401 Unauthorized", "it does not accept the key"),
        ("404 Not Found", "the address usually ends in /v1"),
    ];
    for (status, expected) in statuses {
        for shape in SHAPES {
            let endpoint = Endpoint::start(move |_, _| (status, "", SECRET.to_owned()));
            let error = error_of(options(&endpoint, shape));
            assert!(error.contains(expected), "{error}");
            assert_eq!(endpoint.requests().len(), 1);
        }
    }
    let dead = ClassifierOptions::new(dead_url(), "guard", SHAPES[0]);
    let error = error_of(dead);
    assert!(error.contains("cannot be reached: connection refused"), "{error}");
}

#[test]
fn an_answer_of_another_shape_is_an_error_that_says_what_was_expected() {
    for (shape, expected) in SHAPES.into_iter().zip(["results[0]", "`safe`, or `unsafe`"]) {
        let bodies = [SECRET.to_owned(), "{}".to_owned(), says(SECRET).2, says("").2];
        for body in bodies {
            let endpoint = Endpoint::start(move |_, _| ("200 OK", "", body.clone()));
            let error = error_of(options(&endpoint, shape));
            assert!(error.contains("gave an answer without"), "{error}");
            assert!(error.contains(expected), "{error}");
            assert_eq!(endpoint.requests().len(), 1);
        }
    }
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let endpoint = Endpoint::start(|_, _| {
        let (status, headers, body) = moderation(true, &json!({"hate": 1.0}));
        (status, headers, body + &" ".repeat(1 << 20))
    });
    let error = error_of(options(&endpoint, SHAPES[0]));
    assert!(error.contains("cannot be asked"), "{error}");
}

/// Answers when the other end of the channel is dropped.
fn waits(release: Receiver<()>) -> impl Fn(usize, &Request) -> Reply + Send + Sync {
    let release = Mutex::new(release);
    move |_, _| {
        release.lock().unwrap().recv().unwrap_err();
        says("safe")
    }
}

#[test]
fn a_late_answer_is_not_waited_for() {
    let (held, release) = sync_channel(0);
    let endpoint = Endpoint::start(waits(release));
    let timeout = Duration::from_millis(50);
    let error = error_of(ClassifierOptions { timeout, ..options(&endpoint, SHAPES[1]) });
    assert!(error.contains("did not answer within 0.05 s"), "{error}");
    drop(held);
}

#[test]
fn a_failed_request_gives_its_place_back() {
    let endpoint = Endpoint::start(|number, _| match number {
        0 => ("500 Internal Server Error", "", String::new()),
        _ => says("safe"),
    });
    let options = ClassifierOptions { max_concurrent: 1, ..options(&endpoint, SHAPES[1]) };
    let classifier = classifier(options);
    assert!(classify(&classifier).is_err());
    assert_near(classify(&classifier).unwrap().harm, 0.0);
}

#[test]
fn no_more_requests_are_under_way_than_allowed() {
    let two = Barrier::new(2);
    let endpoint = Endpoint::start(move |_, _| {
        // With fewer at once nobody would pass.
        two.wait();
        says("safe")
    });
    let options = ClassifierOptions { max_concurrent: 2, ..options(&endpoint, SHAPES[1]) };
    let classifier = classifier(options);
    std::thread::scope(|scope| {
        for asking in [(); 6].map(|()| scope.spawn(|| classify(&classifier))) {
            asking.join().unwrap().unwrap();
        }
    });
    assert_eq!((endpoint.requests().len(), endpoint.max_under_way()), (6, 2));
}
