//! What judges need of an embedder, and a memory of the texts it has seen.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// Turns texts into vectors of unit length.
pub trait Embed: Send + Sync {
    /// Names the embedder and its weights: a head belongs to one embedder.
    fn id(&self) -> &str;

    /// Numbers in an embedding.
    fn width(&self) -> usize;

    /// One embedding `[width]` a text, in order, of L2 norm 1.
    ///
    /// # Errors
    /// [`crate::Error::Embedder`] when a text cannot be embedded, [`crate::Error::Interrupted`] when `progress` asks to
    /// stop.
    fn embed(&self, texts: &[&str], progress: &mut dyn Progress) -> Result<Vec<Arc<[f32]>>>;
}

/// An embedder that embeds each text once: judges ask for the same prompts and answers.
pub struct EmbeddingCache {
    inner: Arc<dyn Embed>,
    known: Mutex<HashMap<String, Arc<[f32]>>>,
}

impl std::fmt::Debug for EmbeddingCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingCache").field("len", &self.known().len()).finish_non_exhaustive()
    }
}

impl EmbeddingCache {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Embed>) -> Self {
        Self { inner, known: Mutex::default() }
    }

    /// A panic elsewhere leaves the map whole: entries are added one by one, complete.
    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<[f32]>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Embed for EmbeddingCache {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn width(&self) -> usize {
        self.inner.width()
    }

    fn embed(&self, texts: &[&str], progress: &mut dyn Progress) -> Result<Vec<Arc<[f32]>>> {
        let mut seen = HashSet::new();
        let mut new = texts.to_vec();
        {
            let known = self.known();
            new.retain(|text| !known.contains_key(*text) && seen.insert(*text));
        }
        if !new.is_empty() {
            let embeddings = self.inner.embed(&new, progress)?;
            let new = new.iter().map(|&text| text.to_owned());
            self.known().extend(new.zip(embeddings));
        }
        let known = self.known();
        let found = texts.iter().map(|&text| known.get(text).cloned());
        found.collect::<Option<_>>().ok_or_else(|| Error::Embedder {
            path: self.id().into(),
            reason: format!("gave fewer embeddings than the {} texts it was given", texts.len()),
        })
    }
}

/// An embedder for tests: letter counts, normalised.
#[cfg(test)]
pub(super) mod testing {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::progress::NoProgress;

    #[derive(Debug, Default)]
    pub(crate) struct Letters {
        pub(crate) num_embedded: AtomicUsize,
    }

    impl Embed for Letters {
        fn id(&self) -> &str {
            "letters"
        }

        fn width(&self) -> usize {
            26
        }

        fn embed(&self, texts: &[&str], _progress: &mut dyn Progress) -> Result<Vec<Arc<[f32]>>> {
            self.num_embedded.fetch_add(texts.len(), Ordering::Relaxed);
            let embedding = |text: &&str| {
                let mut counts = [0.0_f32; 26];
                for letter in text.to_lowercase().bytes().filter(u8::is_ascii_lowercase) {
                    counts[usize::from(letter - b'a')] += 1.0;
                }
                let norm = counts.iter().map(|count| count * count).sum::<f32>().sqrt().max(1.0);
                counts.iter().map(|count| count / norm).collect()
            };
            Ok(texts.iter().map(embedding).collect())
        }
    }

    #[test]
    fn a_text_is_embedded_once() {
        let letters = Arc::new(Letters::default());
        let cache = EmbeddingCache::new(letters.clone());
        let first = cache.embed(&["abc", "b", "abc"], &mut NoProgress).unwrap();
        let second = cache.embed(&["b", "d"], &mut NoProgress).unwrap();
        assert_eq!(letters.num_embedded.load(Ordering::Relaxed), 3);
        assert_eq!((&first[0], &first[1]), (&first[2], &second[0]));
        assert_eq!(second[1].iter().position(|&count| count > 0.5), Some(3));
    }
}
