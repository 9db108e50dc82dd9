//! `[classifier]`: who finds the category of a request that names none.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use skeg_lab::judge::{ApiKey, EndpointOptions};
use skeg_lab::probe::{ClassifierOptions, ClassifierShape};
use skeg_server::{ClassifierKind, HttpClassifier, OnFailure};
use skeg_vector_store::Category;

use super::ConfigError;

/// The longest time for a verdict: who waits for longer hardly wants an answer any more.
const MAX_TIMEOUT_MS: u64 = 600_000;

/// The settings of the classifier as given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawClassifier {
    /// Who finds the category of a request that names none: generation (the probe of the vectors), http (a classifier
    /// behind an endpoint, which is sent whole conversations) or off [default: generation]
    #[arg(
        id = "classifier",
        long = "classifier",
        env = "SKEG_CLASSIFIER",
        value_name = "KIND",
        help_heading = "Classifier"
    )]
    pub(crate) kind: Option<String>,
    /// Its address, up to before /moderations or /chat/completions; usually ends in /v1
    #[arg(
        id = "classifier_url",
        long = "classifier-url",
        env = "SKEG_CLASSIFIER_URL",
        value_name = "URL",
        help_heading = "Classifier"
    )]
    pub(crate) url: Option<String>,
    /// What it is asked: moderations (OpenAI's), or `llama_guard` (a guard model by chat completions) [default: moderations]
    #[arg(
        id = "classifier_shape",
        long = "classifier-shape",
        env = "SKEG_CLASSIFIER_SHAPE",
        value_name = "SHAPE",
        help_heading = "Classifier"
    )]
    pub(crate) shape: Option<String>,
    /// The model's name there
    #[arg(
        id = "classifier_model",
        long = "classifier-model",
        env = "SKEG_CLASSIFIER_MODEL",
        value_name = "NAME",
        help_heading = "Classifier"
    )]
    pub(crate) model: Option<String>,
    /// Name of the environment variable that holds its key [default: none, no key is sent]
    #[arg(
        id = "classifier_key_env",
        long = "classifier-key-env",
        env = "SKEG_CLASSIFIER_KEY_ENV",
        value_name = "VAR",
        help_heading = "Classifier"
    )]
    pub(crate) key_env: Option<String>,
    /// Time for one verdict, waiting for a place included, in milliseconds [default: 2000]
    #[arg(
        id = "classifier_timeout_ms",
        long = "classifier-timeout-ms",
        env = "SKEG_CLASSIFIER_TIMEOUT_MS",
        value_name = "MS",
        help_heading = "Classifier"
    )]
    pub(crate) timeout_ms: Option<u64>,
    /// Requests to it under way at once; others wait [default: 8]
    #[arg(
        id = "classifier_max_concurrent",
        long = "classifier-max-concurrent",
        env = "SKEG_CLASSIFIER_MAX_CONCURRENT",
        value_name = "NUM",
        help_heading = "Classifier"
    )]
    pub(crate) max_concurrent: Option<usize>,
    /// What holds without a verdict: refuse (503), abstain (the policy's `on_abstain`), or none (answered without a category,
    /// and said so) [default: refuse]
    #[arg(
        id = "classifier_on_failure",
        long = "classifier-on-failure",
        env = "SKEG_CLASSIFIER_ON_FAILURE",
        value_name = "WORD",
        help_heading = "Classifier"
    )]
    pub(crate) on_failure: Option<String>,
    /// What its own names mean, by category; in the file alone.
    #[arg(skip)]
    #[serde(default)]
    pub(crate) categories: BTreeMap<String, String>,
}

/// Who finds categories, checked.
#[derive(Debug)]
pub(crate) enum ClassifierConfig {
    Generation,
    Http(Box<HttpConfig>),
    Off,
}

/// How a classifier behind an endpoint is asked.
#[derive(Debug)]
pub(crate) struct HttpConfig {
    pub(crate) url: String,
    pub(crate) shape: ClassifierShape,
    pub(crate) model: String,
    /// The variable that holds the key; it is read when the classifier is first needed, by who serves alone.
    pub(crate) key_env: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) max_concurrent: usize,
    pub(crate) on_failure: OnFailure,
    pub(crate) categories: BTreeMap<String, Category>,
}

impl RawClassifier {
    /// What is set here, and below that what `lower` sets.
    pub(super) fn over(self, lower: Self) -> Self {
        Self {
            kind: self.kind.or(lower.kind),
            url: self.url.or(lower.url),
            shape: self.shape.or(lower.shape),
            model: self.model.or(lower.model),
            key_env: self.key_env.or(lower.key_env),
            timeout_ms: self.timeout_ms.or(lower.timeout_ms),
            max_concurrent: self.max_concurrent.or(lower.max_concurrent),
            on_failure: self.on_failure.or(lower.on_failure),
            categories: if self.categories.is_empty() { lower.categories } else { self.categories },
        }
    }
}

impl ClassifierConfig {
    pub(super) fn from_raw(raw: &RawClassifier) -> Result<Self, ConfigError> {
        match raw.kind.as_deref() {
            // Who says so may leave the endpoint's settings where they are.
            Some("generation") => Ok(Self::Generation),
            Some("off") => Ok(Self::Off),
            Some("http") => Ok(Self::Http(Box::new(HttpConfig::from_raw(raw)?))),
            None if *raw == RawClassifier::default() => Ok(Self::Generation),
            None => {
                let reason = "is not set, and other settings of a classifier are; set it to `http`, or leave them out";
                Err(invalid("classifier.kind", reason))
            }
            Some(other) => {
                let reason =
                    format!("`{other}` is unknown; expected `generation`, `http` or `off`");
                Err(invalid("classifier.kind", reason))
            }
        }
    }

