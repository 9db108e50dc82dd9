//! How a data file is to be read.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How a data file is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// What the fields of a row mean.
    pub layout: Layout,
    /// The fields of [`Layout::Generic`]; the other layouts do not look at them.
    pub fields: FieldNames,
    /// What is done with labels in conflict.
    pub on_conflict: OnConflict,
}

/// What the fields of a row mean. Where a layout has no ids, an item's is `<file stem>-<row>`, rows counted from 1;
/// where it has no source, that is the file's stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// The lab's own form: `id`, `text` and `source`, and `category`, `subcategory`, `harmful`, `response`,
    /// `response_label` and `twin_of`, each of which may be null or absent.
    #[default]
    Skeg,
    /// CatQA's files: `Question`, `Category`, and `Subcategory`, which may be absent. Every prompt is harmful.
    CatQa,
    /// BeaverTails: `prompt`, `response`, `is_safe` (of the answer), and `category`: an object of booleans, JSON text
    /// of one, or one name.
    BeaverTails,
    /// PKU-SafeRLHF: `prompt`, `response_0`, `response_1`, `is_response_0_safe`, `is_response_1_safe`, and in later
    /// versions `response_0_harm_category` and `response_1_harm_category`. A row gives two items, whose
    /// ids end in `-0` and `-1`.
    PkuSafeRlhf,
    /// Alpaca: `instruction`, and `input` and `output`, which may be empty. Every prompt is harmless.
    Alpaca,
    /// Fields by the names in [`ReadOptions::fields`].
    Generic,
    /// The layout that the first row's fields fit, the specific ones first.
    Auto,
}

/// Every layout by name.
const LAYOUTS: [(&str, Layout); 7] = [
    ("skeg", Layout::Skeg),
    ("catqa", Layout::CatQa),
    ("beavertails", Layout::BeaverTails),
    ("pku_saferlhf", Layout::PkuSafeRlhf),
    ("alpaca", Layout::Alpaca),
    ("generic", Layout::Generic),
    ("auto", Layout::Auto),
];

impl Layout {
    /// Its name, as [`FromStr`] reads it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skeg => "skeg",
            Self::CatQa => "catqa",
            Self::BeaverTails => "beavertails",
            Self::PkuSafeRlhf => "pku_saferlhf",
            Self::Alpaca => "alpaca",
            Self::Generic => "generic",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name("data layout", name, &LAYOUTS)
    }
}

/// What is done with items of the same prompt and answer that differ in `harmful`, category or the answer's label.
/// One that says nothing differs from one that says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Reading ends with an error that names both.
    #[default]
    Error,
    /// All of them are left out and counted: nothing says which label is right.
    Drop,
}

impl FromStr for OnConflict {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name("answer to conflicts", name, &[("error", Self::Error), ("drop", Self::Drop)])
    }
}

fn by_name<T: Copy>(what: &str, name: &str, known: &[(&str, T)]) -> Result<T> {
    let found = known.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        Error::Data(format!("unknown {what} `{name}`; expected one of {}", names.join(", ")))
    })
}

/// Names that a field may have in [`Layout::Generic`]: of each list, the first that a row has and that is not null.
/// With an empty list the field is not read; only `text` must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldNames {
    /// Of the id, text or a whole number; made where a row has none.
    pub id: Vec<String>,
    /// Of the prompt.
    pub text: Vec<String>,
    /// Of an answer to it.
    pub response: Vec<String>,
    /// Of the category: a name, or an object of booleans.
    pub category: Vec<String>,
    /// Of the boolean that says whether the prompt is harmful.
    pub harmful: Vec<String>,
    /// Of the answer's label: `safe`, `unsafe`, `refusal`, `compliance` and others. A mere `label` is not among
    /// the default names: in some sets it is the prompt's.
    pub label: Vec<String>,
}

impl Default for FieldNames {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            id: names(&["id"]),
            text: names(&["text", "prompt", "instruction", "question"]),
            response: names(&["response", "output", "answer", "completion"]),
            category: names(&["category"]),
            harmful: names(&["harmful", "is_harmful"]),
            label: names(&["response_label"]),
        }
    }
}

impl FieldNames {
    /// The lists with the names of what they are for.
    pub(super) fn lists(&self) -> [(&'static str, &[String]); 6] {
        [
            ("id", &self.id),
            ("text", &self.text),
            ("response", &self.response),
            ("category", &self.category),
            ("harmful", &self.harmful),
            ("label", &self.label),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layouts_are_read_as_they_are_written() {
        for (name, layout) in LAYOUTS {
            assert_eq!(layout.to_string(), name);
            assert_eq!(name.parse::<Layout>().unwrap(), layout);
        }
        let error = "csv".parse::<Layout>().unwrap_err().to_string();
        assert!(error.contains("`csv`") && error.contains("beavertails"), "{error}");
        assert_eq!("drop".parse::<OnConflict>().unwrap(), OnConflict::Drop);
        assert!("keep".parse::<OnConflict>().unwrap_err().to_string().contains("error, drop"));
    }
}
