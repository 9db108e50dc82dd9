//! A conversation with the server's own HTTP interface, in process: the same template, policy, engine and
//! evidence as over the network, without a socket.

use anyhow::{Context, bail};
use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tower::ServiceExt as _;

/// Largest error body that is read, in bytes.
const MAX_ERROR_BYTES: usize = 1 << 16;

/// How questions are asked.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// As in `steering.category`; `None` leaves it to the policy.
    pub(super) category: Option<String>,
    /// `None`: the policy's default.
    pub(super) strength: Option<f32>,
    /// Ask for the unsteered answer as well.
    pub(super) compare: bool,
    pub(super) max_tokens: usize,
    pub(super) temperature: f32,
}

/// Which of the answers a piece of text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The unsteered answer of a comparison.
    Unsteered,
    /// The answer as the policy has it.
    Resolved,
}

/// What happens while an answer comes in.
#[derive(Debug, PartialEq)]
pub(super) enum Update {
    Text(Side, String),
    /// The answer is complete; the value is its `steering` object.
    Finished(Side, Value),
}

/// The messages so far, and the way to the server.
#[derive(Debug)]
pub(super) struct Conversation {
    router: Router,
    messages: Vec<Value>,
    pub(super) manner: Manner,
}

impl Conversation {
    pub(super) fn new(router: Router, system: Option<&str>, manner: Manner) -> Self {
        let messages =
            system.map(|text| json!({"role": "system", "content": text})).into_iter().collect();
        Self { router, messages, manner }
    }

    /// Forgets what was said, but for a system message.
    pub(super) fn clear(&mut self) {
        self.messages.retain(|message| message["role"] == "system");
    }

    /// Asks `text` and passes on what comes, piece by piece. The steered answer becomes part of the
    /// conversation; a question that failed does not.
    pub(super) async fn ask(
        &mut self,
        text: &str,
        mut on_update: impl FnMut(Update) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        self.messages.push(json!({"role": "user", "content": text}));
        let mut answer = String::new();
        let outcome = self
            .stream(|update| {
                if let Update::Text(Side::Resolved, text) = &update {
                    answer.push_str(text);
                }
                on_update(update)
            })
            .await;
        if outcome.is_ok() {
            self.messages.push(json!({"role": "assistant", "content": answer}));
        } else {
            self.messages.pop();
        }
        outcome
    }

    fn body(&self) -> Value {
        let mut steering = serde_json::Map::new();
        if let Some(category) = &self.manner.category {
            let names: Vec<&str> = category.split(',').map(str::trim).collect();
            steering.insert("category".to_owned(), json!(names));
        }
        if let Some(strength) = self.manner.strength {
            steering.insert("strength".to_owned(), json!(strength));
        }
        if self.manner.compare {
            steering.insert("compare".to_owned(), json!(true));
        }
        json!({
            "messages": self.messages,
            "stream": true,
            "max_tokens": self.manner.max_tokens,
            "temperature": self.manner.temperature,
            "steering": steering,
        })
    }

    async fn stream(
        &self,
        mut on_update: impl FnMut(Update) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let request = Request::post("/v1/chat/completions")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(self.body().to_string()))?;
        let response = self.router.clone().oneshot(request).await?;
        if response.status() != StatusCode::OK {
            let bytes = axum::body::to_bytes(response.into_body(), MAX_ERROR_BYTES).await?;
            let body: Value = serde_json::from_slice(&bytes).context("the error is no JSON")?;
            bail!("{}", error_message(&body));
        }
        let mut frames = Frames::new(response.into_body().into_data_stream());
        while let Some(frame) = frames.next().await? {
            let chunk: Value = serde_json::from_str(&frame).context("a frame is no JSON")?;
            if chunk.get("error").is_some() {
                bail!("{}", error_message(&chunk));
            }
            for update in updates(&chunk, self.manner.compare) {
                on_update(update)?;
            }
        }
        Ok(())
    }
}

fn error_message(body: &Value) -> String {
    let error = &body["error"];
    let text = |field: &str| error[field].as_str().unwrap_or("unknown").to_owned();
    format!("{} ({})", text("message"), text("code"))
}

