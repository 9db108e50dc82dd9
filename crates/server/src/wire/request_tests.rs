//! What a request body may say, and how each complaint names its field.

use serde_json::{Value, json};

use super::*;

const LIMITS: RequestLimits = RequestLimits {
    max_messages: 4,
    max_text_bytes: 100,
    max_choices: 4,
    max_model_len: 64,
    vocab_size: 50,
};

fn parse(extra: Value) -> Result<ChatRequest, (String, String)> {
    let mut body = json!({"model": "default", "messages": [{"role": "user", "content": "hi"}]});
    if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
        body.extend(extra);
    }
    ChatRequest::parse(body.to_string().as_bytes(), &LIMITS).map_err(|error| {
        let json: Value = serde_json::from_str(&error.to_json()).unwrap();
        (error.code().to_owned(), json["error"]["param"].as_str().unwrap_or_default().to_owned())
    })
}

/// The error's code and the field it names.
fn check(extra: Value, code: &str, param: &str) {
    let shown = extra.to_string();
    assert_eq!(parse(extra).unwrap_err(), (code.to_owned(), param.to_owned()), "{shown}");
}

#[test]
fn the_defaults_are_those_of_openai_and_vllm() {
    let request =
        parse(json!({"seed": 7, "temperature": null, "some_unknown_field": {"a": 1}})).unwrap();
    let expected = SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::default() };
    assert_eq!(request.sampling, expected);
    assert_eq!((request.num_choices, request.max_tokens, request.stream), (1, None, false));
    assert_eq!(request.steering, SteeringSpec::default());
}

#[test]
fn honoured_fields_arrive() {
    let request = parse(json!({
        "max_completion_tokens": 5, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "n": 2, "stop": ["a", "b"], "seed": -1,
        "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": {"3": -100},
        "logprobs": true, "top_logprobs": 2, "user": "someone", "ignore_eos": true, "min_tokens": 2,
        "stream": true, "stream_options": {"include_usage": true},
        "steering": {"category": "fraud", "strength": 0.7, "positions": "prompt", "compare": true, "debug": false},
    }))
    .unwrap();
    assert_eq!(
        (request.max_tokens, request.num_choices, request.include_usage),
        (Some(5), 2, true)
    );
    assert_eq!(request.stop, ["a", "b"]);
    assert_eq!(request.sampling.logit_bias, [(3, -100.0)]);
    assert_eq!((request.sampling.seed, request.sampling.num_top_logprobs), (u64::MAX, 2));
    assert_eq!(request.steering.category, Some(vec!["fraud".to_owned()]));
    assert_eq!(request.steering.positions, Some(Positions::Prompt));
}

#[test]
fn values_out_of_range_name_their_field() {
    for (name, value) in [
        ("temperature", json!(2.1)),
        ("temperature", json!("hot")),
        ("top_p", json!(0)),
        ("top_k", json!(-2)),
        ("min_p", json!(1.5)),
        ("n", json!(0)),
        ("n", json!(5)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stop", json!("")),
        ("presence_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("logit_bias", json!({"50": 1})),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"1": 101})),
        ("top_logprobs", json!(1)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(1.5)),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": true})),
        ("seed", json!("x")),
    ] {
        check(json!({name: value}), "invalid_value", name);
    }
    check(json!({"max_tokens": 65}), "context_length_exceeded", "max_tokens");
    check(
        json!({"max_tokens": 2, "max_completion_tokens": 3}),
        "invalid_value",
        "max_completion_tokens",
    );
    check(json!({"max_tokens": 2, "min_tokens": 3}), "invalid_value", "min_tokens");
}

#[test]
fn fields_that_are_not_honoured_are_refused_unless_neutral() {
    for name in ["tools", "functions", "audio", "prediction", "web_search_options"] {
        check(json!({name: {"a": 1}}), "unsupported_parameter", name);
        parse(json!({name: null})).unwrap();
    }
    check(
        json!({"response_format": {"type": "json_object"}}),
        "unsupported_parameter",
        "response_format",
    );
    check(json!({"store": true}), "unsupported_parameter", "store");
    check(json!({"reasoning_effort": "high"}), "unsupported_parameter", "reasoning_effort");
    check(json!({"steering": {"debug": true}}), "unsupported_parameter", "steering.debug");
    parse(json!({"response_format": {"type": "text"}, "store": false, "tools": [], "modalities": ["text"]})).unwrap();
}

#[test]
fn misplaced_and_unknown_steering_fields_are_answered() {
    check(json!({"category": "fraud"}), "misplaced_category", "category");
    check(json!({"safety_category": "fraud"}), "misplaced_category", "safety_category");
    check(
        json!({"steering": {"categories": ["fraud"]}}),
        "unknown_parameter",
        "steering.categories",
    );
    check(json!({"steering": "fraud"}), "invalid_value", "steering");
    check(json!({"steering": {"positions": "some"}}), "invalid_value", "steering.positions");
}

#[test]
fn messages_are_text_with_a_known_role() {
    let contents = |messages: Value| {
        let messages = parse(json!({"messages": messages})).unwrap().messages;
        messages.into_iter().map(|message| (message.role, message.content)).collect::<Vec<_>>()
    };
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let got = contents(json!([
        {"role": "developer", "content": "d"}, {"role": "user", "content": parts},
        {"role": "assistant", "content": null, "refusal": "no"}, {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]));
    let expected = [("system", "d"), ("user", "a\nb"), ("assistant", "no"), ("tool", "t")];
    assert_eq!(got, expected.map(|(role, content)| (role.to_owned(), content.to_owned())));

    let bad =
        |message: Value, param: &str| check(json!({"messages": [message]}), "invalid_value", param);
    bad(json!({"role": "king", "content": "x"}), "messages[0].role");
    bad(json!({"role": "user"}), "messages[0].content");
    bad(json!({"role": "user", "content": 5}), "messages[0].content");
    bad(json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text");
    bad(json!("hi"), "messages[0]");
    let image =
        json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    check(json!({"messages": image}), "unsupported_parameter", "messages[0].content[0].type");
    check(json!({"messages": []}), "invalid_value", "messages");
    check(json!({"messages": null}), "missing_required_parameter", "messages");
    let long = json!([{"role": "user", "content": "x".repeat(101)}]);
    check(json!({"messages": long}), "context_length_exceeded", "messages");
}

#[test]
fn what_is_not_a_json_object_is_said_so() {
    for body in ["", "{", "[]", "5", "{\"messages\": [}"] {
        assert_eq!(
            ChatRequest::parse(body.as_bytes(), &LIMITS).unwrap_err().code(),
            "invalid_json",
            "{body}"
        );
    }
}
