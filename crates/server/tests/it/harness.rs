//! A server in process: what every test starts from.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};
use skeg_model::engine::{Engine, EngineThread};
use skeg_model::{ChatTemplate, Tokenizer};
use skeg_server::{
    AppParts, ClassifierKind, DecisionLog, HttpClassifier, Limits, Operations, Origin, Principals,
    SteeringSlots,
};
use skeg_vector_store::{SecretKey, Store};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::scripted::{Control, Script, ScriptedEngine};
use crate::store::{self, TestPolicy};

/// The id after the 256 bytes.
pub(crate) const END_OF_TURN: u32 = 256;
pub(crate) const NUM_LAYERS: usize = 4;
pub(crate) const MAX_MODEL_LEN: usize = 256;
/// `<user>hi<assistant>` in bytes.
pub(crate) const PROMPT_TOKENS: usize = 19;

/// How a test's server is set up.
pub(crate) struct Setup {
    pub(crate) script: Script,
    pub(crate) gated: bool,
    pub(crate) max_admitted: usize,
    pub(crate) policy: TestPolicy,
    pub(crate) principals: Principals,
    pub(crate) chat_template: bool,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) body_read_timeout: Duration,
    /// Signs the first generation, and is the one key that is trusted.
    pub(crate) signing_key: Option<SecretKey>,
    /// Whether the store's folder is the copy of a place.
    pub(crate) followed: bool,
    /// The classifier that is asked for categories.
    pub(crate) classifier: Option<HttpClassifier>,
    /// Who finds categories where there is no such classifier.
    pub(crate) kind: ClassifierKind,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            script: Script {
                text: "Hello there.".to_owned(),
                fail: None,
                num_slots: 32,
                activations: vec![0.0; store::HIDDEN_SIZE],
                looks: Vec::new(),
            },
            gated: false,
            max_admitted: 16,
            policy: TestPolicy::default(),
            principals: Principals::default(),
            chat_template: true,
            stop_token_ids: vec![END_OF_TURN],
            body_read_timeout: Duration::from_secs(60),
            signing_key: None,
            followed: false,
            classifier: None,
            kind: ClassifierKind::Generation,
        }
    }
}

/// A running server and the test's holds on it.
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) control: Control,
    pub(crate) store: Arc<Store<SteeringSlots>>,
    pub(crate) files: tempfile::TempDir,
    /// The folder of a place that is followed.
    pub(crate) place: tempfile::TempDir,
    pub(crate) origin: Origin,
    pub(crate) operations: Operations,
    log: Arc<Mutex<Vec<u8>>>,
    pub(crate) engine: skeg_model::engine::EngineHandle,
    /// Closed when the engine thread has ended.
    pub(crate) engine_ended: watch::Receiver<()>,
}

#[derive(Clone)]
struct SharedWriter(Arc<Mutex<Vec<u8>>>);

impl Write for SharedWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Setup {
    pub(crate) fn start(self) -> Server {
        let (engine, control) = ScriptedEngine::new(self.script.clone(), self.gated);
        self.start_on(Box::new(engine), control)
    }

    /// On another engine than the scripted one, whose control is then of no use.
    pub(crate) fn start_on(self, engine: Box<dyn Engine>, control: Control) -> Server {
        let files = tempfile::tempdir().unwrap();
        let (running, engine_ended) = watch::channel(());
        let (_thread, engine) =
            EngineThread::spawn(engine, self.max_admitted, || drop(running)).unwrap();
        let place = tempfile::tempdir().unwrap();
        let followed = self.followed.then(|| place.path());
        let kind = self.classifier.as_ref().map_or(self.kind, |_| ClassifierKind::Http);
        let (origin, store) = {
            let first = (&self.policy, self.signing_key.as_ref());
            store::open(files.path(), followed, first, (engine.clone(), kind))
        };
        let template =
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>";
        let log = Arc::new(Mutex::new(Vec::new()));
        let operations = Operations::default();
        let router = skeg_server::app(AppParts {
            served_names: vec!["tiny".to_owned(), "org/tiny".to_owned()],
            tokenizer: Arc::new(tokenizer(files.path())),
            chat_template: self
                .chat_template
                .then(|| ChatTemplate::compile(template, None, None).unwrap()),
            stop_token_ids: self.stop_token_ids,
            max_model_len: MAX_MODEL_LEN,
            num_hidden_layers: NUM_LAYERS,
            engine: engine.clone(),
            store: Arc::clone(&store),
            origin: origin.clone(),
            classifier: self.classifier,
            principals: self.principals,
            decision_log: Some(DecisionLog::to_writer(SharedWriter(Arc::clone(&log))).unwrap()),
            limits: Limits {
                max_body_bytes: 64 * 1024,
                body_read_timeout: self.body_read_timeout,
                ..Limits::default()
            },
            operations: operations.clone(),
        });
        Server {
            router,
            control,
            store,
            files,
            place,
            origin,
            operations,
            log,
            engine,
            engine_ended,
        }
    }
}

/// A byte-level tokenizer: one token a byte, id = byte.
pub(crate) fn tokenizer(folder: &std::path::Path) -> Tokenizer {
    // GPT-2's alphabet: printable Latin-1 stands for itself, the others take U+0100 and up.
    let printable = |byte: u32| {
        (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte)
    };
    let mut vocab = Map::new();
    let mut next = 256;
    for byte in 0..256_u32 {
        let code = if printable(byte) { byte } else { next };
        next += u32::from(!printable(byte));
        vocab.insert(char::from_u32(code).unwrap().to_string(), byte.into());
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": END_OF_TURN, "content": "<|end|>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    let path = folder.join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    Tokenizer::from_json_file(&path).unwrap()
}

/// A chat request's body with one user message, `extra` added.
pub(crate) fn body(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
    if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
        body.extend(extra);
    }
    body
}

pub(crate) fn chat_request(headers: &[(&str, &str)], body: &Value) -> Request<Body> {
    let mut request = Request::post("/v1/chat/completions");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_string())).unwrap()
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Self {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status and `code` of an error.
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"]["code"].as_str().unwrap().to_owned())
    }

    /// The frames of a stream as JSON; the last must be `[DONE]`.
    pub(crate) fn frames(&self) -> Vec<Value> {
        let frames: Vec<&str> =
            self.text.split_terminator("\n\n").map(|f| f.strip_prefix("data: ").unwrap()).collect();
        let (last, frames) = frames.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        frames.iter().map(|frame| serde_json::from_str(frame).unwrap()).collect()
    }
}

impl Server {
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        Answer::of(self.router.clone().oneshot(request).await.unwrap()).await
    }

    /// A chat request with headers and extra fields.
    pub(crate) async fn chat(&self, headers: &[(&str, &str)], extra: Value) -> Answer {
        self.send(chat_request(headers, &body(extra))).await
    }

    /// Waits until the engine has taken a sequence.
    pub(crate) async fn until_submitted(&self) {
        while self.control.journal.lock().unwrap().submitted.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Ends the server and gives the lines of its decision log.
    pub(crate) fn decisions(self) -> Vec<Value> {
        // The last holder of the log waits for its writer.
        drop(self.router);
        let log = self.log.lock().unwrap();
        String::from_utf8_lossy(&log)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}