/// What one chunk says. In a comparison choice 0 is the unsteered one.
fn updates(chunk: &Value, compare: bool) -> Vec<Update> {
    let mut updates = Vec::new();
    for choice in chunk["choices"].as_array().into_iter().flatten() {
        let side = if compare && choice["index"] == 0 { Side::Unsteered } else { Side::Resolved };
        let delta = &choice["delta"];
        for text in [&delta["content"], &delta["refusal"]].into_iter().filter_map(Value::as_str) {
            if !text.is_empty() {
                updates.push(Update::Text(side, text.to_owned()));
            }
        }
        if choice["finish_reason"].is_string() {
            updates.push(Update::Finished(side, choice["steering"].clone()));
        }
    }
    updates
}

/// The `data:` frames of a stream of server-sent events, up to `[DONE]`.
struct Frames {
    body: BodyDataStream,
    pending: Vec<u8>,
}

impl Frames {
    fn new(body: BodyDataStream) -> Self {
        Self { body, pending: Vec::new() }
    }

    async fn next(&mut self) -> anyhow::Result<Option<String>> {
        const END: &[u8] = b"\n\n";
        loop {
            if let Some(end) = self.pending.windows(END.len()).position(|window| window == END) {
                let rest = self.pending.split_off(end + END.len());
                let frame = std::mem::replace(&mut self.pending, rest);
                let text = std::str::from_utf8(&frame).context("a frame is not UTF-8")?.trim();
                match text.strip_prefix("data:").map(str::trim) {
                    Some("[DONE]") => return Ok(None),
                    Some(data) => return Ok(Some(data.to_owned())),
                    None => continue,
                }
            }
            match self.body.next().await {
                Some(bytes) => self.pending.extend_from_slice(&bytes?),
                None => bail!("the answer broke off"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves `frames` in answer to anything.
    fn conversation(frames: &'static str, compare: bool) -> Conversation {
        let router = Router::new().fallback(async move || frames);
        let manner = Manner {
            category: Some("fraud_deception, physical_harm".to_owned()),
            strength: None,
            compare,
            max_tokens: 8,
            temperature: 0.0,
        };
        Conversation::new(router, Some("Be brief."), manner)
    }

    async fn ask(conversation: &mut Conversation) -> anyhow::Result<Vec<Update>> {
        let mut seen = Vec::new();
        let outcome = conversation.ask("Hello", |update| {
            seen.push(update);
            Ok(())
        });
        outcome.await?;
        Ok(seen)
    }

    const COMPARED: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Sure\"}}]}\n\n\
        data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"No\"}}]}\n\n\
        data: {\"choices\":[{\"index\":1,\"delta\":{},\"finish_reason\":\"stop\",\"steering\":{\"strength\":1}}]}\n\n\
        data: [DONE]\n\n";

    #[tokio::test]
    async fn the_steered_answer_goes_on_in_the_conversation() {
        let mut conversation = conversation(COMPARED, true);
        let seen = ask(&mut conversation).await.unwrap();
        assert_eq!(seen[0], Update::Text(Side::Unsteered, "Sure".to_owned()));
        assert_eq!(seen[1], Update::Text(Side::Resolved, "No".to_owned()));
        assert_eq!(seen[2], Update::Finished(Side::Resolved, json!({"strength": 1})));
        assert_eq!(conversation.messages[2], json!({"role": "assistant", "content": "No"}));
        conversation.clear();
        assert_eq!(conversation.messages.len(), 1);
    }

    #[tokio::test]
    async fn an_error_in_the_stream_takes_the_question_back() {
        let frame = "data: {\"error\":{\"message\":\"lost\",\"code\":\"x\"}}\n\n";
        let mut failing = conversation(frame, false);
        assert_eq!(ask(&mut failing).await.unwrap_err().to_string(), "lost (x)");
        assert_eq!(failing.messages.len(), 1);
        let mut broken = conversation("data: {\"choices\":[]}\n\n", false);
        assert!(ask(&mut broken).await.unwrap_err().to_string().contains("broke off"));
    }

    #[test]
    fn only_what_was_chosen_is_asked_for() {
        let mut conversation = conversation("", true);
        let steering = conversation.body()["steering"].clone();
        assert_eq!(steering["category"], json!(["fraud_deception", "physical_harm"]));
        assert_eq!(steering["compare"], true);
        assert!(steering.get("strength").is_none());
        conversation.manner.category = None;
        conversation.manner.compare = false;
        assert_eq!(conversation.body()["steering"], json!({}));
    }
}
