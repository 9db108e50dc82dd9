//! Streamed answers, frame by frame.

use serde_json::{Value, json};

use crate::harness::{PROMPT_TOKENS, Setup};
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

/// The choices of all frames, `steering` reduced to whether it is there.
fn choices(frames: &[Value]) -> Vec<Value> {
    let choices = frames.iter().flat_map(|frame| frame["choices"].as_array().unwrap().clone());
    choices
        .map(|mut choice| {
            if let Some(steering) = choice.get_mut("steering") {
                *steering = json!(steering.is_object());
            }
            choice
        })
        .collect()
}

fn delta(delta: &Value) -> Value {
    json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null})
}

#[tokio::test]
async fn frames_are_role_text_end_usage_and_done() {
    let extra = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = script("hé").start().chat(&[], extra).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    let frames = answer.frames();
    let (usage, frames) = frames.split_last().unwrap();
    let total = PROMPT_TOKENS + 4;
    assert_eq!(
        usage["usage"],
        json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 4, "total_tokens": total})
    );
    assert_eq!(usage["choices"], json!([]));
    assert!(
        frames
            .iter()
            .all(|frame| frame["usage"].is_null() && frame["object"] == "chat.completion.chunk")
    );
    assert!(frames.iter().all(|frame| frame["id"] == usage["id"]));
    // The first byte of the two-byte character gives no frame, and neither does the end-of-turn token.
    let end = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop", "steering": true});
    let expected = [
        delta(&json!({"role": "assistant", "content": ""})),
        delta(&json!({"content": "h"})),
        delta(&json!({"content": "é"})),
        end,
    ];
    assert_eq!(choices(frames), expected);
}

#[tokio::test]
async fn without_the_option_no_frame_speaks_of_usage() {
    let frames = Setup::default().start().chat(&[], json!({"stream": true})).await.frames();
    assert!(frames.iter().all(|frame| frame.get("usage").is_none()));
}

#[tokio::test]
async fn a_stop_string_never_leaves_in_a_frame() {
    let frames =
        script("ab##cd").start().chat(&[], json!({"stream": true, "stop": "##"})).await.frames();
    let texts: String = choices(&frames)
        .iter()
        .filter_map(|c| c["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(texts, "ab");
    assert_eq!(choices(&frames).last().unwrap()["finish_reason"], "stop");
}

#[tokio::test]
async fn every_choice_of_a_stream_has_its_role_and_its_end() {
    let frames = Setup::default().start().chat(&[], json!({"stream": true, "n": 2})).await.frames();
    for index in 0..2 {
        let of_choice: Vec<Value> =
            choices(&frames).into_iter().filter(|c| c["index"] == index).collect();
        assert_eq!(of_choice[0]["delta"]["role"], "assistant");
        assert_eq!(of_choice.last().unwrap()["finish_reason"], "stop");
        assert_eq!(of_choice.iter().filter(|c| c.get("steering").is_some()).count(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_is_lost_ends_in_an_error_frame_without_done() {
    let script = Script {
        text: "Hel".to_owned(),
        fail: Some("broken".to_owned()),
        num_slots: 32,
        activations: Vec::new(),
        looks: Vec::new(),
    };
    let server = Setup { script, ..Setup::default() }.start();
    let header = [("x-safety-category", "fraud_deception")];
    let answer = server.chat(&header, json!({"stream": true})).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-steering-applied")), (200, "planned"));
    assert!(!answer.text.contains("[DONE]"));
    let last =
        answer.text.trim_end().rsplit("\n\n").next().unwrap().strip_prefix("data: ").unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["code"], "steering_unavailable");
    assert_eq!(server.decisions()[0]["outcome"], "failed:steering_unavailable");
}

#[tokio::test]
async fn what_the_engine_refuses_at_once_has_a_status_of_its_own() {
    let script = Script {
        text: String::new(),
        fail: Some("broken".to_owned()),
        num_slots: 32,
        activations: Vec::new(),
        looks: Vec::new(),
    };
    let server = Setup { script, ..Setup::default() }.start();
    assert_eq!(
        server.chat(&[], json!({"stream": true})).await.error(),
        (500, "internal_error".to_owned())
    );
}
