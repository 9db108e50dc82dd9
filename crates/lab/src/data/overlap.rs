//! Texts that two sets share: what a vector was made from says nothing about how well it works.

use std::collections::{HashMap, HashSet};

use unicode_normalization::UnicodeNormalization as _;

use super::DataSet;
use crate::error::{Error, Result};

/// Pairs of ids that an error names.
const NUM_NAMED: usize = 10;

/// Prompts that are in both sets, as the ids of the first item with each: in `train`, in `test`; in the order of
/// `test`. Compared without regard to case, kinds and amount of whitespace, and Unicode's ways to write the
/// same characters (NFKC).
#[must_use]
pub fn overlap(train: &DataSet, test: &DataSet) -> Vec<(String, String)> {
    let mut first_with: HashMap<String, &str> = HashMap::new();
    for item in &train.items {
        first_with.entry(normalised(&item.text)).or_insert(&item.id);
    }
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for item in &test.items {
        let text = normalised(&item.text);
        if let Some(&train_id) = first_with.get(&text)
            && seen.insert(text)
        {
            pairs.push((train_id.to_owned(), item.id.clone()));
        }
    }
    pairs
}

/// Refuses sets that share a prompt.
///
/// # Errors
/// [`Error::Overlap`] with how many they share and the first ten by their ids.
pub fn refuse_overlap(train: &DataSet, test: &DataSet) -> Result<()> {
    let pairs = overlap(train, test);
    if pairs.is_empty() {
        return Ok(());
    }
    let named: Vec<String> =
        pairs.iter().take(NUM_NAMED).map(|(train, test)| format!("`{train}` = `{test}`")).collect();
    Err(Error::Overlap { num_texts: pairs.len(), pairs: named.join(", ") })
}

/// One form for all texts that read alike. Upper case first: it has one form where lower case has several, as the
/// final sigma and `ß`.
pub(crate) fn normalised(text: &str) -> String {
    let folded = text.nfkc().collect::<String>().to_uppercase().to_lowercase();
    let words: Vec<&str> = folded.split_whitespace().collect();
    // Changing the case may take characters apart again.
    words.join(" ").nfkc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Item;

    fn set(name: &str, texts: &[&str]) -> DataSet {
        let item = |(idx, text): (usize, &&str)| Item {
            response: Some(idx.to_string()),
            ..Item::new(format!("{name}-{idx}"), *text, name)
        };
        DataSet::of(texts.iter().enumerate().map(item).collect(), String::new())
    }

    #[test]
    fn texts_that_read_alike_are_the_same() {
        let train =
            set("train", &["Wie heißt die Straße?", "Caf\u{e9}  au\nlait", "ὈΔΟΣ", "other"]);
        let test =
            set("test", &["οδος", "ὀδος", "cafe\u{301} au\u{a0}lait ", "WIE HEISST DIE STRASSE?"]);
        let pairs = overlap(&train, &test);
        let expected = [("train-2", "test-1"), ("train-1", "test-2"), ("train-0", "test-3")];
        assert_eq!(pairs, expected.map(|(one, other)| (one.to_owned(), other.to_owned())));
    }

    #[test]
    fn a_text_with_several_answers_counts_once() {
        let (train, test) = (set("train", &["a", "a"]), set("test", &["a", "A", "b"]));
        assert_eq!(overlap(&train, &test), [("train-0".to_owned(), "test-0".to_owned())]);
    }

    #[test]
    fn the_refusal_names_the_first_ten_by_id_alone() {
        let texts: Vec<String> = (0..12).map(|number| format!("prompt {number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let error = refuse_overlap(&set("l", &texts), &set("r", &texts)).unwrap_err().to_string();
        assert!(error.contains("12 texts") && error.contains("`l-9` = `r-9`"), "{error}");
        assert!(!error.contains("l-10") && !error.contains("prompt"), "{error}");
        refuse_overlap(&set("l", &texts[..6]), &set("r", &texts[6..])).unwrap();
    }
}
