//! Labelled conversations to train and to measure on, by the set they are from.
//!
//! Sets matter more than rows: within one set harmful and harmless texts differ in style, so a split of its rows says nothing. Twins are
//! one set together with the prompts that they are twins of.

use std::collections::HashSet;

use skeg_model::ChatMessage;
use skeg_vector_store::Category;

use super::{Evasion, Verdict};
use crate::data::{DataSet, Item, normalised};
use crate::error::{Error, Result};

/// Files that are one source: what is harmful and what is harmless in them is of one style, or they are one side of it.
#[derive(Debug, Clone)]
pub struct SourceSet {
    /// The name in tables.
    pub name: String,
    /// Its files.
    pub files: Vec<DataSet>,
}

/// One labelled conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Index of its set in [`Corpus::sets`].
    pub set_idx: usize,
    /// The item's id.
    pub id: String,
    /// The messages.
    pub conversation: Vec<ChatMessage>,
    /// Whether it is harmful.
    pub harmful: bool,
    /// Index of its category in [`Corpus::categories`]; `None` where it is harmless or its set does not say.
    pub category_idx: Option<usize>,
    /// Id of the harmful prompt that it is the harmless twin of.
    pub twin_of: Option<String>,
    /// How it is disguised, where it is a copy that [`super::augment`] made of another prompt.
    pub copied_as: Option<Evasion>,
}

/// Labelled conversations of one or more sets.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// Names and hashes of the sets' files: `(name, sha256 of each file)`.
    pub sets: Vec<(String, Vec<String>)>,
    /// The categories that a probe is to know.
    pub categories: Vec<Category>,
    /// The prompts, set by set, no text twice.
    pub prompts: Vec<Prompt>,
}

impl Corpus {
    /// The items that say whether they are harmful, each text once: the first set that has it keeps it. Categories other than
    /// `categories` count as not said.
    ///
    /// # Errors
    /// [`Error::Data`] when a set has no such item, or there is no set.
    pub fn new(sources: &[SourceSet], categories: &[Category]) -> Result<Self> {
        let mut corpus =
            Self { sets: Vec::new(), categories: categories.to_vec(), prompts: Vec::new() };
        let mut seen = HashSet::new();
        for (set_idx, source) in sources.iter().enumerate() {
            let before = corpus.prompts.len();
            let items = source.files.iter().flat_map(|file| &file.items);
            for item in items {
                let Some(harmful) = item.harmful else { continue };
                if seen.insert(normalised(&item.text)) {
                    corpus.prompts.push(corpus.prompt(item, set_idx, harmful));
                }
            }
            if corpus.prompts.len() == before {
                return Err(Error::Data(format!(
                    "set `{}` has no prompt of its own with `harmful` true or false",
                    source.name
                )));
            }
            let hashes = source.files.iter().map(|file| file.sha256.clone()).collect();
            corpus.sets.push((source.name.clone(), hashes));
        }
        if corpus.prompts.is_empty() {
            return Err(Error::Data("no set of labelled prompts; give at least one".to_owned()));
        }
        Ok(corpus)
    }

    fn prompt(&self, item: &Item, set_idx: usize, harmful: bool) -> Prompt {
        let slug = if harmful { item.category_slug() } else { None };
        Prompt {
            set_idx,
            id: item.id.clone(),
            conversation: item.conversation(),
            harmful,
            category_idx: slug.and_then(|slug| self.categories.iter().position(|c| *c == slug)),
            twin_of: item.twin_of.clone(),
            copied_as: None,
        }
    }

    /// Refuses verdicts that are not one a prompt.
    ///
    /// # Errors
    /// [`Error::Data`] with both numbers.
    pub(super) fn check_verdicts(&self, verdicts: &[Verdict]) -> Result<()> {
        if self.prompts.len() == verdicts.len() {
            return Ok(());
        }
        Err(Error::Data(format!(
            "{} verdicts for {} prompts; expected as many",
            verdicts.len(),
            self.prompts.len()
        )))
    }

    /// Harmful and harmless prompts of a set, without disguised copies.
    #[must_use]
    pub fn counts(&self, set_idx: usize) -> [usize; 2] {
        let is_own = |prompt: &&Prompt| prompt.set_idx == set_idx && prompt.copied_as.is_none();
        let of_set = || self.prompts.iter().filter(is_own);
        let num_harmful = of_set().filter(|prompt| prompt.harmful).count();
        [num_harmful, of_set().count() - num_harmful]
    }

    /// Disguised copies in a set.
    #[must_use]
    pub fn num_augmented(&self, set_idx: usize) -> usize {
        let is_copy = |prompt: &&Prompt| prompt.set_idx == set_idx && prompt.copied_as.is_some();
        self.prompts.iter().filter(is_copy).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, text: &str, harmful: Option<bool>, category: &str) -> Item {
        Item { harmful, category: Some(category.to_owned()), ..Item::new(id, text, "own") }
    }

    fn set(name: &str, items: Vec<Item>) -> SourceSet {
        SourceSet { name: name.to_owned(), files: vec![DataSet::of(items, "ab".to_owned())] }
    }

    fn categories() -> Vec<Category> {
        ["fraud", "privacy"].map(|slug| Category::parse(slug).unwrap()).to_vec()
    }

    #[test]
    fn labelled_prompts_are_taken_once_with_the_categories_that_are_known() {
        let first = vec![
            item("a", "One?", Some(true), "privacy"),
            item("b", "Two?", Some(false), "privacy"),
            item("c", "Three?", None, "fraud"),
            item("d", "Four?", Some(true), "other"),
        ];
        let second =
            vec![item("e", "one?", Some(true), "fraud"), item("f", "Five?", Some(false), "")];
        let corpus = Corpus::new(&[set("x", first), set("y", second)], &categories()).unwrap();
        let found: Vec<_> = corpus
            .prompts
            .iter()
            .map(|p| (p.id.as_str(), p.set_idx, p.harmful, p.category_idx))
            .collect();
        assert_eq!(
            found,
            [
                ("a", 0, true, Some(1)),
                ("b", 0, false, None),
                ("d", 0, true, None),
                ("f", 1, false, None)
            ]
        );
        assert_eq!((corpus.counts(0), corpus.counts(1)), ([2, 1], [0, 1]));
    }

    #[test]
    fn a_set_without_a_label_is_refused() {
        let error = Corpus::new(&[set("x", vec![item("a", "t", None, "")])], &categories());
        assert!(error.unwrap_err().to_string().contains("set `x` has no prompt of its own"));
        assert!(Corpus::new(&[], &categories()).is_err());
    }
}
