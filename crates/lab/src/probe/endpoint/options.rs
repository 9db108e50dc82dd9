//! Where a classifier is and how it is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skeg_vector_store::Category;

use crate::error::{Error, Result};
use crate::judge::{ApiKey, EndpointOptions};

/// The longest time limit; a request that waits for longer is hardly wanted any more.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// What a classifier is asked, and what it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassifierShape {
    /// OpenAI's `POST {base_url}/moderations`: a score a category.
    Moderations,
    /// Llama Guard 3 by `POST {base_url}/chat/completions`: `safe`, or `unsafe` and codes. It judges the last message, in
    /// the light of those before.
    LlamaGuard,
}

impl ClassifierShape {
    /// The path after the base address.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Moderations => "moderations",
            Self::LlamaGuard => "chat/completions",
        }
    }
}

/// Where a classifier is and how it is asked.
#[derive(Debug, Clone)]
pub struct ClassifierOptions {
    /// The address up to before `/moderations` or `/chat/completions`, for example `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<ApiKey>,
    /// What it is asked.
    pub shape: ClassifierShape,
    /// Bound on one verdict: waiting for a free place, connecting, and all up to the last byte.
    pub timeout: Duration,
    /// Requests under way at once, 1 to [`EndpointOptions::MAX_CONCURRENCY`]; others wait for one to end.
    pub max_concurrent: usize,
    /// What names of the endpoint's own mean, before what they mean in taxonomies that are known
    /// ([`skeg_vector_store::resolve_alias`]). A name is matched as it is written.
    pub category_map: BTreeMap<String, Category>,
}

impl ClassifierOptions {
    /// Two seconds a verdict, 8 requests at once, no key, no names of its own.
    #[must_use]
    pub fn new(
        base_url: impl Into<String>,
        model: impl Into<String>,
        shape: ClassifierShape,
    ) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            api_key: None,
            shape,
            timeout: Duration::from_secs(2),
            max_concurrent: 8,
            category_map: BTreeMap::new(),
        }
    }

    /// # Errors
    /// [`Error::Spec`] for what [`Self::endpoint`] does not check.
    pub(super) fn check(&self) -> Result<()> {
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            return Err(Error::Spec(format!(
                "a classifier's time limit is {} s; expected more than 0 and at most {} s",
                self.timeout.as_secs_f64(),
                MAX_TIMEOUT.as_secs()
            )));
        }
        if self.model.trim().is_empty() {
            return Err(Error::Spec(
                "a classifier's model has no name; give the one that its endpoint lists".to_owned(),
            ));
        }
        Ok(())
    }

    /// The same for the client.
    pub(super) fn endpoint(&self) -> EndpointOptions {
        EndpointOptions {
            api_key: self.api_key.clone(),
            timeout: self.timeout,
            max_retries: 0,
            concurrency: self.max_concurrent,
            ..EndpointOptions::new(self.base_url.as_str(), self.model.as_str())
        }
    }
}
