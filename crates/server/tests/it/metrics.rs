//! Metrics of requests: what they count is what the decision log says.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tower::ServiceExt;

use crate::harness::{PROMPT_TOKENS, Server, Setup, body, chat_request};
use crate::scripted::Script;

const CATEGORY: &str = "x-safety-category";
/// Of a client, and to be found nowhere.
const UNKNOWN: &str = "my_own_words";
/// Codes of errors that are the client's to mend.
const REJECTIONS: [&str; 2] = ["failed:context_length_exceeded", "failed:invalid_value"];

type Counts = BTreeMap<Vec<String>, u64>;
type Headers<'a> = &'a [(&'a str, &'a str)];

/// The series of `name`: the values of all labels but the model's name, and the count.
fn series(text: &str, name: &str) -> Counts {
    let series = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let series = series.map(|line| {
        let (labels, value) = line.rsplit_once("} ").unwrap();
        let values = labels.split(',').skip(1).map(|label| label.split('"').nth(1).unwrap());
        (values.map(str::to_owned).collect(), value.parse().unwrap())
    });
    series.collect()
}

/// The only series of `name`.
fn value(text: &str, name: &str) -> u64 {
    let series = series(text, name);
    assert_eq!(series.len(), 1, "{name} in\n{text}");
    series.into_values().sum()
}

fn counts(expected: &[(&[&str], u64)]) -> Counts {
    let owned = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect();
    expected.iter().map(|&(labels, count)| (owned(labels), count)).collect()
}

fn word<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap()
}

fn category(line: &Value) -> String {
    let category = word(line, "category");
    if category.contains(',') { "<several>".to_owned() } else { category.to_owned() }
}

/// `skeg_requests_total` as the log's lines say.
fn requests_of(lines: &[Value]) -> Counts {
    let mut counts = Counts::new();
    for line in lines {
        let outcome = match (word(line, "outcome"), word(line, "action")) {
            ("completed", "steer") => "steered",
            ("completed", "log") => "shadow",
            ("completed", "none") => "unsteered",
            ("refused", "refuse") => "refused",
            ("client_closed", _) => "client_closed",
            (code, _) if REJECTIONS.contains(&code) => "rejected",
            (code, _) if code.starts_with("failed:") => "failed",
            _ => "a line that no outcome means",
        };
        let source = word(line, "source").to_owned();
        *counts.entry(vec![category(line), source, outcome.to_owned()]).or_default() += 1;
    }
    counts
}

/// `skeg_steered_tokens_total` as the log's lines say.
fn steered_tokens_of(lines: &[Value]) -> Counts {
    let mut counts = Counts::new();
    for line in lines {
        for phase in ["prompt", "completion"] {
            let tokens = line[format!("steered_{phase}_tokens")].as_u64().unwrap();
            if tokens > 0 {
                *counts.entry(vec![category(line), phase.to_owned()]).or_default() += tokens;
            }
        }
    }
    counts
}

fn completion_tokens_of(lines: &[Value]) -> u64 {
    lines.iter().map(|line| line["completion_tokens"].as_u64().unwrap()).sum()
}

/// Waits until the engine has seen that a sequence has no reader.
async fn until_dropped(server: &Server) {
    while server.control.dropped.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
}

/// Two clients that leave: one after the first token, one before it. From then on the engine runs free.
async fn leave_early(server: &mut Server) {
    server.control.gate.as_ref().unwrap().send(()).unwrap();
    let request = chat_request(&[(CATEGORY, "fraud_deception")], &body(json!({"stream": true})));
    drop(server.router.clone().oneshot(request).await.unwrap());
    until_dropped(server).await;

    let request = chat_request(&[], &body(json!({})));
    let answering = tokio::spawn(server.router.clone().oneshot(request));
    while server.control.journal.lock().unwrap().submitted.len() < 2 {
        tokio::task::yield_now().await;
    }
    answering.abort();
    assert!(answering.await.unwrap_err().is_cancelled());
    until_dropped(server).await;
    server.control.gate = None;
}

