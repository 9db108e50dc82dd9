//! Likelihoods that are not computed twice.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk_cache::{DiskCache, key_of};
use crate::error::Result;
use crate::evaluate::AppliedVector;
use crate::likelihood::{Likelihood, SteeredText, TextNll};
use crate::progress::Progress;

/// A scorer with its scores on disk.
#[derive(Debug)]
pub struct KeptLikelihood<L> {
    inner: L,
    answers: DiskCache<Option<f64>>,
    texts: DiskCache<TextNll>,
    /// What decides scores beside texts and vector.
    fingerprint: String,
}

impl<L: Likelihood> KeptLikelihood<L> {
    /// Scores of `inner`, kept in `folder`; `fingerprint` is whatever decides them beside texts and vector: model, weights
    /// as loaded, and how much of a text is scored.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the cache cannot be opened.
    pub fn open(inner: L, folder: &Path, fingerprint: String) -> Result<Self> {
        let answers = DiskCache::open(folder, "likelihoods")?;
        let texts = DiskCache::open(folder, "text-likelihoods")?;
        Ok(Self { inner, answers, texts, fingerprint })
    }
}

/// Answers scored between two writes.
const CHUNK: usize = 32;

impl<L: Likelihood> Likelihood for KeptLikelihood<L> {
    fn mean_nll(
        &mut self,
        exchanges: &[(&str, &str)],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Option<f64>>> {
        let key = |(prompt, answer): &(&str, &str)| {
            key_of([self.fingerprint.as_bytes(), prompt.as_bytes(), answer.as_bytes()])
        };
        let keys: Vec<String> = exchanges.iter().map(key).collect();
        for chunk in missing(&keys, &self.answers).chunks(CHUNK) {
            let asked: Vec<(&str, &str)> = chunk.iter().map(|&idx| exchanges[idx]).collect();
            for (&idx, score) in chunk.iter().zip(self.inner.mean_nll(&asked, progress)?) {
                self.answers.insert(keys[idx].clone(), score)?;
            }
        }
        Ok(keys.iter().map(|key| self.answers.get(key).copied().flatten()).collect())
    }

    fn text_nlls(
        &mut self,
        texts: &[SteeredText<'_>],
        progress: &mut dyn Progress,
    ) -> Result<Vec<TextNll>> {
        let key = |one: &SteeredText<'_>| {
            let steering = one.vector.map(AppliedVector::content_id).unwrap_or_default();
            key_of([self.fingerprint.as_bytes(), one.text.as_bytes(), steering.as_bytes()])
        };
        let keys: Vec<String> = texts.iter().map(key).collect();
        let missing = missing(&keys, &self.texts);
        if progress.advance(keys.len() - missing.len()).is_break() {
            let done = keys.len() - missing.len();
            return Err(crate::Error::Interrupted { done, total: keys.len() });
        }
        for chunk in missing.chunks(CHUNK) {
            let asked: Vec<SteeredText<'_>> = chunk.iter().map(|&idx| texts[idx]).collect();
            for (&idx, score) in chunk.iter().zip(self.inner.text_nlls(&asked, progress)?) {
                self.texts.insert(keys[idx].clone(), score)?;
            }
        }
        Ok(keys.iter().filter_map(|key| self.texts.get(key).copied()).collect())
    }
}

/// Places of the keys that are not kept.
fn missing<T: Serialize + DeserializeOwned>(keys: &[String], cache: &DiskCache<T>) -> Vec<usize> {
    (0..keys.len()).filter(|&idx| cache.get(&keys[idx]).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skeg_model::steering::{LayerVector, Operator, Positions, Site};

    use super::*;
    use crate::progress::NoProgress;

    /// Scores by the answer's length, and counts.
    #[derive(Default)]
    struct Lengths(usize);

    impl Likelihood for Lengths {
        fn mean_nll(
            &mut self,
            exchanges: &[(&str, &str)],
            _progress: &mut dyn Progress,
        ) -> Result<Vec<Option<f64>>> {
            self.0 += exchanges.len();
            Ok(exchanges.iter().map(|(_, a)| (!a.is_empty()).then_some(a.len() as f64)).collect())
        }

        fn text_nlls(
            &mut self,
            texts: &[SteeredText<'_>],
            _progress: &mut dyn Progress,
        ) -> Result<Vec<TextNll>> {
            self.0 += texts.len();
            let sum =
                |one: &SteeredText<'_>| one.vector.map_or(0.0, |vector| f64::from(vector.strength));
            let score = |one| TextNll { sum: sum(one), num_tokens: one.text.len() };
            Ok(texts.iter().map(score).collect())
        }
    }

    #[test]
    fn a_score_is_made_once_and_belongs_to_its_model() {
        let folder = tempfile::tempdir().unwrap();
        let run = |fingerprint: &str, exchanges: &[(&str, &str)]| {
            let inner = Lengths::default();
            let fingerprint = fingerprint.to_owned();
            let mut kept = KeptLikelihood::open(inner, folder.path(), fingerprint).unwrap();
            let scores = kept.mean_nll(exchanges, &mut NoProgress).unwrap();
            (scores, kept.inner.0)
        };
        let exchanges = [("p", "ab"), ("p", ""), ("q", "ab")];
        let scores = vec![Some(2.0), None, Some(2.0)];
        assert_eq!(run("a", &exchanges), (scores.clone(), 3));
        assert_eq!(run("a", &exchanges), (scores.clone(), 0));
        assert_eq!(run("a", &[("q", "abc")]), (vec![Some(3.0)], 1));
        assert_eq!(run("b", &exchanges), (scores, 3));
    }

    #[test]
    fn a_text_is_scored_once_with_each_vector() {
        let folder = tempfile::tempdir().unwrap();
        let vector = |strength, value| AppliedVector {
            site: Site::AttnOut,
            operator: Operator::Add,
            positions: Positions::All,
            strength,
            layers: Arc::new(vec![LayerVector { layer: 1, values: vec![value] }]),
        };
        let vectors = [vector(1.0, 0.5), vector(2.0, 0.5), vector(1.0, 0.25)];
        let run = |vectors: &[Option<&AppliedVector>]| {
            let inner = Lengths::default();
            let mut kept = KeptLikelihood::open(inner, folder.path(), "a".to_owned()).unwrap();
            let texts: Vec<SteeredText<'_>> =
                vectors.iter().map(|&vector| SteeredText { text: "abc", vector }).collect();
            let scores = kept.text_nlls(&texts, &mut NoProgress).unwrap();
            (scores.iter().map(|score| score.sum).collect::<Vec<_>>(), kept.inner.0)
        };
        let [first, stronger, another] = &vectors;
        assert_eq!(run(&[None, Some(first), Some(stronger)]), (vec![0.0, 1.0, 2.0], 3));
        assert_eq!(run(&[Some(stronger), None, Some(another)]), (vec![2.0, 0.0, 1.0], 1));
    }
}
