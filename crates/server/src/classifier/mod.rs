//! Who finds the category of a request that names none: the generation's probe, a classifier behind an endpoint, or nobody.
//!
//! [`HttpClassifier`] asks an endpoint off the async threads and the engine's, before a request is handed in. Its verdict goes through
//! the same thresholds and rules as a probe's. What holds without a verdict is the operator's to say ([`OnFailure`]).

mod metrics;
mod probe;

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use skeg_lab::Error;
use skeg_lab::probe::{ClassifierOptions, EndpointClassifier, Verdict};
use skeg_model::ChatMessage;
use skeg_vector_store::Generation;
use tokio::sync::Semaphore;

use crate::errors::ApiError;
use crate::gate::found;
use crate::operations::Operations;
use crate::resolve::{Found, Gated, Resolution, Rules};

pub(crate) use metrics::ClassifierMetrics;
use metrics::Outcome;
pub(crate) use probe::probe_for_auto;

/// Who finds categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClassifierKind {
    /// The probe of each generation that has one.
    #[default]
    Generation,
    /// A classifier behind an endpoint, whatever the generation has.
    Http,
    /// Nobody: `auto` is unavailable.
    Off,
}

/// What holds for a request of which a classifier behind an endpoint gave no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// It is answered with 503.
    #[default]
    Refuse,
    /// What the policy says of a verdict that is not sure (`on_abstain`).
    Abstain,
    /// No category is found. What may be due is then not done; the answer, the log and the metrics say that nobody looked.
    None,
}

impl OnFailure {
    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Abstain => "abstain",
            Self::None => "none",
        }
    }
}

/// A classifier behind an endpoint; clones share its places.
#[derive(Debug, Clone)]
pub struct HttpClassifier {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: EndpointClassifier,
    on_failure: OnFailure,
    /// Requests that may be under way. Who waits for one waits here, holds no thread, and leaves when its client does.
    places: Arc<Semaphore>,
}

/// A request that is to be settled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) generation: &'a Generation,
    pub(crate) rules: &'a Rules,
    pub(crate) gated: &'a Gated,
    pub(crate) operations: &'a Operations,
}

impl HttpClassifier {
    /// A classifier that is asked so. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Spec`] when the address or an option cannot be used.
    pub fn new(options: ClassifierOptions, on_failure: OnFailure) -> Result<Self, Error> {
        let places = Arc::new(Semaphore::new(options.max_concurrent));
        let endpoint = EndpointClassifier::new(options)?;
        Ok(Self { inner: Arc::new(Inner { endpoint, on_failure, places }) })
    }

    /// Says in the log where conversations go.
    pub fn announce(&self) {
        let Inner { endpoint, on_failure, .. } = &*self.inner;
        tracing::warn!(
            url = endpoint.url(),
            model = endpoint.options().model,
            on_failure = on_failure.as_str(),
            "prompts leave this process: whole conversations whose category is to be found are sent to this classifier"
        );
        if *on_failure == OnFailure::None {
            tracing::warn!(
                "requests of which the classifier gives no verdict are answered unsteered"
            );
        }
    }

    /// The resolution of a request by the verdict on its conversation.
    pub(crate) async fn settle(
        &self,
        question: Question<'_>,
        messages: Vec<ChatMessage>,
    ) -> Result<Resolution, ApiError> {
        let Question { generation, rules, gated, operations } = question;
        match self.verdict(generation, messages, &operations.classifier).await {
            Ok(verdict) => {
                operations.gate.found(verdict.harm);
                let found = found(&generation.policy, &verdict);
                gated.settle(&found, verdict.harm, rules)
            }
            Err(reason) => {
                operations.classifier.unanswered(self.inner.on_failure);
                self.settle_without(question, reason)
            }
        }
    }

    /// What the operator wants where there is no verdict.
    fn settle_without(
        &self,
        question: Question<'_>,
        reason: String,
    ) -> Result<Resolution, ApiError> {
        let on_failure = self.inner.on_failure;
        let as_if = match on_failure {
            OnFailure::Refuse => {
                let message = "the classifier that finds the category of this request gave no verdict, so the request is not answered; \
                     try again later";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(ApiError::new(status, "steering_unavailable", message).with_log(reason));
            }
            OnFailure::Abstain => Found::Unsure,
            OnFailure::None => Found::Nothing,
        };
        tracing::warn!(reason, on_failure = on_failure.as_str(), "no verdict on a request");
        question.gated.settle_unclassified(&as_if, question.rules)
    }

    /// The endpoint's verdict, or why there is none.
    async fn verdict(
        &self,
        generation: &Generation,
        messages: Vec<ChatMessage>,
        metrics: &ClassifierMetrics,
    ) -> Result<Verdict, String> {
        let started = Instant::now();
        let Inner { endpoint, places, .. } = &*self.inner;
        let deadline = started + endpoint.options().timeout;
        let waiting = metrics.waiting();
        let place =
            tokio::time::timeout_at(deadline.into(), Arc::clone(places).acquire_owned()).await;
        drop(waiting);
        // The semaphore is never closed.
        let Ok(Ok(place)) = place else {
            metrics.asked(Outcome::Timeout, started.elapsed());
            return Err(endpoint.no_place().to_string());
        };
        let (inner, metrics) = (Arc::clone(&self.inner), metrics.clone());
        let categories = generation.manifest.categories.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let verdict = inner.endpoint.classify_by(&messages, &categories, deadline);
            metrics.asked(Outcome::of(&verdict), started.elapsed());
            // Also where the client has left: the endpoint is still at work for it.
            drop(place);
            verdict
        });
        match asking.await {
            Ok(verdict) => verdict.map_err(|error| error.to_string()),
            Err(error) => Err(format!("asking the classifier: {error}")),
        }
    }
}
