//! Chat answers that are not streamed, and what keeps a request from being answered.

use serde_json::{Value, json};

use crate::harness::{END_OF_TURN, MAX_MODEL_LEN, PROMPT_TOKENS, Setup, body, chat_request};
use crate::scripted::Script;

fn script(text: &str) -> Setup {
    Setup {
        script: Script {
            text: text.to_owned(),
            fail: None,
            num_slots: 32,
            activations: Vec::new(),
            looks: Vec::new(),
        },
        ..Setup::default()
    }
}

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let answer = Setup::default().start().chat(&[], json!({})).await;
    assert_eq!(answer.status, 200);
    for name in ["x-total-time", "x-validation-time", "x-inference-time", "x-time-per-token"] {
        assert!(answer.header(name).parse::<u64>().is_ok(), "{name}");
    }
    let tokens = (answer.header("x-prompt-tokens"), answer.header("x-generated-tokens"));
    assert_eq!(tokens, (PROMPT_TOKENS.to_string().as_str(), "13"));
    let json = answer.json();
    assert!(json["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&json["object"], &json["model"]), (&json!("chat.completion"), &json!("tiny")));
    let choice = &json["choices"][0];
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "content": "Hello there.", "refusal": null})
    );
    assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("stop"), &Value::Null));
    // Twelve bytes and the end-of-turn token.
    let usage = json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 13, "total_tokens": PROMPT_TOKENS + 13});
    assert_eq!(json["usage"], usage);
}

#[tokio::test]
async fn max_tokens_ends_an_answer_with_length() {
    let json = Setup::default().start().chat(&[], json!({"max_tokens": 5})).await.json();
    assert_eq!(json["choices"][0]["message"]["content"], "Hello");
    assert_eq!(json["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_stop_string_ends_the_text_before_it() {
    let server = script("one two\n\nthree").start();
    for stop in [json!("\n\n"), json!(["never", "\n\n"])] {
        let json = server.chat(&[], json!({"stop": stop})).await.json();
        assert_eq!(json["choices"][0]["message"]["content"], "one two");
        assert_eq!(json["choices"][0]["finish_reason"], "stop");
        assert_eq!(json["usage"]["completion_tokens"], 9);
    }
}

#[tokio::test]
async fn a_stop_token_gives_no_text_unless_it_is_to_be_ignored() {
    let stop_token_ids = vec![END_OF_TURN, u32::from(b'.')];
    let server = Setup { stop_token_ids, ..script("one. two") }.start();
    let json = server.chat(&[], json!({})).await.json();
    assert_eq!(json["choices"][0]["message"]["content"], "one");
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert_eq!(json["usage"]["completion_tokens"], 4);
    let json = server.chat(&[], json!({"ignore_eos": true, "max_tokens": 6})).await.json();
    assert_eq!(json["choices"][0]["message"]["content"], "one. t");
}

#[tokio::test]
async fn every_choice_that_a_stop_string_ends_has_its_own_log_probabilities() {
    let extra = json!({"n": 2, "stop": "wo", "logprobs": true, "top_logprobs": 2});
    let json = script("one two").start().chat(&[], extra).await.json();
    for choice in json["choices"].as_array().unwrap() {
        assert_eq!(choice["message"]["content"], "one t");
        assert_eq!(choice["finish_reason"], "stop");
        let entries = choice["logprobs"]["content"].as_array().unwrap();
        let tokens: String = entries.iter().map(|e| e["token"].as_str().unwrap()).collect();
        assert_eq!(tokens, "one two", "one entry a token, those of the stop string included");
        assert!(entries.iter().all(|e| e["top_logprobs"].as_array().unwrap().len() == 2));
    }
    assert_eq!(json["usage"]["completion_tokens"], 14);
}

#[tokio::test]
async fn several_choices_have_seeds_that_follow_each_other() {
    let server = Setup::default().start();
    let json = server.chat(&[], json!({"n": 3, "seed": 40})).await.json();
    let indices: Vec<u64> =
        json["choices"].as_array().unwrap().iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert_eq!(json["usage"]["completion_tokens"], 39);
    let seeds: Vec<u64> =
        server.control.journal.lock().unwrap().submitted.iter().map(|(seed, _)| *seed).collect();
    assert_eq!(seeds, [40, 41, 42]);
}

#[tokio::test]
async fn log_probabilities_have_openais_shape() {
    let server = script("é").start();
    let json = server
        .chat(&[], json!({"logprobs": true, "top_logprobs": 1, "max_tokens": 1}))
        .await
        .json();
    let half = json!({"token": "\u{fffd}", "logprob": -0.5, "bytes": [195]});
    let mut entry = half.clone();
    entry["top_logprobs"] = json!([half]);
    assert_eq!(json["choices"][0]["logprobs"], json!({"content": [entry], "refusal": null}));
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_with_the_numbers() {
    let server = Setup::default().start();
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(MAX_MODEL_LEN)}]});
    for extra in [long, json!({"max_tokens": MAX_MODEL_LEN - PROMPT_TOKENS + 1})] {
        let answer = server.chat(&[], extra).await;
        assert_eq!(answer.error(), (400, "context_length_exceeded".to_owned()));
        assert!(
            answer.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains(&MAX_MODEL_LEN.to_string())
        );
    }
    assert_eq!(
        server.chat(&[], json!({"max_tokens": MAX_MODEL_LEN - PROMPT_TOKENS})).await.status,
        200
    );
}

#[tokio::test]
async fn a_full_engine_is_a_429_and_the_server_goes_on() {
    let mut server = Setup { max_admitted: 1, gated: true, ..Setup::default() }.start();
    let answer = server.chat(&[], json!({"n": 2})).await;
    assert_eq!(answer.error(), (429, "overloaded".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");
    while server.engine.num_admitted() > 0 {
        tokio::task::yield_now().await;
    }
    drop(server.control.gate.take());
    assert_eq!(server.chat(&[], json!({})).await.status, 200);
}

#[tokio::test]
async fn a_missing_chat_template_is_said() {
    let answer =
        Setup { chat_template: false, ..Setup::default() }.start().chat(&[], json!({})).await;
    assert_eq!(answer.error(), (400, "chat_template_missing".to_owned()));
}

#[tokio::test]
async fn what_the_engine_gives_up_is_an_error_and_never_half_an_answer() {
    let script = Script {
        text: "Hel".to_owned(),
        fail: Some("broken".to_owned()),
        num_slots: 32,
        activations: Vec::new(),
        looks: Vec::new(),
    };
    let server = Setup { script, ..Setup::default() }.start();
    let unsteered = server.chat(&[], json!({})).await;
    assert_eq!(unsteered.error(), (500, "internal_error".to_owned()));
    assert!(!unsteered.text.contains("broken"), "the reason is the log's");
    let steered = server.chat(&[("x-safety-category", "fraud_deception")], json!({})).await;
    assert_eq!(steered.error(), (503, "steering_unavailable".to_owned()));
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let server = Setup::default().start();
    for content_type in ["text/plain", "application/json; charset=utf-8"] {
        let request = chat_request(&[("content-type", content_type)], &body(json!({})));
        assert_eq!(server.send(request).await.status, 200);
    }
}
