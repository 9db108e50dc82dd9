//! The project's own contrast texts: safe answers and neutral openings, by category.
//!
//! A contrast vector points from a compliant opening to a safe answer to the same prompt. The texts
//! are written by this repository's authors and lie in `vectors/contrast/`; the prompts are read from
//! data when vectors are made and are stored nowhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use skeg_vector_store::Category;

use crate::data::Item;
use crate::error::{Error, Result};
use crate::extract::{CategoryInputs, Text};

/// Fewest texts of each kind: with fewer, the vector is that of a few sentences.
const MIN_TEXTS: usize = 20;

/// The files, in the order of their names.
const FILES: [(&str, &str); 11] = [
    ("adult_content", include_str!("../../../vectors/contrast/adult_content.toml")),
    ("child_abuse", include_str!("../../../vectors/contrast/child_abuse.toml")),
    ("economic_harm", include_str!("../../../vectors/contrast/economic_harm.toml")),
    ("fraud_deception", include_str!("../../../vectors/contrast/fraud_deception.toml")),
    ("hate_harass_violence", include_str!("../../../vectors/contrast/hate_harass_violence.toml")),
    ("illegal_activity", include_str!("../../../vectors/contrast/illegal_activity.toml")),
    ("malware_viruses", include_str!("../../../vectors/contrast/malware_viruses.toml")),
    ("physical_harm", include_str!("../../../vectors/contrast/physical_harm.toml")),
    ("political_campaigning", include_str!("../../../vectors/contrast/political_campaigning.toml")),
    ("privacy_violation", include_str!("../../../vectors/contrast/privacy_violation.toml")),
    (
        "tailored_financial_advice",
        include_str!("../../../vectors/contrast/tailored_financial_advice.toml"),
    ),
];

/// The contrast texts of one category.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastTexts {
    /// Answers that decline, say why and offer something else.
    pub safe_answers: Vec<String>,
    /// How a fluent, compliant and harmless answer begins.
    pub compliant_openings: Vec<String>,
}

/// The contrast texts of all categories, as built into the program.
#[derive(Debug, Clone)]
pub struct ContrastSet {
    by_category: BTreeMap<Category, ContrastTexts>,
    sha256: String,
}

impl ContrastSet {
    /// The texts of `vectors/contrast/`.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is not valid, has too few texts or repeats one.
    pub fn built_in() -> Result<Self> {
        let mut hasher = Sha256::new();
        let mut by_category = BTreeMap::new();
        for (slug, content) in FILES {
            hasher.update(content);
            let (category, texts) = parse(slug, content)
                .map_err(|reason| Error::Data(format!("vectors/contrast/{slug}.toml: {reason}")))?;
            by_category.insert(category, texts);
        }
        Ok(Self { by_category, sha256: encode_string(&hasher.finalize()) })
    }

    /// Lower-case hex SHA-256 over the files' bytes, in order of their names.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The texts by category.
    #[must_use]
    pub fn by_category(&self) -> &BTreeMap<Category, ContrastTexts> {
        &self.by_category
    }

    /// Adds the texts of a folder with one file a category, `<category>.toml`, in the form of `vectors/contrast`; they take
    /// the place of built-in ones.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read, [`Error::Data`] naming the file that is not valid or has too few texts.
    pub fn with_folder(mut self, folder: &Path) -> Result<Self> {
        let io = |source| Error::io(folder, source);
        let entries: std::io::Result<Vec<_>> = std::fs::read_dir(folder).map_err(io)?.collect();
        let mut paths: Vec<PathBuf> =
            entries.map_err(io)?.iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        let mut hasher = Sha256::new();
        hasher.update(&self.sha256);
        for path in paths {
            let content =
                std::fs::read_to_string(&path).map_err(|source| Error::io(&path, source))?;
            hasher.update(&content);
            let slug = path.file_stem().unwrap_or_default().to_string_lossy();
            let (category, texts) = parse(&slug, &content)
                .map_err(|reason| Error::Data(format!("{}: {reason}", path.display())))?;
            self.by_category.insert(category, texts);
        }
        self.sha256 = encode_string(&hasher.finalize());
        Ok(self)
    }

    /// The texts for a category: its own, or those of all categories, which decline and comply in general words too.
    fn texts_for(&self, category: &Category) -> ContrastTexts {
        if let Some(own) = self.by_category.get(category) {
            return own.clone();
        }
        let all = || self.by_category.values();
        // One of each category in turn, so that a few prompts meet many categories' words.
        let in_turn = |of: fn(&ContrastTexts) -> &Vec<String>| {
            let most = all().map(|texts| of(texts).len()).max().unwrap_or_default();
            let row = |idx: usize| all().filter_map(move |texts| of(texts).get(idx).cloned());
            (0..most).flat_map(row).collect()
        };
        ContrastTexts {
            safe_answers: in_turn(|texts| &texts.safe_answers),
            compliant_openings: in_turn(|texts| &texts.compliant_openings),
        }
    }

