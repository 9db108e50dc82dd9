//! Likelihoods that are not computed twice.

use std::path::Path;

use crate::disk_cache::{DiskCache, key_of};
use crate::error::Result;
use crate::likelihood::Likelihood;
use crate::progress::Progress;

/// A scorer with its scores on disk.
#[derive(Debug)]
pub struct KeptLikelihood<L> {
    inner: L,
    cache: DiskCache<Option<f64>>,
    /// What decides scores beside prompt and answer.
    fingerprint: String,
}

impl<L: Likelihood> KeptLikelihood<L> {
    /// Scores of `inner`, kept in `folder`; `fingerprint` is whatever decides them beside prompt and answer: model, weights
    /// as loaded, and how much of a text is scored.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the cache cannot be opened.
    pub fn open(inner: L, folder: &Path, fingerprint: String) -> Result<Self> {
        Ok(Self { inner, cache: DiskCache::open(folder, "likelihoods")?, fingerprint })
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
        let missing: Vec<usize> =
            (0..keys.len()).filter(|&idx| self.cache.get(&keys[idx]).is_none()).collect();
        for chunk in missing.chunks(CHUNK) {
            let asked: Vec<(&str, &str)> = chunk.iter().map(|&idx| exchanges[idx]).collect();
            for (&idx, score) in chunk.iter().zip(self.inner.mean_nll(&asked, progress)?) {
                self.cache.insert(keys[idx].clone(), score)?;
            }
        }
        Ok(keys.iter().map(|key| self.cache.get(key).copied().flatten()).collect())
    }
}

#[cfg(test)]
mod tests {
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
}
