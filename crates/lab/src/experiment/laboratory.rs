//! The run of an experiment: prompts under arms, answered and judged, with arms side by side in one batch.

use std::collections::{BTreeMap, HashMap};

use skeg_vector_store::Category;

use super::judged::{Judged, judge};
use super::prompts::Prompt;
use crate::error::{Error, Result};
use crate::evaluate::{Answer, Answerer, AppliedVector, Question};
use crate::judge::Judges;
use crate::likelihood::Likelihood;
use crate::progress::Progress;

/// One condition of an experiment: what is done to the prompts of each category.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Arm {
    /// Its name in tables.
    pub name: String,
    /// The system message before every prompt.
    pub system: Option<String>,
    /// The vector for each category's prompts; empty = nothing is steered.
    pub vectors: BTreeMap<Category, AppliedVector>,
    /// Factors on the strength by a prompt's id, for conditional strength; 1 where it is not named.
    pub factors: HashMap<String, f32>,
}

impl Arm {
    /// Nothing is done.
    #[must_use]
    pub fn unsteered() -> Self {
        Self { name: "unsteered".to_owned(), ..Self::default() }
    }
}

/// Who answers and who judges.
pub struct Laboratory<'a> {
    /// The model.
    pub answerer: &'a mut dyn Answerer,
    /// The judges.
    pub judges: &'a mut Judges,
    /// Likelihood under unsteered models, where answers to harmful prompts are to be scored by it.
    pub likelihood: Option<Scorers<'a>>,
}

/// Unsteered models that score answers.
pub struct Scorers<'a> {
    /// The model that answers.
    pub own: &'a mut dyn Likelihood,
    /// Another one, which no vector was made for: what both find unlikely is more than a change of habit.
    pub second: Option<&'a mut dyn Likelihood>,
}

impl std::fmt::Debug for Scorers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scorers")
            .field("has_second", &self.second.is_some())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Laboratory<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Laboratory").field("judges", &self.judges).finish_non_exhaustive()
    }
}

/// Sets of rows in the engine at once, while arms run side by side.
const MAX_VECTORS: usize = 256;

impl Laboratory<'_> {
    /// Asks every arm's prompts and judges the answers: for each arm its judged answers in the order of its prompts.
    ///
    /// # Errors
    /// [`Error::Spec`] when a steered arm has no vector for a prompt's category, [`Error::Interrupted`], and what answering
    /// and judging return.
    pub fn run(
        &mut self,
        arms: &[(&Arm, &[Prompt])],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Vec<Judged>>> {
        let mut judged = Vec::with_capacity(arms.len());
        let mut rest = arms;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(num_together(rest));
            judged.extend(self.run_together(now, progress)?);
            rest = later;
        }
        Ok(judged)
    }

    /// The answers of one arm, unjudged: for measures by rule that need the text.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn answers(
        &mut self,
        arm: &Arm,
        prompts: &[Prompt],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        let (questions, vectors) = questions_of(&[(arm, prompts)])?;
        self.answerer.answer(&questions, &vectors, progress)
    }

    fn run_together(
        &mut self,
        arms: &[(&Arm, &[Prompt])],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Vec<Judged>>> {
        let (questions, vectors) = questions_of(arms)?;
        let answers = self.answerer.answer(&questions, &vectors, progress)?;
        let prompts: Vec<&Prompt> = arms.iter().flat_map(|(_, prompts)| *prompts).collect();
        let stated: Vec<(&str, bool)> =
            prompts.iter().map(|prompt| (prompt.text.as_str(), prompt.is_harmful)).collect();
        let mut judged = judge(self.judges, &stated, &answers, progress)?;
        if let Some(scorers) = &mut self.likelihood {
            let scored: Vec<usize> =
                (0..prompts.len()).filter(|&idx| prompts[idx].is_harmful).collect();
            let exchanges: Vec<(&str, &str)> = scored
                .iter()
                .map(|&idx| (questions[idx].prompt.as_str(), answers[idx].text.as_str()))
                .collect();
            for (&idx, nll) in scored.iter().zip(scorers.own.mean_nll(&exchanges, progress)?) {
                judged[idx].nll = nll;
            }
            if let Some(second) = &mut scorers.second {
                for (&idx, nll) in scored.iter().zip(second.mean_nll(&exchanges, progress)?) {
                    judged[idx].second_nll = nll;
                }
            }
        }
        let mut judged = judged.into_iter();
        Ok(arms.iter().map(|(_, prompts)| judged.by_ref().take(prompts.len()).collect()).collect())
    }
}

/// How many of the first arms fit together.
fn num_together(arms: &[(&Arm, &[Prompt])]) -> usize {
    let mut num_vectors = 0;
    let fits = |(arm, _): &&(&Arm, &[Prompt])| {
        num_vectors += arm.vectors.len();
        num_vectors <= MAX_VECTORS
    };
    arms.iter().take_while(fits).count().max(1)
}

fn questions_of(arms: &[(&Arm, &[Prompt])]) -> Result<(Vec<Question>, Vec<AppliedVector>)> {
    let (mut questions, mut vectors) = (Vec::new(), Vec::new());
    for (arm, prompts) in arms {
        let first = vectors.len();
        let idx_of: BTreeMap<&Category, usize> = arm.vectors.keys().zip(first..).collect();
        vectors.extend(arm.vectors.values().cloned());
        for prompt in *prompts {
            let vector_idx = idx_of.get(&prompt.category).copied();
            if vector_idx.is_none() && !idx_of.is_empty() {
                return Err(Error::Spec(format!(
                    "`{}` has no vector for category `{}` of prompt `{}`",
                    arm.name, prompt.category, prompt.id
                )));
            }
            questions.push(Question {
                system: arm.system.clone(),
                vector_idx,
                factor: arm.factors.get(&prompt.id).copied().unwrap_or(1.0),
                ..Question::new(&prompt.id, &prompt.text)
            });
        }
    }
    Ok((questions, vectors))
}