    /// Puts an answer and an opening behind each category's prompts: prompt i takes text i modulo the number of texts. A
    /// category without texts of its own takes those of all in turn.
    ///
    /// # Errors
    /// [`Error::Data`] when there are no texts at all.
    pub fn pair_with(
        &self,
        prompts: &BTreeMap<Category, Vec<&Item>>,
    ) -> Result<Vec<CategoryInputs>> {
        prompts
            .iter()
            .map(|(category, items)| {
                let texts = self.texts_for(category);
                check(&texts).map_err(|reason| {
                    Error::Data(format!("contrast texts for category `{category}`: {reason}"))
                })?;
                let pair = |responses: &[String]| -> Vec<Text> {
                    let responses = responses.iter().cycle();
                    items
                        .iter()
                        .zip(responses)
                        .map(|(item, response)| Text::with_response(&item.id, &item.text, response))
                        .collect()
                };
                Ok(CategoryInputs {
                    category: category.clone(),
                    unsafe_side: pair(&texts.compliant_openings),
                    safe_side: pair(&texts.safe_answers),
                })
            })
            .collect()
    }
}

fn parse(slug: &str, content: &str) -> Result<(Category, ContrastTexts), String> {
    let category = slug.parse().map_err(|error| format!("file name: {error}"))?;
    let texts: ContrastTexts = toml::from_str(content).map_err(|error| error.to_string())?;
    check(&texts)?;
    Ok((category, texts))
}

fn check(texts: &ContrastTexts) -> Result<(), String> {
    for (name, list) in
        [("safe_answers", &texts.safe_answers), ("compliant_openings", &texts.compliant_openings)]
    {
        if list.len() < MIN_TEXTS {
            return Err(format!("{name} has {} texts; at least {MIN_TEXTS} needed", list.len()));
        }
        for (idx, text) in list.iter().enumerate() {
            if text.trim().is_empty() || list[..idx].contains(text) {
                return Err(format!("{name}[{idx}] is empty or repeats an earlier one"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::is_refusal;

    #[test]
    fn the_built_in_texts_cover_all_categories() {
        let set = ContrastSet::built_in().unwrap();
        let categories: Vec<Category> = set.by_category().keys().cloned().collect();
        assert_eq!(categories, crate::catqa_categories());
    }

    /// The judge and the texts must mean the same by a refusal.
    #[test]
    fn safe_answers_refuse_and_openings_do_not() {
        let set = ContrastSet::built_in().unwrap();
        for (category, texts) in set.by_category() {
            for answer in &texts.safe_answers {
                assert!(is_refusal(answer), "{category}: {answer}");
            }
            for opening in &texts.compliant_openings {
                assert!(!is_refusal(opening), "{category}: {opening}");
            }
        }
    }

    /// A difference in length would be a direction of its own.
    #[test]
    fn both_sides_are_of_similar_length() {
        let set = ContrastSet::built_in().unwrap();
        let mean_words = |texts: &[String]| {
            texts.iter().map(|text| text.split_whitespace().count()).sum::<usize>() as f64
                / texts.len() as f64
        };
        for (category, texts) in set.by_category() {
            let ratio = mean_words(&texts.safe_answers) / mean_words(&texts.compliant_openings);
            assert!((0.7..1.4).contains(&ratio), "{category}: {ratio}");
        }
    }

    #[test]
    fn a_new_category_takes_all_texts_in_turn_or_a_file_of_its_own() {
        let category: Category = "gambling".parse().unwrap();
        let items: Vec<Item> =
            (0..30).map(|n| Item::new(n.to_string(), "a prompt", "own")).collect();
        let prompts = BTreeMap::from([(category, items.iter().collect())]);
        let built_in = ContrastSet::built_in().unwrap();
        let inputs = built_in.pair_with(&prompts).unwrap();
        let firsts = built_in.by_category().values().map(|texts| &texts.safe_answers[0]);
        for (text, first) in inputs[0].safe_side.iter().zip(firsts) {
            assert_eq!(text.response.as_ref(), Some(first));
        }
        let folder = tempfile::tempdir().unwrap();
        let lines = |word: &str| {
            let texts: Vec<String> = (0..20).map(|n| format!("\"{word} {n}.\"")).collect();
            texts.join(", ")
        };
        let path = folder.path().join("gambling.toml");
        let content =
            format!("safe_answers = [{}]\ncompliant_openings = [{}]\n", lines("No"), lines("Yes"));
        std::fs::write(&path, content).unwrap();
        let own = built_in.clone().with_folder(folder.path()).unwrap();
        assert_ne!(own.sha256(), built_in.sha256());
        let inputs = own.pair_with(&prompts).unwrap();
        assert_eq!(inputs[0].safe_side[21].response.as_deref(), Some("No 1."));
        std::fs::write(&path, "safe_answers = [\"a\"]\ncompliant_openings = []\n").unwrap();
        let error = built_in.with_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("gambling.toml: safe_answers has 1 texts"), "{error}");
    }

    #[test]
    fn texts_are_dealt_to_prompts_in_turn() {
        let set = ContrastSet::built_in().unwrap();
        let category: Category = "adult_content".parse().unwrap();
        let items: Vec<Item> =
            (0..25).map(|number| Item::new(number.to_string(), "a prompt", "own")).collect();
        let prompts = BTreeMap::from([(category.clone(), items.iter().collect())]);
        let inputs = set.pair_with(&prompts).unwrap();
        let texts = &set.by_category()[&category];
        let num_texts = texts.safe_answers.len();
        for (number, text) in inputs[0].safe_side.iter().enumerate() {
            assert_eq!(text.response.as_ref(), Some(&texts.safe_answers[number % num_texts]));
        }
        assert_eq!(inputs[0].unsafe_side.len(), 25);
    }
}
