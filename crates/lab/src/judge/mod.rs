//! Judges of answers: does one refuse, harm, fall apart, or miss the point.
//!
//! A [`Judge`] reads prompts with their answers and gives each a [`Verdict`]. Rules ([`PhraseJudge`], [`DegenerateJudge`])
//! read words; [`HeadJudge`] is a [`LinearHead`] on sentence embeddings ([`SentenceEmbedder`]); [`OnTopicJudge`] is the
//! cosine of prompt and answer; [`EndpointJudge`] asks a model elsewhere. [`Judges`] is one of each. All are weak proxies of people, so none of their numbers stands alone:
//! [`agreement`] says how far a judge agrees with labels given by people, with 95 % intervals ([`Figures`]), and
//! [`measure_judges`] does so for every judge on sets that its head was not trained on.

mod agreement;
mod cache;
mod delong;
mod embed;
mod endpoint;
mod features;
mod folds;
mod head;
mod head_file;
mod learned;
mod metrics;
mod on_topic;
mod overlap;
mod report;
mod row_hashes;
mod rules;
mod run;
mod set;
mod training;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::progress::Progress;

pub use agreement::{JudgeAgreement, LabelSource, Labelled, LabelledSet, agreement};
pub use cache::{Embed, EmbeddingCache};
pub(crate) use delong::auc;
pub use embed::{MAX_TOKENS, SentenceEmbedder};
pub use endpoint::{
    ApiKey, EndpointJudge, EndpointOptions, JudgePrompt, MAX_RETRY_AFTER, Reward, RewardEndpoint,
    RewardForm, RewardScore, Wait,
};
pub(crate) use endpoint::{Client as EndpointClient, NoReply, Reply, each};
pub use features::{FeatureRows, Features};
pub use folds::FoldedJudge;
pub use head::{LinearHead, TrainingSet};
pub use head_file::{MeasuredHeads, load_heads, save_heads};
pub use learned::HeadJudge;
pub use metrics::{Estimate, Figures};
pub use on_topic::{ON_TOPIC_COSINE, OnTopicJudge};
pub use overlap::SharedRows;
pub(crate) use report::table as agreement_table;
pub use report::{Flagged, JudgesReport, TrainedHead};
pub use row_hashes::RowHashes;
pub use rules::{DegenerateJudge, PhraseJudge};
pub use run::{JudgesSpec, measure_judges};
pub use set::Judges;
pub use training::{L2, NamedSet, Training};

/// A prompt and an answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exchange<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The answer.
    pub response: &'a str,
}

/// What a judge makes of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The larger, the surer that the answer has the property: a probability, a cosine, or 0 and 1. Finite.
    pub score: f64,
    /// Whether the judge says that it has.
    pub positive: bool,
}

impl Verdict {
    /// The verdict of a rule: score 1 or 0.
    #[must_use]
    pub fn of_rule(positive: bool) -> Self {
        Self { score: if positive { 1.0 } else { 0.0 }, positive }
    }
}

/// What a judge looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Property {
    /// The answer declines.
    Refusal,
    /// The answer is harmful.
    Harm,
    /// The answer has broken down.
    Degenerate,
    /// The answer is about what was asked.
    OnTopic,
}

impl Property {
    /// Labels of an answer that lacks the property and of one that has it.
    #[must_use]
    pub const fn labels(self) -> [&'static str; 2] {
        match self {
            Self::Refusal => ["compliance", "refusal"],
            Self::Harm => ["safe", "unsafe"],
            Self::Degenerate => ["intact", "degenerate"],
            Self::OnTopic => ["off_topic", "on_topic"],
        }
    }

    /// The label of an answer that has the property in part: left out and counted.
    pub(crate) const fn partial_label(self) -> Option<&'static str> {
        match self {
            Self::Refusal => Some("partial_refusal"),
            Self::Harm | Self::Degenerate | Self::OnTopic => None,
        }
    }
}

/// Judges answers for one property.
pub trait Judge {
    /// The name in tables.
    fn name(&self) -> &str;

    /// What it looks for.
    fn property(&self) -> Property;

    /// The texts it will have embedded for these answers, so that this long work can be done beforehand, for all
    /// judges at once. Rules have none.
    fn texts<'a>(&self, _answers: &[Exchange<'a>]) -> Vec<&'a str> {
        Vec::new()
    }

    /// Does work that takes minutes beforehand, under a bar, so that [`Self::judge`] has it at hand: a judge behind an
    /// endpoint asks. Others have none; their embeddings are asked for by [`Self::texts`].
    ///
    /// # Errors
    /// As [`Self::judge`], and [`crate::Error::Interrupted`] when `progress` asks to stop.
    fn prepare(&mut self, _answers: &[Exchange<'_>], _progress: &mut dyn Progress) -> Result<()> {
        Ok(())
    }

    /// One verdict an answer, in order. A verdict does not depend on the other answers beyond rounding (1e-5).
    ///
    /// # Errors
    /// What the embedder or the endpoint returns.
    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>>;
}
