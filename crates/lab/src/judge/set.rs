//! One judge for each question that an evaluation asks of answers.

use std::sync::Arc;

use super::agreement::JudgeAgreement;
use super::cache::Embed;
use super::endpoint::Reward;
use super::features::Features;
use super::head::LinearHead;
use super::learned::HeadJudge;
use super::on_topic::{ON_TOPIC_COSINE, OnTopicJudge};
use super::report::table;
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
    /// How far judges, these or others, agree with people, as [`super::MeasuredHeads::agreement`] says; empty where nothing is
    /// known.
    pub agreement: Vec<JudgeAgreement>,
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
            agreement: Vec::new(),
        }
    }

    /// These judges, with the cosine of prompt and answer for on-topic and, of the heads, those that agreed best with
    /// people: for refusal the one that sees the phrases' verdict, for harm that on the answer, else that on
    /// prompt and answer. All share one memory of embeddings.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when a head does not belong to the embedder.
    pub fn with_embedder(mut self, embedder: Arc<dyn Embed>, heads: &[LinearHead]) -> Result<Self> {
        let embedder: Arc<dyn Embed> = Arc::new(EmbeddingCache::new(embedder));
        // All of them, so that what is known of the cosine is known with this embedder.
        let of_head = |head: &LinearHead| HeadJudge::new(head.clone(), Arc::clone(&embedder));
        let judges = heads.iter().map(of_head).collect::<Result<Vec<_>>>()?;
        let judge = |preferred: &[Features]| -> Option<Box<dyn Judge>> {
            let of = |features: &Features| {
                judges.iter().find(|judge| judge.head().features == *features)
            };
            preferred.iter().find_map(of).map(|judge| Box::new(judge.clone()) as Box<dyn Judge>)
        };
        if let Some(refusal) = judge(&[Features::OpeningAndPhrases]) {
            self.refusal = refusal;
        }
        if let Some(harm) = judge(&[Features::ResponseAndPhrases, Features::PromptAndResponse]) {
            self.harm = Some(harm);
        }
        self.on_topic = Some(Box::new(OnTopicJudge::new(embedder, ON_TOPIC_COSINE)));
        Ok(self)
    }

    /// The judges' names, as their agreement is listed under: refusal, degenerate, harm, on-topic, reward, those there are.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let judges = self.in_use().map(Judge::name);
        judges.chain(self.reward.iter().map(|reward| reward.name())).collect()
    }

    /// The judges of one property each, those there are.
    fn in_use(&self) -> impl Iterator<Item = &dyn Judge> {
        let judges = [
            Some(&self.refusal),
            Some(&self.degenerate),
            self.harm.as_ref(),
            self.on_topic.as_ref(),
        ];
        judges.into_iter().flatten().map(|judge| &**judge)
    }

    /// What is known of how far the judges in use agree with people, judge by judge in the order of [`Self::names`]. A judge
    /// that was not measured has no row.
    pub fn agreement_in_use(&self) -> impl Iterator<Item = &JudgeAgreement> {
        self.in_use().flat_map(|judge| {
            let is_its = move |row: &&JudgeAgreement| {
                row.judge == judge.name() && row.property == judge.property()
            };
            self.agreement.iter().filter(is_its)
        })
    }

    /// [`Self::agreement_in_use`] as a table for a report, as [`super::JudgesReport`] has it: the header first; empty where
    /// nothing is known.
    #[must_use]
    pub fn agreement_table(&self) -> Vec<Vec<String>> {
        match self.agreement_in_use().next() {
            Some(_) => table(self.agreement_in_use()),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::LabelSource;
    use super::super::cache::testing::Letters;
    use super::super::metrics::Figures;
    use super::super::{Exchange, Property, Verdict};
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

    fn row(judge: &str, property: Property, set: &str) -> JudgeAgreement {
        let verdict = Verdict { score: 0.9, positive: true };
        JudgeAgreement {
            judge: judge.to_owned(),
            property,
            set: set.to_owned(),
            labels: LabelSource::Set,
            num_partial: 0,
            num_shared_prompts: 0,
            num_shared_answers: 0,
            figures: Figures::new(&[verdict], &[true]).unwrap(),
        }
    }

    #[test]
    fn the_table_of_agreement_has_the_judges_in_use_alone_and_in_their_order() {
        let heads = [Features::OpeningAndPhrases, Features::ResponseAndPhrases]
            .map(|one| head(one, "letters"));
        let embedder = Arc::new(Letters::default());
        let mut judges = Judges::rules().with_embedder(embedder, &heads).unwrap();
        assert!(judges.agreement_table().is_empty());
        judges.agreement = vec![
            row("refusal phrases", Property::Refusal, "a"),
            row("prompt-answer cosine", Property::OnTopic, "a"),
            row("harm head", Property::Harm, "a"),
            row("harm head", Property::Harm, "b"),
            // Another judge of the same name.
            row("harm head", Property::Refusal, "c"),
            row("refusal head + phrases", Property::Refusal, "a"),
        ];
        let rows = |judges: &Judges| {
            let table = judges.agreement_table().into_iter();
            table.map(|row| row[..2].join(": ")).collect::<Vec<_>>()
        };
        let expected = [
            "judge: set",
            "refusal head + phrases: a",
            "harm head: a",
            "harm head: b",
            "prompt-answer cosine: a",
        ];
        assert_eq!(rows(&judges), expected);
        (judges.harm, judges.on_topic) = (None, None);
        assert_eq!(rows(&judges), expected[..2]);
        judges.refusal = Box::new(PhraseJudge);
        assert_eq!(rows(&judges), ["judge: set", "refusal phrases: a"]);
        judges.agreement.remove(0);
        assert!(judges.agreement_table().is_empty());
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
        // Also one that is not chosen.
        let heads = [head(Features::Opening, "another")];
        let error = Judges::rules().with_embedder(letters, &heads).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
    }
}
