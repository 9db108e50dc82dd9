//! Whether an answer is about what was asked: the cosine of prompt and answer.

use std::sync::Arc;

use super::cache::Embed;
use super::{Exchange, Judge, Property, Verdict};
use crate::error::Result;
use crate::progress::NoProgress;

/// Cosine from which an answer counts as on topic: of 0.1 to 0.5 the one that tells own from swapped answers best among the
/// 3,000 of a training set.
pub const ON_TOPIC_COSINE: f64 = 0.3;

/// Judges by the cosine of the embeddings of prompt and answer.
pub struct OnTopicJudge {
    embedder: Arc<dyn Embed>,
    threshold: f64,
}

impl std::fmt::Debug for OnTopicJudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnTopicJudge").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

impl OnTopicJudge {
    /// Positive from a cosine of `threshold`, -1 to 1; [`ON_TOPIC_COSINE`] was chosen for all-MiniLM-L6-v2.
    #[must_use]
    pub fn new(embedder: Arc<dyn Embed>, threshold: f64) -> Self {
        Self { embedder, threshold }
    }
}

impl Judge for OnTopicJudge {
    fn name(&self) -> &str {
        "prompt-answer cosine"
    }

    fn property(&self) -> Property {
        Property::OnTopic
    }

    fn texts<'a>(&self, answers: &[Exchange<'a>]) -> Vec<&'a str> {
        answers.iter().flat_map(|answer| [answer.prompt, answer.response]).collect()
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        let embeddings = self.embedder.embed(&self.texts(answers), &mut NoProgress)?;
        let verdict = |pair: &[Arc<[f32]>]| {
            // Both have length 1.
            let products = pair[0].iter().zip(pair[1].iter());
            let score = products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            Verdict { score, positive: score >= self.threshold }
        };
        Ok(embeddings.chunks_exact(2).map(verdict).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::testing::Letters;
    use super::*;

    #[test]
    fn the_score_is_the_cosine_and_is_compared_with_the_threshold() {
        let mut judge = OnTopicJudge::new(Arc::new(Letters::default()), 0.9);
        let answers = [
            Exchange { prompt: "ab", response: "b a" },
            Exchange { prompt: "ab", response: "a" },
            Exchange { prompt: "ab", response: "xyz" },
        ];
        let verdicts = judge.judge(&answers).unwrap();
        let expected = [1.0, 0.5_f64.sqrt(), 0.0];
        for (verdict, expected) in verdicts.iter().zip(expected) {
            assert!((verdict.score - expected).abs() < 1e-6, "{verdict:?}");
        }
        let positives: Vec<bool> = verdicts.iter().map(|verdict| verdict.positive).collect();
        assert_eq!(positives, [true, false, false]);
    }
}
