//! A harm category's name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest accepted slug, in bytes; it stands in headers, metric labels and tensor names.
pub(crate) const MAX_SLUG_BYTES: usize = 64;
/// Words that mean something else where a category may stand.
pub(crate) const RESERVED: [&str; 4] = ["all", "auto", "none", "reject"];

/// A category's slug: lower snake case, a letter first, at most 64 bytes, none of the words `all`, `auto`, `none`
/// and `reject`. A category need not be one of [`Category::CATQA`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Category(String);

impl Category {
    /// The eleven categories of CatQA, in the data set's order.
    pub const CATQA: [&str; 11] = [
        "illegal_activity",
        "child_abuse",
        "hate_harass_violence",
        "malware_viruses",
        "physical_harm",
        "economic_harm",
        "fraud_deception",
        "adult_content",
        "political_campaigning",
        "privacy_violation",
        "tailored_financial_advice",
    ];

    /// Reads a slug exactly; names of other taxonomies are [`resolve_alias`](crate::resolve_alias)'s.
    ///
    /// # Errors
    /// [`ParseCategoryError`] when it is not a slug or is a reserved word.
    pub fn parse(slug: &str) -> Result<Self, ParseCategoryError> {
        let starts_with_letter = slug.starts_with(|first: char| first.is_ascii_lowercase());
        let is_slug = slug.len() <= MAX_SLUG_BYTES
            && starts_with_letter
            && !slug.ends_with('_')
            && !slug.contains("__")
            && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if is_slug && !RESERVED.contains(&slug) {
            return Ok(Self(slug.to_owned()));
        }
        Err(ParseCategoryError { found: slug.chars().take(MAX_SLUG_BYTES).collect() })
    }

    /// The slug.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a category's slug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "category {found:?}: expected lower snake case of at most 64 bytes that starts with a letter and is none of \
     `all`, `auto`, `none`, `reject`"
)]
pub struct ParseCategoryError {
    /// The first 64 characters of the text.
    pub found: String,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Category {
    type Err = ParseCategoryError;

    fn from_str(slug: &str) -> Result<Self, Self::Err> {
        Self::parse(slug)
    }
}

impl TryFrom<String> for Category {
    type Error = ParseCategoryError;

    fn try_from(slug: String) -> Result<Self, Self::Error> {
        Self::parse(&slug)
    }
}

impl From<Category> for String {
    fn from(category: Category) -> Self {
        category.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(slug: &str, accepted: bool) {
        assert_eq!(Category::parse(slug).is_ok(), accepted, "{slug:?}");
    }

    #[test]
    fn only_lower_snake_case_is_a_slug() {
        for slug in Category::CATQA {
            check(slug, true);
        }
        check("s1", true);
        check("a", true);
        for slug in ["", "_a", "1a", "a_", "a__b", "A", "a-b", "a b", "a/b", "../a", "é"] {
            check(slug, false);
        }
        check(&"a".repeat(MAX_SLUG_BYTES), true);
        check(&"a".repeat(MAX_SLUG_BYTES + 1), false);
    }

    #[test]
    fn words_with_another_meaning_are_not_categories() {
        for word in RESERVED {
            check(word, false);
        }
    }

    #[test]
    fn json_goes_through_the_same_check() {
        assert!(serde_json::from_str::<Category>("\"adult_content\"").is_ok());
        let error = serde_json::from_str::<Category>("\"Adult Content\"").unwrap_err();
        assert!(error.to_string().contains("lower snake case"), "{error}");
    }
}
