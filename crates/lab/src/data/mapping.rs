//! From the categories of one data set to those of another: which vector a prompt of a foreign taxonomy is steered with.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use skeg_vector_store::Category;

use super::Item;
use crate::category::category_of_catqa_name;
use crate::error::{Error, Result};

/// How well a foreign category fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// It names the same thing.
    Strong,
    /// Most of its prompts fit.
    Medium,
    /// The nearest neighbour only.
    Weak,
    /// It has no counterpart.
    None,
}

/// Where values of one field lead: a category's name, and how well it fits.
type Values = BTreeMap<String, (Option<String>, Fit)>;

/// The mapping of some data sets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SetMap {
    sets: Vec<String>,
    category: Values,
    subcategory: Values,
}

/// Mappings by data set: JSON of `{name: {"sets": [...], "category": {value: [name, fit]}, "subcategory": {...}}}`.
#[derive(Debug, Clone, Default)]
pub struct CategoryMap {
    by_set: BTreeMap<String, SetMap>,
}

impl CategoryMap {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Data`] when it is no such file or names a category that cannot be one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        let bad = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
        let entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let mut by_set = BTreeMap::new();
        // A name with an underscore in front is a note.
        for (name, value) in entries.into_iter().filter(|(name, _)| !name.starts_with('_')) {
            let map: SetMap =
                serde_json::from_value(value).map_err(|error| bad(format!("`{name}`: {error}")))?;
            for (target, _) in map.category.values().chain(map.subcategory.values()) {
                if let Some(target) = target {
                    to_category(target).map_err(|error| bad(format!("`{name}`: {error}")))?;
                }
            }
            for set in map.sets.clone() {
                by_set.insert(set, map.clone());
            }
        }
        Ok(Self { by_set })
    }

    /// Whether a data set is mapped at all.
    #[must_use]
    pub fn has(&self, set: &str) -> bool {
        self.by_set.contains_key(set)
    }

    /// The category of an item of a set, if one fits at least as well as `least`; a subcategory's wins over a
    /// category's.
    #[must_use]
    pub fn category_of(&self, set: &str, item: &Item, least: Fit) -> Option<Category> {
        let map = self.by_set.get(set)?;
        let found = |values: &Values, value: Option<&String>| {
            value.and_then(|value| values.get(value).cloned())
        };
        let (target, fit) = found(&map.subcategory, item.subcategory.as_ref())
            .or_else(|| found(&map.category, item.category.as_ref()))?;
        if fit > least {
            return None;
        }
        to_category(&target?).ok()
    }
}

fn to_category(name: &str) -> std::result::Result<Category, String> {
    match category_of_catqa_name(name) {
        Some(category) => Ok(category),
        None => name.parse().map_err(|error| format!("`{name}`: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(category: &str, subcategory: Option<&str>) -> Item {
        Item {
            category: Some(category.to_owned()),
            subcategory: subcategory.map(str::to_owned),
            ..Item::new("1", "text", "own")
        }
    }

    fn map(text: &str) -> Result<CategoryMap> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mapping.json");
        std::fs::write(&path, text).unwrap();
        CategoryMap::read(&path)
    }

    #[test]
    fn a_subcategory_wins_and_a_weak_fit_is_left_out() {
        let map = map(r#"{"_note": "words", "own": {"sets": ["one", "two"],
            "category": {"Scams": ["Fraud/Deception", "strong"], "Odd": ["Economic Harm", "weak"], "X": [null, "none"]},
            "subcategory": {"viruses": ["Malware Viruses", "medium"]}}}"#)
        .unwrap();
        let of =
            |item: &Item, least| map.category_of("two", item, least).map(|one| one.to_string());
        assert_eq!(of(&item("Scams", None), Fit::Strong).as_deref(), Some("fraud_deception"));
        assert_eq!(
            of(&item("Scams", Some("viruses")), Fit::Medium).as_deref(),
            Some("malware_viruses")
        );
        assert_eq!(of(&item("Scams", Some("viruses")), Fit::Strong), None);
        assert_eq!(of(&item("Odd", None), Fit::Medium), None);
        assert_eq!(of(&item("Odd", None), Fit::Weak).as_deref(), Some("economic_harm"));
        assert_eq!(of(&item("X", None), Fit::None), None);
        assert!(map.has("one") && !map.has("own"));
    }

    #[test]
    fn a_file_that_is_none_is_an_error_that_names_it() {
        let message = |text: &str| map(text).unwrap_err().to_string();
        assert!(message("[]").contains("mapping.json"));
        assert!(message(r#"{"a": {"category": {"x": ["y", "superb"]}}}"#).contains("`a`"));
    }
}
