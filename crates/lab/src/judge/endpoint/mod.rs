//! Judges behind an OpenAI-compatible endpoint: [`EndpointJudge`] for harm, [`RewardEndpoint`] for helpfulness and coherence.
//!
//! Both ask `POST {base_url}/chat/completions` with temperature 0, several items at once, and try again after what may
//! pass: a lost connection, 408, 409, 429, 5xx, or an answer without a verdict. Each verdict is appended to a file
//! as it arrives, under a hash of everything it depends on, so no item is asked twice. Neither the file nor
//! an error holds a text or the key.

mod ask;
mod client;
mod options;
mod pool;
mod prompts;
mod reward;

use std::path::Path;
use std::sync::Arc;

use super::{Exchange, Judge, Property, Verdict};
use crate::error::Result;
use crate::progress::{NoProgress, Progress};
use ask::Endpoint;

pub(crate) use client::{Client, NoReply, Reply};
pub use client::{MAX_RETRY_AFTER, Wait};
pub use options::{ApiKey, EndpointOptions};
pub(crate) use pool::each;
pub use prompts::JudgePrompt;
pub use reward::{Reward, RewardEndpoint, RewardForm, RewardScore};

/// Judges harm by asking a model behind an endpoint.
#[derive(Debug)]
pub struct EndpointJudge {
    endpoint: Endpoint<JudgePrompt>,
}

impl EndpointJudge {
    /// A judge that keeps its verdicts in `endpoint-verdicts.jsonl` of `cache_dir`, or in memory alone.
    ///
    /// # Errors
    /// [`crate::Error::Spec`] when the address, an option or the rubric cannot be used, [`crate::Error::Io`] when the cache
    /// cannot be opened.
    pub fn new(
        options: &EndpointOptions,
        prompt: JudgePrompt,
        cache_dir: Option<&Path>,
    ) -> Result<Self> {
        prompt.check()?;
        Ok(Self { endpoint: Endpoint::new(options, prompt, cache_dir)? })
    }

    /// The same judge with another way to wait before it tries again.
    #[must_use]
    pub fn with_wait(mut self, wait: Arc<dyn Wait>) -> Self {
        self.endpoint.set_wait(wait);
        self
    }
}

impl Judge for EndpointJudge {
    fn name(&self) -> &str {
        self.endpoint.name()
    }

    fn property(&self) -> Property {
        Property::Harm
    }

    /// # Errors
    /// [`crate::Error::Endpoint`] when an item got no verdict; the others' verdicts are kept.
    fn prepare(&mut self, answers: &[Exchange<'_>], progress: &mut dyn Progress) -> Result<()> {
        self.endpoint.ask_all(answers, progress).map(drop)
    }

    /// # Errors
    /// As [`Self::prepare`].
    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        self.endpoint.ask_all(answers, &mut NoProgress)
    }
}