    /// Who finds categories, for the server.
    pub(crate) fn kind(&self) -> ClassifierKind {
        match self {
            Self::Generation => ClassifierKind::Generation,
            Self::Http(_) => ClassifierKind::Http,
            Self::Off => ClassifierKind::Off,
        }
    }

    /// The word of the configuration.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Http(_) => "http",
            Self::Off => "off",
        }
    }

    /// The classifier behind an endpoint, if it is one, with its key.
    pub(crate) fn connect(&self) -> Result<Option<HttpClassifier>, ConfigError> {
        let Self::Http(http) = self else { return Ok(None) };
        let key = http.key_env.as_deref().map(key_of).transpose()?;
        http.classifier(key).map(Some)
    }
}

impl HttpConfig {
    fn from_raw(raw: &RawClassifier) -> Result<Self, ConfigError> {
        let given = |setting, value: &Option<String>, expected: &str| {
            let value = value.clone().filter(|value| !value.trim().is_empty());
            let reason =
                || format!("is not set, and the classifier is `http`; expected {expected}");
            value.ok_or_else(|| invalid(setting, reason()))
        };
        let url = "the endpoint's address, for example http://127.0.0.1:8000/v1";
        let default = ClassifierOptions::new("", "", ClassifierShape::Moderations);
        let config = Self {
            url: given("classifier.url", &raw.url, url)?,
            shape: shape(raw.shape.as_deref())?,
            model: given("classifier.model", &raw.model, "the model's name there")?,
            key_env: raw.key_env.clone(),
            timeout: timeout(raw.timeout_ms)?.unwrap_or(default.timeout),
            max_concurrent: max_concurrent(raw.max_concurrent)?.unwrap_or(default.max_concurrent),
            on_failure: on_failure(raw.on_failure.as_deref())?,
            categories: categories(&raw.categories)?,
        };
        // What is left to be wrong is the address.
        config.classifier(None)?;
        Ok(config)
    }

    /// The shape's word.
    pub(crate) fn shape_name(&self) -> &'static str {
        match self.shape {
            ClassifierShape::Moderations => "moderations",
            ClassifierShape::LlamaGuard => "llama_guard",
        }
    }

    fn classifier(&self, api_key: Option<ApiKey>) -> Result<HttpClassifier, ConfigError> {
        let options = ClassifierOptions {
            api_key,
            timeout: self.timeout,
            max_concurrent: self.max_concurrent,
            category_map: self.categories.clone(),
            ..ClassifierOptions::new(self.url.as_str(), self.model.as_str(), self.shape)
        };
        HttpClassifier::new(options, self.on_failure)
            .map_err(|error| invalid("classifier.url", error.to_string()))
    }
}

fn invalid(setting: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { setting, reason: reason.into() }
}

fn shape(word: Option<&str>) -> Result<ClassifierShape, ConfigError> {
    match word {
        None | Some("moderations") => Ok(ClassifierShape::Moderations),
        Some("llama_guard") => Ok(ClassifierShape::LlamaGuard),
        Some(other) => {
            let reason = format!("`{other}` is unknown; expected `moderations` or `llama_guard`");
            Err(invalid("classifier.shape", reason))
        }
    }
}

fn on_failure(word: Option<&str>) -> Result<OnFailure, ConfigError> {
    match word {
        None | Some("refuse") => Ok(OnFailure::Refuse),
        Some("abstain") => Ok(OnFailure::Abstain),
        Some("none") => Ok(OnFailure::None),
        Some(other) => {
            let reason = format!("`{other}` is unknown; expected `refuse`, `abstain` or `none`");
            Err(invalid("classifier.on_failure", reason))
        }
    }
}

fn timeout(given: Option<u64>) -> Result<Option<Duration>, ConfigError> {
    match given {
        None => Ok(None),
        Some(ms @ 1..=MAX_TIMEOUT_MS) => Ok(Some(Duration::from_millis(ms))),
        Some(ms) => {
            let reason = format!("is {ms}; expected 1 to {MAX_TIMEOUT_MS} milliseconds");
            Err(invalid("classifier.timeout_ms", reason))
        }
    }
}

fn max_concurrent(given: Option<usize>) -> Result<Option<usize>, ConfigError> {
    match given {
        Some(num) if !(1..=EndpointOptions::MAX_CONCURRENCY).contains(&num) => {
            let reason = format!("is {num}; expected 1 to {}", EndpointOptions::MAX_CONCURRENCY);
            Err(invalid("classifier.max_concurrent", reason))
        }
        given => Ok(given),
    }
}

fn categories(given: &BTreeMap<String, String>) -> Result<BTreeMap<String, Category>, ConfigError> {
    let entry = |(name, slug): (&String, &String)| match Category::parse(slug) {
        Ok(category) => Ok((name.clone(), category)),
        Err(error) => Err(invalid("classifier.categories", format!("`{name}`: {error}"))),
    };
    given.iter().map(entry).collect()
}

/// The key in a variable. No message quotes what was given: it may be the key itself.
fn key_of(variable: &str) -> Result<ApiKey, ConfigError> {
    const SETTING: &str = "classifier.key_env";
    let value = env(variable).ok_or_else(|| {
        invalid(SETTING, "names a variable that is not set, or is no name of one")
    })?;
    ApiKey::new(&value)
        .map_err(|_| invalid(SETTING, "names a variable that holds no key; expected one line"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the configuration names the variable, so that no key stands there"
)]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests;
