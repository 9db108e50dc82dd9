//! CatQA's eleven categories: the data's display names and the slugs used everywhere else.

use skeg_vector_store::Category;

/// Display name in CatQA's files, slug; in the data's order.
const NAMES: [(&str, &str); 11] = [
    ("Illegal Activity", "illegal_activity"),
    ("Child Abuse", "child_abuse"),
    ("Hate/Harass/Violence", "hate_harass_violence"),
    ("Malware Viruses", "malware_viruses"),
    ("Physical Harm", "physical_harm"),
    ("Economic Harm", "economic_harm"),
    ("Fraud/Deception", "fraud_deception"),
    ("Adult Content", "adult_content"),
    ("Political Campaigning", "political_campaigning"),
    ("Privacy Violation Activity", "privacy_violation"),
    ("Tailored Financial Advice", "tailored_financial_advice"),
];

/// The category of a CatQA display name or slug.
#[must_use]
pub fn category_of_catqa_name(name: &str) -> Option<Category> {
    let (_, slug) = NAMES.iter().find(|(display, slug)| *display == name || *slug == name)?;
    slug.parse().ok()
}

/// A name of another taxonomy as a slug, where that is a valid one. Letters beyond ASCII stay and make it invalid: left out,
/// they would make one category of two names.
pub(crate) fn slug_of_name(name: &str) -> Option<Category> {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("_").parse().ok()
}

/// All eleven, sorted as the store sorts them.
#[must_use]
pub fn catqa_categories() -> Vec<Category> {
    let mut categories: Vec<Category> =
        NAMES.iter().filter_map(|(display, _)| category_of_catqa_name(display)).collect();
    categories.sort();
    categories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_valid_slug() {
        assert_eq!(catqa_categories().len(), NAMES.len());
        for (display, slug) in NAMES {
            assert_eq!(category_of_catqa_name(display), category_of_catqa_name(slug));
        }
        assert!(category_of_catqa_name("Malware").is_none());
    }
}
