//! What every handler shares: the model's text half, the way to the engine, the store, the callers.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skeg_model::engine::EngineHandle;
use skeg_model::{ChatTemplate, Tokenizer};
use skeg_vector_store::Store;

use crate::auth::Principals;
use crate::classifier::HttpClassifier;
use crate::decision_log::DecisionLog;
use crate::kill_switch::OverrideAction;
use crate::operations::Operations;
use crate::origin::Origin;
use crate::steering::SteeringSlots;
use crate::wire::RequestLimits;

/// All that the HTTP half of the server is built from.
#[derive(Debug)]
pub struct AppParts {
    /// Names under which the model is asked for; the first is canonical. `default` is always taken as well.
    pub served_names: Vec<String>,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template; without one, chat requests are refused with the reason.
    pub chat_template: Option<ChatTemplate>,
    /// Ids that end an answer.
    pub stop_token_ids: Vec<u32>,
    /// Tokens of prompt and answer together, in tokens.
    pub max_model_len: usize,
    /// Blocks of the model.
    pub num_hidden_layers: usize,
    /// The way to the engine thread.
    pub engine: EngineHandle,
    /// The live generation of vectors and its slots in the engine.
    pub store: Arc<Store<SteeringSlots>>,
    /// Where its generations come from.
    pub origin: Origin,
    /// The classifier that is asked for categories; `None`: a generation's probe, if the store attaches them.
    pub classifier: Option<HttpClassifier>,
    /// Who may call.
    pub principals: Principals,
    /// Where decisions are written; `None` = nowhere.
    pub decision_log: Option<DecisionLog>,
    /// Bounds on requests.
    pub limits: Limits,
    /// The kill switch and what swaps took, shared with the admin interface.
    pub operations: Operations,
}

/// Bounds on what one request may cost before the model sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body, in bytes; more is a 413. A context of 128 Ki tokens is about 512 KiB of text.
    pub max_body_bytes: usize,
    /// Time for a whole body, from the end of the head; more is a 408.
    pub body_read_timeout: Duration,
    /// Messages in one conversation.
    pub max_messages: usize,
    /// Text of all messages together, in bytes: rendering and tokenising cost in proportion.
    pub max_text_bytes: usize,
    /// Answers to one request (`n`): each takes a place in the engine.
    pub max_choices: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            max_body_bytes: 2 * MIB,
            // The largest body over a line of 600 kbit/s.
            body_read_timeout: Duration::from_secs(30),
            max_messages: 1024,
            max_text_bytes: MIB,
            max_choices: 8,
        }
    }
}

/// The shared state; clones are cheap.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) parts: AppParts,
    /// When the server started, in seconds since 1970: OpenAI's `created` of the models.
    pub(crate) started_unix_seconds: u64,
}

impl Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.inner.parts
    }
}

impl App {
    /// Wraps the parts.
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        Self { inner: Arc::new(Inner { parts, started_unix_seconds: unix_time().as_secs() }) }
    }

    pub(crate) fn started_unix_seconds(&self) -> u64 {
        self.inner.started_unix_seconds
    }

    /// The model's canonical name.
    pub(crate) fn model_name(&self) -> &str {
        self.served_names.first().map_or("default", String::as_str)
    }

    /// Whether a request's `model` means this server's model.
    pub(crate) fn serves(&self, name: &str) -> bool {
        name == "default" || self.served_names.iter().any(|served| served == name)
    }

    /// Why requests cannot be answered now; `None` where they can.
    pub(crate) fn reason_not_ready(&self) -> Option<NotReady> {
        NotReady::of(&self.engine)
    }

    /// The override in force, if there is one.
    pub(crate) fn overridden(&self) -> Option<OverrideAction> {
        self.operations.kill_switch.engaged().map(|engaged| engaged.action)
    }

    /// Why the engine did not take a command that it would have to refuse only when it is stopped.
    pub(crate) fn reason_stopped(&self) -> NotReady {
        self.reason_not_ready().unwrap_or(NotReady::EngineEnded)
    }

    pub(crate) fn request_limits(&self) -> RequestLimits {
        RequestLimits {
            max_messages: self.limits.max_messages,
            max_text_bytes: self.limits.max_text_bytes,
            max_choices: self.limits.max_choices,
            max_model_len: self.max_model_len,
            vocab_size: self.tokenizer.vocab_size(),
        }
    }
}

/// Why requests cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotReady {
    /// The server was asked to end: running answers finish, and no other begins.
    ShuttingDown,
    /// The engine thread died.
    EngineEnded,
}

impl NotReady {
    /// Why an engine answers nothing new; `None` where it does.
    pub(crate) fn of(engine: &EngineHandle) -> Option<Self> {
        if !engine.is_accepting() {
            return Some(Self::ShuttingDown);
        }
        (!engine.is_alive()).then_some(Self::EngineEnded)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ShuttingDown => "the server is shutting down; running answers may finish",
            Self::EngineEnded => "the engine thread has ended",
        }
    }
}

/// Time since 1970; zero if the clock is before that.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
