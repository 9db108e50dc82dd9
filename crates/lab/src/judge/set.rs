//! One judge for each question that an evaluation asks of answers.

use std::sync::Arc;

use super::cache::Embed;
use super::endpoint::Reward;
use super::features::Features;
use super::head::LinearHead;
use super::learned::HeadJudge;
use super::on_topic::{ON_TOPIC_COSINE, OnTopicJudge};
use super::rules::{DegenerateJudge, PhraseJudge};
use super::{EmbeddingCache, Judge};
use crate::error::Result;

/// One judge for each question that an evaluation asks of answers; what has none is not measured.
pub struct Judges {
    /// [`super::Property::Refusal`].
    pub refusal: Box<dyn Judge>,
    /// [`super::Property::Degenerate`].
    pub degenerate: Box<dyn Judge>,
    /// [`super::Property::Harm`].
    pub harm: Option<Box<dyn Judge>>,
    /// [`super::Property::OnTopic`].
    pub on_topic: Option<Box<dyn Judge>>,
    /// Helpfulness and coherence.
    pub reward: Option<Box<dyn Reward>>,
}

impl std::fmt::Debug for Judges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Judges").field(&self.names()).finish()
    }
}

impl Judges {
    /// Refusal phrases and the repetition measure, which need nothing.
    #[must_use]
    pub fn rules() -> Self {
        Self {
            refusal: Box::new(PhraseJudge),
            degenerate: Box::new(DegenerateJudge),
            harm: None,
            on_topic: None,
            reward: None,
        }
    }

    /// These judges, with the cosine of prompt and answer for on-topic and, of the heads, those that agreed best with
    /// people: for refusal the one that sees the phrases' verdict, for harm that on the answer, else that on
    /// prompt and answer. All share one memory of embeddings.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when a chosen head does not belong to the embedder.
    pub fn with_embedder(mut self, embedder: Arc<dyn Embed>, heads: &[LinearHead]) -> Result<Self> {
        let embedder: Arc<dyn Embed> = Arc::new(EmbeddingCache::new(embedder));
        let judge = |preferred: &[Features]| -> Result<Option<Box<dyn Judge>>> {
            let of = |features: &Features| heads.iter().find(|head| head.features == *features);
            let Some(head) = preferred.iter().find_map(of) else { return Ok(None) };
            let judge = HeadJudge::new(head.clone(), Arc::clone(&embedder))?;
            Ok(Some(Box::new(judge)))
        };
        if let Some(refusal) = judge(&[Features::OpeningAndPhrases])? {
            self.refusal = refusal;
        }
        if let Some(harm) = judge(&[Features::ResponseAndPhrases, Features::PromptAndResponse])? {
            self.harm = Some(harm);
        }
        self.on_topic = Some(Box::new(OnTopicJudge::new(embedder, ON_TOPIC_COSINE)));
        Ok(self)
    }

    /// The judges' names, as their agreement is listed under: refusal, degenerate, harm, on-topic, reward, those there are.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let judges = [
            Some(&self.refusal),
            Some(&self.degenerate),
            self.harm.as_ref(),
            self.on_topic.as_ref(),
        ];
        let judges = judges.into_iter().flatten().map(|judge| judge.name());
        judges.chain(self.reward.iter().map(|reward| reward.name())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::testing::Letters;
    use super::super::{Exchange, Property};
    use super::*;
    use crate::error::Error;

    fn head(features: Features, embedder: &str) -> LinearHead {
        LinearHead {
            features,
            embedder: embedder.to_owned(),
            classes: features.property().labels().map(str::to_owned),
            trained_on: Vec::new(),
            l2: 0.3,
            weights: vec![0.0; features.width(26)],
            bias: 1.0,
        }
    }

    fn names(features: &[Features]) -> Vec<String> {
        let heads: Vec<LinearHead> = features.iter().map(|&one| head(one, "letters")).collect();
        let judges = Judges::rules().with_embedder(Arc::new(Letters::default()), &heads).unwrap();
        judges.names().iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn rules_stand_in_where_no_head_was_given() {
        assert_eq!(Judges::rules().names(), ["refusal phrases", "repetition measure"]);
        let cosine = "prompt-answer cosine";
        assert_eq!(names(&[]), ["refusal phrases", "repetition measure", cosine]);
        assert_eq!(names(&[Features::Opening])[0], "refusal phrases");
        assert_eq!(
            names(&[
                Features::PromptAndResponse,
                Features::ResponseAndPhrases,
                Features::OpeningAndPhrases
            ]),
            ["refusal head + phrases", "repetition measure", "harm head", cosine]
        );
        assert_eq!(names(&[Features::PromptAndResponse])[2], "harm head, with prompt");
    }

    #[test]
    fn judges_share_embeddings_and_refuse_another_embedders_head() {
        let letters = Arc::new(Letters::default());
        let heads = [head(Features::PromptAndResponse, "letters")];
        let mut judges = Judges::rules().with_embedder(letters.clone(), &heads).unwrap();
        let answers = [Exchange { prompt: "one", response: "two" }];
        for judge in [judges.harm.as_mut(), judges.on_topic.as_mut()].into_iter().flatten() {
            assert_eq!(judge.judge(&answers).unwrap().len(), 1);
        }
        assert_eq!(letters.num_embedded.load(std::sync::atomic::Ordering::Relaxed), 2);
        assert_eq!(judges.harm.map(|judge| judge.property()), Some(Property::Harm));
        let heads = [head(Features::OpeningAndPhrases, "another")];
        let error = Judges::rules().with_embedder(letters, &heads).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
    }
}
