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

pub use options::{ClassifierOptions, ClassifierShape};

/// What is left for a request that got its place at the last moment.
const SHORTEST: Duration = Duration::from_millis(1);

/// Asks a classifier behind an endpoint. Blocks; many threads may ask at once.
#[derive(Debug)]
pub struct EndpointClassifier {
    options: ClassifierOptions,
    categories: Vec<Category>,
    client: EndpointClient,
    limit: Limit,
}

impl EndpointClassifier {
    /// A classifier whose verdicts are on these categories. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Spec`] when the address or an option cannot be used, or there is no category.
    pub fn new(options: ClassifierOptions, categories: &[Category]) -> Result<Self> {
        options.check()?;
        if categories.is_empty() {
            return Err(Error::Spec(
                "a classifier was given no category to choose from; expected at least one"
                    .to_owned(),
            ));
        }
        let client = EndpointClient::at(&options.endpoint(), options.shape.path())?;
        let limit = Limit::new(options.max_concurrent);
        Ok(Self { options, categories: categories.to_vec(), client, limit })
    }

    /// The endpoint's verdict on a conversation, within [`ClassifierOptions::timeout`].
    ///
    /// # Errors
    /// [`Error::Classifier`] when no place is free in time, the endpoint cannot be reached, refuses, is late, or answers
    /// something else.
    pub fn classify(&self, messages: &[ChatMessage]) -> Result<Verdict> {
        let ClassifierOptions { model, shape, timeout, max_concurrent, .. } = &self.options;
        let deadline = Instant::now() + *timeout;
        let _place = self.limit.take(deadline).ok_or_else(|| {
            self.error(format!(
                "has {max_concurrent} requests under way, and none ended within {} s; raise `max_concurrent` if it can \
                 take more at once, or give it more replicas",
                timeout.as_secs_f64()
            ))
        })?;
        let body = match shape {
            ClassifierShape::Moderations => moderations::request(model, messages),
            ClassifierShape::LlamaGuard => guard::request(model, messages),
        };
        self.read(&self.ask(&body, deadline)?)
    }

    fn ask(&self, body: &Value, deadline: Instant) -> Result<String> {
        // A connection takes no time limit of zero.
        let left = deadline.saturating_duration_since(Instant::now()).max(SHORTEST);
        self.client.ask_once(body, left).map_err(|reason| {
            self.error(format!(
                "{reason}; see that it runs, and that address, model and key are right"
            ))
        })
    }

    fn read(&self, answer: &str) -> Result<Verdict> {
        let (verdict, expected) = match self.options.shape {
            ClassifierShape::Moderations => {
                (moderations::verdict(answer, &self.categories), moderations::EXPECTED)
            }
            ClassifierShape::LlamaGuard => {
                (guard::verdict(answer, &self.categories), guard::EXPECTED)
            }
        };
        verdict.ok_or_else(|| {
            self.error(format!(
                "gave an answer without {expected}; see that the model and the shape belong together"
            ))
        })
    }

    fn error(&self, reason: String) -> Error {
        Error::Classifier {
            url: self.client.url().to_owned(),
            model: self.options.model.clone(),
            reason,
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
        let classifier = EndpointClassifier::new(options, &categories()).unwrap();
        let place = classifier.limit.take(Instant::now()).unwrap();
        let error = classifier.classify(&[]).unwrap_err().to_string();
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
            let error = EndpointClassifier::new(options, &categories()).unwrap_err();
            assert!(matches!(error, Error::Spec(_)), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = EndpointClassifier::new(options(), &[]).unwrap_err().to_string();
        assert!(error.contains("no category"), "{error}");
    }
}
