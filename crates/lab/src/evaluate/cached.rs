//! Answers that are not made twice.
//!
//! On the CPU an answer depends on the model, the prompt and the steering alone, never on what was answered beside it, so
//! one that is kept is the one that would be made.

use std::path::Path;

use super::answer::{Answer, Answerer, AppliedVector, Question};
use super::engine_answerer::EngineAnswerer;
use super::shared_model::SharedModel;
use crate::disk_cache::{DiskCache, key_of};
use crate::error::Result;
use crate::progress::Progress;

/// An answerer with its answers on disk.
pub struct CachedAnswerer<A> {
    inner: A,
    cache: DiskCache<Answer>,
    /// What decides answers beside question and vector.
    fingerprint: String,
}

impl<A> std::fmt::Debug for CachedAnswerer<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedAnswerer").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl<A: Answerer> CachedAnswerer<A> {
    /// Answers of `inner`, kept in `folder`; `fingerprint` is whatever decides them beside question and vector: model,
    /// weights as loaded, length.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the cache cannot be opened.
    pub fn open(inner: A, folder: &Path, fingerprint: String) -> Result<Self> {
        Ok(Self { inner, cache: DiskCache::open(folder, "answers")?, fingerprint })
    }

    fn key(&self, question: &Question, vector: Option<(&AppliedVector, &str)>) -> String {
        let steering = vector
            .map(|(vector, rows)| steering_id(vector, vector.strength * question.factor, rows));
        let system = question.system.as_deref();
        key_of([
            self.fingerprint.as_bytes(),
            if system.is_some() { b"system" } else { b"" },
            system.unwrap_or_default().as_bytes(),
            question.prompt.as_bytes(),
            steering.unwrap_or_default().as_bytes(),
        ])
    }
}

impl CachedAnswerer<EngineAnswerer> {
    /// The model that answers.
    #[must_use]
    pub fn model(&self) -> &SharedModel {
        self.inner.model()
    }
}

/// What a vector does, its rows by their content.
fn steering_id(vector: &AppliedVector, strength: f32, rows: &str) -> String {
    let AppliedVector { site, operator, positions, .. } = vector;
    format!("{site:?} {operator:?} {positions:?} {:x} {rows}", strength.to_bits())
}

impl AppliedVector {
    /// What it does: two vectors with the same id do the same.
    pub(crate) fn content_id(&self) -> String {
        steering_id(self, self.strength, &rows_id(self))
    }
}

/// The content of a vector's rows.
fn rows_id(vector: &AppliedVector) -> String {
    let rows = vector.layers.iter().map(|row| {
        let values = row.values.iter().flat_map(|value| value.to_le_bytes());
        [(row.layer as u64).to_le_bytes().to_vec(), values.collect()].concat()
    });
    let rows: Vec<Vec<u8>> = rows.collect();
    key_of(rows.iter().map(Vec::as_slice))
}

impl<A: Answerer> Answerer for CachedAnswerer<A> {
    fn answer(
        &mut self,
        questions: &[Question],
        vectors: &[AppliedVector],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Answer>> {
        let rows: Vec<String> = vectors.iter().map(rows_id).collect();
        let keys = questions.iter().map(|question| {
            // A question whose vector is missing must not meet the key of an unsteered one.
            let vector = question.vector(vectors)?.zip(question.vector_idx);
            Ok(self.key(question, vector.map(|(vector, idx)| (vector, rows[idx].as_str()))))
        });
        let keys: Vec<String> = keys.collect::<Result<_>>()?;
        let missing: Vec<usize> =
            (0..keys.len()).filter(|&idx| self.cache.get(&keys[idx]).is_none()).collect();
        if progress.advance(keys.len() - missing.len()).is_break() {
            let done = keys.len() - missing.len();
            return Err(crate::Error::Interrupted { done, total: keys.len() });
        }
        let Self { inner, cache, .. } = self;
        if !missing.is_empty() {
            let asked: Vec<Question> = missing.iter().map(|&idx| questions[idx].clone()).collect();
            let mut keep = |idx: usize, answer| cache.insert(keys[missing[idx]].clone(), answer);
            inner.answer_each(&asked, vectors, &mut keep, progress)?;
        }
        let answers = keys.iter().zip(questions);
        answers
            .map(|(key, question)| {
                cache.get(key).cloned().ok_or_else(|| crate::Error::Unanswered {
                    id: question.id.clone(),
                    reason: "whoever answers left it out".to_owned(),
                })
            })
            .collect()
    }
}
