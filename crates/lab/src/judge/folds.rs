//! Leave-prompts-out: a judge that never scores an answer by a head that knows its prompt.
//!
//! Labelled sets share prompts: some have several answers a prompt, and sets are built from each other's prompts. Testing
//! on rows with new prompts alone would leave little of them. So prompts are dealt into folds by their hash, one
//! head is trained without each fold, and an answer whose prompt was in training is scored by the head that was trained without
//! its fold. Other answers are scored by the head that was trained on everything.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::cache::Embed;
use super::features::Features;
use super::head::LinearHead;
use super::learned::HeadJudge;
use super::overlap::Seen;
use super::training::Training;
use super::{Exchange, Judge, Property, Verdict};
use crate::data::normalised;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// One head for new prompts and one for each fold of the known ones.
#[derive(Debug)]
pub struct FoldedJudge {
    whole: HeadJudge,
    folds: Vec<HeadJudge>,
    seen: Seen,
}

impl FoldedJudge {
    /// Trains `num_folds + 1` heads.
    ///
    /// # Errors
    /// [`Error::Spec`] for fewer than two folds, [`Error::Interrupted`] when `progress` asks to stop, and what
    /// [`Training::head`] returns.
    pub fn train(
        training: &Training<'_>,
        features: Features,
        embedder: &Arc<dyn Embed>,
        (l2, num_folds): (f64, usize),
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        if num_folds < 2 {
            return Err(Error::Spec(format!("{num_folds} folds; expected at least 2")));
        }
        progress.start("heads", num_folds + 1);
        let mut judges = Vec::with_capacity(num_folds + 1);
        for fold in (0..num_folds).map(Some).chain([None]) {
            let uses = |prompt: &str| fold.is_none_or(|fold| fold_of(prompt, num_folds) != fold);
            let head =
                training.head(features, &**embedder, l2, &|row| uses(row.exchange.prompt))?;
            judges.push(HeadJudge::new(head, Arc::clone(embedder))?);
            if progress.advance(1).is_break() {
                return Err(Error::Interrupted { done: judges.len(), total: num_folds + 1 });
            }
        }
        progress.finish();
        let whole = judges.pop().ok_or_else(|| Error::Spec("no head was trained".to_owned()))?;
        Ok(Self { whole, folds: judges, seen: Seen::of(training.sets()) })
    }

    /// The head that was trained on everything.
    #[must_use]
    pub fn head(&self) -> &LinearHead {
        self.whole.head()
    }
}

/// The fold of a prompt: the same on every platform and for every set it stands in.
fn fold_of(prompt: &str, num_folds: usize) -> usize {
    let digest = Sha256::digest(normalised(prompt));
    let number =
        digest.iter().take(4).fold(0_usize, |number, &byte| number << 8 | usize::from(byte));
    number % num_folds
}

impl Judge for FoldedJudge {
    fn name(&self) -> &str {
        self.whole.name()
    }

    fn property(&self) -> Property {
        self.whole.property()
    }

    fn texts<'a>(&self, answers: &[Exchange<'a>]) -> Vec<&'a str> {
        self.whole.texts(answers)
    }

    fn judge(&mut self, answers: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        let num_folds = self.folds.len();
        let mut verdicts = self.whole.judge(answers)?;
        for (fold, judge) in self.folds.iter_mut().enumerate() {
            let is_of_fold = |answer: &Exchange<'_>| {
                self.seen.has_prompt(answer.prompt) && fold_of(answer.prompt, num_folds) == fold
            };
            let of_fold: Vec<usize> =
                (0..answers.len()).filter(|&idx| is_of_fold(&answers[idx])).collect();
            let exchanges: Vec<Exchange<'_>> = of_fold.iter().map(|&idx| answers[idx]).collect();
            for (&idx, verdict) in of_fold.iter().zip(judge.judge(&exchanges)?) {
                verdicts[idx] = verdict;
            }
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::agreement::Labelled;
    use super::super::cache::testing::Letters;
    use super::super::training::NamedSet;
    use super::*;
    use crate::data::{DataSet, Item};
    use crate::progress::NoProgress;

    /// Two answers to each of 40 prompts: those with many `a` are refusals, but for one prompt the labels are wrong.
    fn set() -> NamedSet {
        let item = |number: usize, refuses: bool| Item {
            response: Some(format!(
                "{} b{}",
                if refuses { "aaaa" } else { "bbbb" },
                "c".repeat(number % 3)
            )),
            response_label: Some(
                if refuses == (number != 0) { "refusal" } else { "compliance" }.to_owned(),
            ),
            ..Item::new(format!("{number}-{refuses}"), format!("prompt {number}"), "own")
        };
        let items = (0..40).flat_map(|number| [item(number, true), item(number, false)]).collect();
        let data = DataSet::of(items, "00".repeat(32));
        NamedSet { name: "own".to_owned(), data }
    }

    #[test]
    fn a_prompt_is_judged_by_heads_that_do_not_know_it() {
        let sets = [set()];
        let training = Training::new(Property::Refusal, &sets).unwrap();
        let embedder: Arc<dyn Embed> = Arc::new(Letters::default());
        let folded =
            FoldedJudge::train(&training, Features::Opening, &embedder, (0.1, 4), &mut NoProgress);
        let mut folded = folded.unwrap();
        let answers: Vec<Exchange<'_>> = training.rows().iter().map(|row| row.exchange).collect();
        let verdicts = folded.judge(&answers).unwrap();
        let whole = folded.whole.judge(&answers).unwrap();
        for (idx, row) in training.rows().iter().enumerate() {
            let fold = fold_of(row.exchange.prompt, 4);
            let unseen = |other: &Labelled<'_>| fold_of(other.exchange.prompt, 4) != fold;
            let head = training.head(Features::Opening, &*embedder, 0.1, &unseen).unwrap();
            let expected =
                HeadJudge::new(head, Arc::clone(&embedder)).unwrap().judge(&answers).unwrap();
            assert!((verdicts[idx].score - expected[idx].score).abs() < 1e-12);
        }
        assert!(verdicts.iter().zip(&whole).any(|(a, b)| (a.score - b.score).abs() > 1e-6));
        // A prompt that no head knows is judged by the one that was trained on everything.
        let new = [Exchange { prompt: "another", response: "aaaa b" }];
        assert_eq!(folded.judge(&new).unwrap(), folded.whole.judge(&new).unwrap());
    }

    #[test]
    fn folds_depend_on_the_words_of_a_prompt_alone() {
        assert_eq!(fold_of("One  two", 5), fold_of("one two ", 5));
        let folds: std::collections::BTreeSet<usize> =
            (0..40).map(|number| fold_of(&format!("prompt {number}"), 5)).collect();
        assert_eq!(folds.len(), 5);
    }
}
