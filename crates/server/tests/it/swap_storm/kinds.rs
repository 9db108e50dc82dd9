//! The kinds of request, and what each is answered under each generation by a server that does nothing else.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use skeg_vector_store::{Category, GenerationId};

use super::generations::{CHANGING, LOGGED, NUM_GOOD, REFUSED};
use super::rig::{Rig, Setup};
use crate::harness::{Answer, body};

const HEADER: &str = "x-safety-category";

/// A request as it is sent.
#[derive(Debug)]
pub(super) struct Kind {
    /// The category header; none = the policy says.
    categories: Option<&'static str>,
    body: Value,
    /// `body` in JSON.
    text: String,
}

impl Kind {
    /// A few tokens with their log-probabilities, and `extra`.
    pub(super) fn new(categories: Option<&'static str>, extra: Value) -> Self {
        let mut body = body(json!({"max_tokens": 3, "logprobs": true, "top_logprobs": 1,
                                   "temperature": 0}));
        if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
            body.extend(extra);
        }
        Self { categories, text: body.to_string(), body }
    }

    pub(super) fn request(&self) -> Request<Body> {
        let mut request = Request::post("/v1/chat/completions");
        if let Some(categories) = self.categories {
            request = request.header(HEADER, categories);
        }
        request.body(Body::from(self.text.clone())).unwrap()
    }

    fn is_streamed(&self) -> bool {
        self.body["stream"] == true
    }

    /// How many different answers the good generations give.
    fn num_different(&self) -> usize {
        match self.categories {
            // Not steered: as the model is.
            Some("none" | LOGGED) => 1,
            // Logged in a third of them.
            Some(CHANGING) => NUM_GOOD - NUM_GOOD / 3 + 1,
            _ => NUM_GOOD,
        }
    }
}

/// Every category and the ways to ask for some, each streamed and not.
pub(super) fn kinds() -> Vec<Kind> {
    let strength = |value: f32| json!({"steering": {"strength": value}});
    let long = "A prompt of several blocks of the cache, the same for several requests.";
    let long = json!([{"role": "user", "content": long}]);
    let others = [
        (Some("none"), json!({"messages": long.clone()})),
        (None, json!({})),
        (Some("fraud_deception,malware_viruses"), json!({})),
        (Some("privacy_violation,political_campaigning,physical_harm"), strength(0.7)),
        (Some("adult_content,child_abuse"), json!({})),
        (Some("malware_viruses"), strength(0.6)),
        (Some("malware_viruses"), strength(1.4)),
        (Some("economic_harm"), json!({"messages": long, "max_tokens": 8})),
        (Some("fraud_deception"), json!({"steering": {"positions": "generation"}})),
        (Some("physical_harm"), json!({"steering": {"compare": true}})),
        (Some("economic_harm"), json!({"n": 2, "temperature": 1.0, "seed": 3})),
    ];
    let categories = Category::CATQA.map(|slug| (Some(slug), json!({})));
    let all = categories.into_iter().chain(others);
    all.flat_map(|(categories, extra)| {
        let mut streamed = extra.clone();
        streamed["stream"] = true.into();
        [Kind::new(categories, extra), Kind::new(categories, streamed)]
    })
    .collect()
}

/// A stream that lasts for many publications, and keeps nothing of its generation but the slots.
pub(super) fn long_stream() -> Kind {
    let extra = json!({"max_tokens": 600, "ignore_eos": true, "stream": true});
    Kind::new(Some("hate_harass_violence"), extra)
}

/// Everything of an answer but its id and time: evidence headers, then the body, choice by choice.
pub(super) fn lasting(answer: &Answer) -> String {
    let named = |header| format!("{header}: {}\n", answer.header(header));
    let mut text = [HEADER, "x-safety-category-source", "x-steering-applied"].map(named).concat();
    let mut frames: Vec<&str> = answer.text.split("\n\n").map(lasting_of_object).collect();
    // Choices of one request may take turns in any way.
    frames.sort_by_key(|frame| choice_index(frame));
    for frame in frames {
        text += frame;
        text.push('\n');
    }
    text
}

/// The object from its field `model` on; before that are `id`, `object` and `created`.
fn lasting_of_object(object: &str) -> &str {
    object.find("\"model\":").map_or(object, |start| &object[start..])
}

/// The index of the frame's first choice; a frame without one is the last.
fn choice_index(frame: &str) -> &str {
    const FIELD: &str = "\"choices\":[{\"index\":";
    frame.find(FIELD).map_or("~", |start| &frame[start + FIELD.len()..=start + FIELD.len()])
}

