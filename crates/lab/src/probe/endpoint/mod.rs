//! A classifier of conversations that another service runs: OpenAI's moderations, or Llama Guard as a chat model.
//!
//! One conversation is one request, which is not tried again: somebody waits for the answer. Waiting for a free place and
//! the request share one time limit. What is done without a verdict is the caller's to say.

mod guard;
mod limit;
mod moderations;
mod options;
mod shares;

use std::time::{Duration, Instant};

use serde_json::Value;
use skeg_model::ChatMessage;
use skeg_vector_store::Category;

use super::Verdict;
use crate::error::{Error, Result};
use crate::judge::EndpointClient;
use limit::Limit;
use shares::Names;

pub use options::{ClassifierOptions, ClassifierShape};

/// What is left for a request that got its place at the last moment.
const SHORTEST: Duration = Duration::from_millis(1);

/// Asks a classifier behind an endpoint. Blocks; many threads may ask at once.
#[derive(Debug)]
pub struct EndpointClassifier {
    options: ClassifierOptions,
    client: EndpointClient,
    limit: Limit,
}

impl EndpointClassifier {
    /// A classifier that is asked so. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Spec`] when the address or an option cannot be used.
    pub fn new(options: ClassifierOptions) -> Result<Self> {
        options.check()?;
        let client = EndpointClient::at(&options.endpoint(), options.shape.path())?;
        let limit = Limit::new(options.max_concurrent);
        Ok(Self { options, client, limit })
    }

    /// How it is asked.
    #[must_use]
    pub fn options(&self) -> &ClassifierOptions {
        &self.options
    }

    /// The address that gets the conversations.
    #[must_use]
    pub fn url(&self) -> &str {
        self.client.url()
    }

    /// The endpoint's verdict on a conversation, on these categories and within [`ClassifierOptions::timeout`].
    ///
    /// # Errors
    /// [`Error::Classifier`] when no place is free in time, the endpoint cannot be reached, refuses, is late, or answers
    /// something else; [`Error::Spec`] without a category.
    pub fn classify(&self, messages: &[ChatMessage], categories: &[Category]) -> Result<Verdict> {
        self.classify_by(messages, categories, Instant::now() + self.options.timeout)
    }

    /// As [`Self::classify`], for who has waited for a part of the time already.
    ///
    /// # Errors
    /// As [`Self::classify`].
    pub fn classify_by(
        &self,
        messages: &[ChatMessage],
        categories: &[Category],
        deadline: Instant,
    ) -> Result<Verdict> {
        if categories.is_empty() {
            return Err(Error::Spec(
                "a classifier was given no category to choose from; expected at least one"
                    .to_owned(),
            ));
        }
        let _place = self.limit.take(deadline).ok_or_else(|| self.no_place())?;
        let model = &self.options.model;
        let body = match self.options.shape {
            ClassifierShape::Moderations => moderations::request(model, messages),
            ClassifierShape::LlamaGuard => guard::request(model, messages),
        };
        let names = Names { categories, map: &self.options.category_map };
        self.read(&self.ask(&body, deadline)?, names)
    }

    /// The error of a conversation for which no place was free in time.
    #[must_use]
    pub fn no_place(&self) -> Error {
        let ClassifierOptions { timeout, max_concurrent, .. } = &self.options;
        let reason = format!(
            "has {max_concurrent} requests under way, and none ended within {} s; raise `max_concurrent` if it can \
             take more at once, or give it more replicas",
            timeout.as_secs_f64()
        );
        self.error(reason, true)
    }

    fn ask(&self, body: &Value, deadline: Instant) -> Result<String> {
        // A connection takes no time limit of zero.
        let left = deadline.saturating_duration_since(Instant::now()).max(SHORTEST);
        self.client.ask_once(body, left).map_err(|(reason, timed_out)| {
            let reason =
                format!("{reason}; see that it runs, and that address, model and key are right");
            self.error(reason, timed_out)
        })
    }

    fn read(&self, answer: &str, names: Names<'_>) -> Result<Verdict> {
        let (verdict, expected) = match self.options.shape {
            ClassifierShape::Moderations => {
                (moderations::verdict(answer, names), moderations::EXPECTED)
            }
            ClassifierShape::LlamaGuard => (guard::verdict(answer, names), guard::EXPECTED),
        };
        verdict.ok_or_else(|| {
            let reason = format!(
                "gave an answer without {expected}; see that the model and the shape belong together"
            );
            self.error(reason, false)
        })
    }

    fn error(&self, reason: String, timed_out: bool) -> Error {
        Error::Classifier {
            url: self.client.url().to_owned(),
            model: self.options.model.clone(),
            reason,
            timed_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn categories() -> Vec<Category> {
        vec![Category::parse("physical_harm").unwrap()]
    }

    fn options() -> ClassifierOptions {
        ClassifierOptions::new("http://127.0.0.1:9/v1", "guard", ClassifierShape::LlamaGuard)
    }

    #[test]
    fn a_full_classifier_gives_up_at_the_time_limit_and_asks_nothing() {
        let options =
            ClassifierOptions { timeout: Duration::from_millis(5), max_concurrent: 1, ..options() };
        let classifier = EndpointClassifier::new(options).unwrap();
        let place = classifier.limit.take(Instant::now()).unwrap();
        let error = classifier.classify(&[], &categories()).unwrap_err().to_string();
        assert_eq!(
            error,
            "classifier http://127.0.0.1:9/v1/chat/completions (model `guard`) has 1 requests under way, and none ended \
             within 0.005 s; raise `max_concurrent` if it can take more at once, or give it more replicas"
        );
        drop(place);
        assert!(classifier.limit.take(Instant::now()).is_some());
    }

    #[test]
    fn what_cannot_be_asked_is_refused_at_once() {
        let zero = ClassifierOptions { timeout: Duration::ZERO, ..options() };
        let nameless = ClassifierOptions { model: " ".to_owned(), ..options() };
        let closed = ClassifierOptions { max_concurrent: 0, ..options() };
        let nowhere = ClassifierOptions { base_url: "guard:8000".to_owned(), ..options() };
        for (options, expected) in [
            (zero, "time limit"),
            (nameless, "model"),
            (closed, "1 to 64"),
            (nowhere, "http:// or https://"),
        ] {
            let error = EndpointClassifier::new(options).unwrap_err();
            assert!(matches!(error, Error::Spec(_)), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let classifier = EndpointClassifier::new(options()).unwrap();
        let error = classifier.classify(&[], &[]).unwrap_err().to_string();
        assert!(error.contains("no category"), "{error}");
    }
}
