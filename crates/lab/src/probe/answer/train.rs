//! From the model's own answers to an answer part, and how well it knows answers to prompts of sets that it did not see.
//!
//! Harmful is an answer to a harmful prompt that does not refuse; what refuses is left out, since it is neither. Planes are fitted as
//! members are, and calibrated on scores by planes that did not see the set. Rows of all lengths of an answer count alike.

use super::measure::AnswerTable;
use super::read::AnswerRows;
use super::{AnswerPart, TrainedOnAnswers, width_of};
use crate::error::{Error, Result};
use crate::judge::FeatureRows;
use crate::logistic::{Plane, fit_classes, fit_weighted};
use crate::numbers::to_f32;
use crate::probe::member::Planes;
use crate::probe::train::balanced;
use crate::probe::{Corpus, Penalties, Probe};

/// Logit of a category of which no answer was read, among others of which some were: it is never the first.
const NEVER: f64 = -20.0;

/// Trains the answer part of a probe on answers to its training prompts, and measures it: of each set's answers by planes that did not
/// see the set. The probe needs a member on activations, whose site and layers `rows` are of.
///
/// # Errors
/// [`Error::Spec`] when the probe has no such member or the rows are of another width, [`Error::Data`] when harmful or
/// harmless answers are missing, also without one of the sets.
pub fn train_answers(
    probe: &Probe,
    corpus: &Corpus,
    rows: &AnswerRows,
    penalties: Penalties,
) -> Result<(AnswerPart, AnswerTable)> {
    let width = width_of(probe)?;
    if rows.width != width {
        return Err(Error::Spec(format!(
            "answers' rows of {} numbers; the probe's member on activations reads {width}",
            rows.width
        )));
    }
    let trainer = Trainer::new(corpus, rows, penalties);
    let held_out = trainer.held_out()?;
    let calibration = trainer.calibration(&held_out)?;
    let all: Vec<usize> = (0..trainer.looks.len()).collect();
    let part = AnswerPart {
        planes: Planes::of(&trainer.harm(&all)?, &trainer.categories()?),
        calibration,
        trained_on: trainer.trained_on(),
    };
    let scored = trainer.looks.iter().zip(&held_out);
    let scored: Vec<_> = scored.map(|(look, &z)| (look.tokens, z, look.harmful)).collect();
    Ok((part, AnswerTable::new(&scored, rows)))
}

/// One row of an answer that counts.
struct Look {
    set_idx: usize,
    category_idx: Option<usize>,
    harmful: bool,
    tokens: usize,
}

struct Trainer<'a> {
    corpus: &'a Corpus,
    rows: &'a AnswerRows,
    penalties: Penalties,
    looks: Vec<Look>,
    /// A row a look.
    features: FeatureRows,
}

impl<'a> Trainer<'a> {
    fn new(corpus: &'a Corpus, rows: &'a AnswerRows, penalties: Penalties) -> Self {
        let mut looks = Vec::new();
        let mut values = Vec::new();
        for answer in &rows.answers {
            let prompt = &corpus.prompts[answer.prompt_idx];
            if prompt.harmful && answer.refuses {
                continue;
            }
            for (tokens, row) in rows.looks(answer) {
                looks.push(Look {
                    set_idx: prompt.set_idx,
                    category_idx: prompt.category_idx,
                    harmful: prompt.harmful,
                    tokens,
                });
                values.extend_from_slice(row);
            }
        }
        Self { corpus, rows, penalties, looks, features: FeatureRows::new(values, rows.width) }
    }

    /// The plane of harm of some looks.
    fn harm(&self, look_idxs: &[usize]) -> Result<Plane> {
        let positives: Vec<bool> = look_idxs.iter().map(|&idx| self.looks[idx].harmful).collect();
        let rows = self.features.select(look_idxs);
        fit_weighted(&rows, &positives, &balanced(&positives), self.penalties.dense)
    }

    /// Logit of harm of every look by a plane that did not see its set.
    fn held_out(&self) -> Result<Vec<f64>> {
        let mut scores = vec![0.0; self.looks.len()];
        for (set_idx, (name, _)) in self.corpus.sets.iter().enumerate() {
            let (of_set, others): (Vec<usize>, Vec<usize>) =
                (0..self.looks.len()).partition(|&idx| self.looks[idx].set_idx == set_idx);
            if of_set.is_empty() {
                continue;
            }
            let plane = self.harm(&others).map_err(|error| {
                Error::Data(format!(
                    "answers without set `{name}`: {error}; an answer part needs answers to harmful prompts that do not refuse, and to \
                     harmless ones, in two sources each"
                ))
            })?;
            let planes = Planes::of(&plane, &[]);
            for idx in of_set {
                scores[idx] = planes.score(self.features.row(idx)).harm;
            }
        }
        Ok(scores)
    }

    /// What a held-out logit of harm is worth.
    fn calibration(&self, held_out: &[f64]) -> Result<[f32; 2]> {
        let rows = FeatureRows::new(held_out.iter().map(|&z| to_f32(z)).collect(), 1);
        let positives: Vec<bool> = self.looks.iter().map(|look| look.harmful).collect();
        let plane = fit_weighted(&rows, &positives, &balanced(&positives), self.penalties.stack)?;
        Ok([plane.weights[0], plane.bias].map(to_f32))
    }

    /// One plane a category. Those without an answer are never first; where fewer than two have one there is nothing to tell apart.
    fn categories(&self) -> Result<Vec<Plane>> {
        let of_category: Vec<(usize, usize)> = (self.looks.iter().enumerate())
            .filter_map(|(idx, look)| look.category_idx.map(|category| (idx, category)))
            .collect();
        let num_categories = self.corpus.categories.len();
        let has = |category: usize| of_category.iter().any(|(_, found)| *found == category);
        let known: Vec<usize> = (0..num_categories).filter(|&category| has(category)).collect();
        let level = |bias: f64| Plane { weights: vec![0.0; self.rows.width], bias };
        let mut planes: Vec<Plane> = (0..num_categories)
            .map(|category| level(if known.contains(&category) { 0.0 } else { NEVER }))
            .collect();
        if known.len() > 1 {
            let (look_idxs, classes): (Vec<usize>, Vec<usize>) = of_category
                .into_iter()
                .map(|(idx, category)| (idx, known.partition_point(|&one| one < category)))
                .unzip();
            let rows = self.features.select(&look_idxs);
            let weights = vec![1.0; classes.len()];
            let classes = (classes.as_slice(), known.len());
            let fitted = fit_classes(&rows, classes, &weights, self.penalties.dense)?;
            for (category, plane) in known.into_iter().zip(fitted) {
                planes[category] = plane;
            }
        }
        Ok(planes)
    }

    fn trained_on(&self) -> TrainedOnAnswers {
        let count = |harmful: bool, refused: bool| {
            let answers = self.rows.answers.iter();
            let of_kind = answers.filter(|answer| {
                let prompt = &self.corpus.prompts[answer.prompt_idx];
                prompt.harmful == harmful && (harmful && answer.refuses) == refused
            });
            of_kind.count()
        };
        TrainedOnAnswers {
            num_tokens: self.rows.spec.num_tokens,
            every: self.rows.spec.every,
            num_answers: [count(true, false), count(false, false)],
            num_refused: count(true, true),
        }
    }
}