/// The choices of an answer, or those of a stream's frames.
fn choices(kind: &Kind, answer: &Answer) -> Vec<Value> {
    let objects = if kind.is_streamed() { answer.frames() } else { vec![answer.json()] };
    objects.iter().flat_map(|object| object["choices"].as_array().unwrap().clone()).collect()
}

/// What each kind is answered under each generation.
pub(super) struct References {
    /// By kind, for each generation's id.
    lasting: BTreeMap<String, Vec<String>>,
}

impl References {
    /// Asks for each kind under each generation, one request at a time, nothing kept of the ones before.
    pub(super) async fn of(kinds: &[Kind]) -> Self {
        let quiet = Setup::default().start();
        let mut lasting_by_id = BTreeMap::new();
        let mut words = vec![BTreeSet::new(); kinds.len()];
        for id in quiet.good.clone() {
            quiet.publish(&id).unwrap();
            let mut answers = Vec::new();
            for (kind, words) in kinds.iter().zip(&mut words) {
                let answer = quiet.ask(kind).await;
                assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text);
                check_evidence(kind, &answer, &id);
                words.insert(said(kind, &answer));
                answers.push(lasting(&answer));
            }
            lasting_by_id.insert(id.to_string(), answers);
        }
        for (kind, words) in kinds.iter().zip(&words) {
            assert_eq!(words.len(), kind.num_different(), "{kind:?}: {words:?}");
        }
        Self { lasting: lasting_by_id }
    }

    /// Compares an answer with the one of the generation that it names, which must be a good one.
    pub(super) fn check(&self, idx: usize, kind: &Kind, answer: &Answer) -> GenerationId {
        assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text);
        let id = answer.header("x-steering-generation");
        let references = self.lasting.get(id);
        assert!(references.is_some(), "{kind:?} names {id:?}");
        let expected = references.map(|of| of[idx].as_str());
        assert_eq!(Some(lasting(answer).as_str()), expected, "{kind:?} under {id}");
        GenerationId::parse(id).unwrap()
    }
}

/// All of an answer is of one generation, and what is said to be steered was.
fn check_evidence(kind: &Kind, answer: &Answer, id: &GenerationId) {
    assert_eq!(answer.header("x-steering-generation"), id.as_str(), "{kind:?}");
    let choices = choices(kind, answer);
    let evidence = choices.iter().map(|choice| &choice["steering"]).filter(|one| !one.is_null());
    let mut num_evidence = 0;
    for steering in evidence {
        num_evidence += 1;
        assert_eq!(steering["generation"], id.as_str(), "{kind:?}");
        let is_steered = !steering["strength"].is_null();
        let is_planned = answer.header("x-steering-applied") == "planned";
        assert_eq!(is_steered, is_planned && steering["compare"] == false, "{kind:?}");
        let count = |field: &str| steering[field].as_u64().unwrap();
        let num_steered = count("steered_prompt_tokens") + count("steered_completion_tokens");
        assert_eq!(num_steered > 0, is_steered, "{kind:?}: {steering}");
    }
    let num_choices = if kind.body["steering"]["compare"] == true { 2 } else { 1 };
    let num_choices = kind.body["n"].as_u64().unwrap_or(num_choices);
    assert_eq!(num_evidence, num_choices, "{kind:?}");
}

/// What an answer says, word by word with log-probabilities, and nothing of its evidence.
fn said(kind: &Kind, answer: &Answer) -> String {
    let said = choices(kind, answer).into_iter().map(|choice| {
        json!([choice["index"], choice["message"], choice["delta"], choice["logprobs"]]).to_string()
    });
    let mut said: Vec<String> = said.collect();
    said.sort_by(|a, b| a[..2].cmp(&b[..2]));
    said.concat()
}

#[test]
fn every_action_is_asked_for() {
    let named: BTreeSet<_> = kinds().iter().filter_map(|kind| kind.categories).collect();
    for slug in [REFUSED, LOGGED, CHANGING, "none"] {
        assert!(named.contains(slug), "{slug}");
    }
}

/// Asks for `kind` and gives the index of its reference with it.
pub(super) async fn ask_checked(
    rig: &Rig,
    references: &References,
    (idx, kind): (usize, &Kind),
) -> GenerationId {
    let answer = rig.ask(kind).await;
    references.check(idx, kind, &answer)
}