/// Requests of every kind, each with the status that it must have.
async fn ask_all(server: &Server) {
    let fraud = [(CATEGORY, "fraud_deception")];
    let both = [(CATEGORY, "fraud_deception,malware_viruses")];
    let adult = [(CATEGORY, "adult_content")];
    let shadow = [(CATEGORY, "political_campaigning")];
    let compare = json!({"steering": {"category": "malware_viruses", "compare": true}});
    let unknown = [(CATEGORY, UNKNOWN)];
    let requests: [(Headers<'_>, Value, u16); 17] = [
        (&fraud, json!({}), 200),
        (&fraud, json!({"stream": true}), 200),
        (&fraud, json!({"n": 2}), 200),
        (&fraud, json!({"n": 2, "stream": true, "max_tokens": 3}), 200),
        (&fraud, json!({"stop": ["there"]}), 200),
        (&[], json!({"steering": {"category": "malware_viruses"}, "stream": true}), 200),
        (&[], compare, 200),
        (&both, json!({}), 200),
        (&adult, json!({"n": 2}), 200),
        (&adult, json!({"stream": true}), 200),
        (&shadow, json!({}), 200),
        (&[], json!({"stream": true}), 200),
        (&[(CATEGORY, "none")], json!({}), 200),
        // Refused after the category was resolved, and before.
        (&fraud, json!({"max_tokens": 250}), 400),
        (&unknown, json!({}), 400),
        (&[], json!({"steering": {"category": UNKNOWN}, "stream": true}), 400),
        (&[("x-safety-categories", UNKNOWN)], json!({}), 400),
    ];
    for (headers, extra, status) in requests {
        let answer = server.chat(headers, extra.clone()).await;
        assert_eq!(answer.status, status, "{headers:?} {extra}: {}", answer.text);
    }
}

#[tokio::test]
async fn requests_are_counted_as_the_decision_log_says() {
    let mut server = Setup { gated: true, ..Setup::default() }.start();
    leave_early(&mut server).await;
    ask_all(&server).await;
    let text = server.get("/metrics").await.text;
    let lines = server.decisions();

    let requests = series(&text, "skeg_requests_total");
    assert_eq!(requests, requests_of(&lines), "{text}");
    assert_eq!(series(&text, "skeg_steered_tokens_total"), steered_tokens_of(&lines), "{text}");
    let expected = counts(&[
        (&["<several>", "header", "steered"], 1),
        (&["adult_content", "header", "refused"], 2),
        (&["fraud_deception", "header", "client_closed"], 1),
        (&["fraud_deception", "header", "rejected"], 1),
        (&["fraud_deception", "header", "steered"], 5),
        (&["malware_viruses", "body", "steered"], 2),
        (&["none", "default", "client_closed"], 1),
        (&["none", "default", "unsteered"], 1),
        (&["none", "header", "unsteered"], 1),
        (&["political_campaigning", "header", "shadow"], 1),
    ]);
    assert_eq!(requests, expected);
    assert!(!text.contains(UNKNOWN), "{text}");
}

#[tokio::test]
async fn sequences_are_counted_as_vllm_does() {
    let mut server = Setup { gated: true, ..Setup::default() }.start();
    leave_early(&mut server).await;
    ask_all(&server).await;
    let text = server.get("/metrics").await.text;
    let lines = server.decisions();

    // 11 requests came to their end in the engine, three of them with two answers; two sequences came to their bound.
    let finished = counts(&[
        (&["abort"], 2),
        (&["content_filter"], 0),
        (&["error"], 0),
        (&["length"], 2),
        (&["stop"], 12),
    ]);
    assert_eq!(series(&text, "vllm:request_success_total"), finished, "{text}");
    // One of the two that left came to a token.
    let with_tokens = 15;
    let tokens = completion_tokens_of(&lines);
    assert_eq!(value(&text, "vllm:generation_tokens_total"), tokens);
    let prompt_tokens = u64::try_from(PROMPT_TOKENS).unwrap() * with_tokens;
    assert_eq!(value(&text, "vllm:prompt_tokens_total"), prompt_tokens);
    let count = |name: &str| value(&text, &format!("vllm:{name}_seconds_count"));
    assert_eq!(count("time_to_first_token"), with_tokens);
    assert_eq!(count("inter_token_latency"), tokens - with_tokens);
    assert_eq!((count("e2e_request_latency"), count("request_decode_time")), (14, 14));
}

#[tokio::test]
async fn what_the_engine_gives_up_is_counted_as_failed() {
    let script = Script { fail: Some("broken".to_owned()), ..Setup::default().script };
    let server = Setup { script, ..Setup::default() }.start();
    for (stream, status) in [(false, 503), (true, 200)] {
        let category = [(CATEGORY, "fraud_deception")];
        let answer = server.chat(&category, json!({"stream": stream})).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    let text = server.get("/metrics").await.text;
    let lines = server.decisions();
    assert_eq!(series(&text, "skeg_requests_total"), requests_of(&lines));
    assert_eq!(
        series(&text, "skeg_requests_total"),
        counts(&[(&["fraud_deception", "header", "failed"], 2)])
    );
    assert_eq!(series(&text, "skeg_steered_tokens_total"), steered_tokens_of(&lines));
    let finished = counts(&[
        (&["abort"], 0),
        (&["content_filter"], 0),
        (&["error"], 2),
        (&["length"], 0),
        (&["stop"], 0),
    ]);
    assert_eq!(series(&text, "vllm:request_success_total"), finished);
    assert_eq!(value(&text, "vllm:generation_tokens_total"), completion_tokens_of(&lines));
}

#[tokio::test]
async fn what_finds_no_place_is_rejected_and_no_sequence() {
    let server = Setup { gated: true, max_admitted: 1, ..Setup::default() }.start();
    let answer = server.chat(&[(CATEGORY, "fraud_deception")], json!({"n": 2})).await;
    assert_eq!(answer.error(), (429, "overloaded".to_owned()));
    let text = server.get("/metrics").await.text;
    let rejected = counts(&[(&["fraud_deception", "header", "rejected"], 1)]);
    assert_eq!(series(&text, "skeg_requests_total"), rejected);
    assert_eq!(series(&text, "skeg_steered_tokens_total"), Counts::new());
    let finished = series(&text, "vllm:request_success_total");
    assert_eq!(finished.into_values().sum::<u64>(), 0, "{text}");
}
