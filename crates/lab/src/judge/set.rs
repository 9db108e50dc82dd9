//! The judges of one run.

use super::{DegenerateJudge, Judge, PhraseJudge};

/// One judge a property; the last ones where there is one.
pub struct Judges {
    /// Whether an answer declines.
    pub refusal: Box<dyn Judge>,
    /// Whether it has broken down.
    pub degenerate: Box<dyn Judge>,
    /// Whether it is harmful.
    pub harm: Option<Box<dyn Judge>>,
    /// Whether it is about what was asked.
    pub on_topic: Option<Box<dyn Judge>>,
}

impl std::fmt::Debug for Judges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Judges {
    /// Rules alone: refusal phrases and the repetition measure.
    #[must_use]
    pub fn rules() -> Self {
        let (refusal, degenerate) = (Box::new(PhraseJudge), Box::new(DegenerateJudge));
        Self { refusal, degenerate, harm: None, on_topic: None }
    }

    /// The judges' names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let judges = [
            Some(&self.refusal),
            Some(&self.degenerate),
            self.harm.as_ref(),
            self.on_topic.as_ref(),
        ];
        judges.into_iter().flatten().map(|judge| judge.name().to_owned()).collect()
    }
}
