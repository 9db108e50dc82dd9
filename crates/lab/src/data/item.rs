//! One prompt of a data set, with what the set says about it.

use skeg_model::ChatMessage;
use skeg_vector_store::Category;

use crate::category::{category_of_catqa_name, slug_of_name};

/// One prompt, and an answer to it where the set has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Unique in its set.
    pub id: String,
    /// The prompt; of a conversation the contents of its messages, a line break between them.
    pub text: String,
    /// The messages of a conversation, of which the last is to be answered; `None` where the prompt is the one message of a user.
    pub messages: Option<Vec<ChatMessage>>,
    /// The set's own name of the category, if it has one.
    pub category: Option<String>,
    /// The set's own name of a finer category; or of several categories, joined by ` | `, where none is the one.
    pub subcategory: Option<String>,
    /// Whether the prompt is harmful; `None` where the set does not say.
    pub harmful: Option<bool>,
    /// An answer to the prompt.
    pub response: Option<String>,
    /// The set's label of that answer: `safe`, `unsafe`, `refusal`, `compliance` and others.
    pub response_label: Option<String>,
    /// Where the item is from.
    pub source: String,
    /// The id of the harmful item, in this set or another, that this one is the harmless twin of.
    pub twin_of: Option<String>,
}

impl Item {
    /// A prompt of which nothing else is said.
    #[must_use]
    pub fn new(id: impl Into<String>, text: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            text: text.into(),
            messages: None,
            category: None,
            subcategory: None,
            harmful: None,
            response: None,
            response_label: None,
            source: source.into(),
            twin_of: None,
        }
    }

    /// The conversation to be answered: the messages, or the prompt as a user's.
    #[must_use]
    pub fn conversation(&self) -> Vec<ChatMessage> {
        self.messages.clone().unwrap_or_else(|| {
            vec![ChatMessage { role: "user".to_owned(), content: self.text.clone() }]
        })
    }

    /// The category, where it is one of CatQA's (display name or slug).
    #[must_use]
    pub fn catqa_category(&self) -> Option<Category> {
        category_of_catqa_name(self.category.as_deref()?)
    }

    /// The category: CatQA's, where the name is one of CatQA's, otherwise the set's name as a slug, in lower case and
    /// with `_` for what is neither letter nor digit. `None` where that is not a slug: a name that starts
    /// with a digit, has letters beyond ASCII, is too long or is a reserved word.
    #[must_use]
    pub fn category_slug(&self) -> Option<Category> {
        self.catqa_category().or_else(|| slug_of_name(self.category.as_deref()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slug(category: &str) -> Option<String> {
        let item = Item { category: Some(category.to_owned()), ..Item::new("a", "x", "own") };
        item.category_slug().map(String::from)
    }

    #[test]
    fn catqa_names_win_over_the_slug_of_the_name() {
        // The slug of the display name would be another one.
        assert_eq!(slug("Privacy Violation Activity").as_deref(), Some("privacy_violation"));
        assert_eq!(slug("privacy_violation").as_deref(), Some("privacy_violation"));
    }

    #[test]
    fn other_names_become_slugs_where_they_can() {
        let name = "drug_abuse,weapons,banned_substance";
        assert_eq!(slug(name).as_deref(), Some("drug_abuse_weapons_banned_substance"));
        assert_eq!(slug(" Self-Harm (all ages) ").as_deref(), Some("self_harm_all_ages"));
        for name in ["", "---", "9 lives", "None", "Gewalt gegen Füße", &"long ".repeat(20)] {
            assert_eq!(slug(name), None, "{name:?}");
        }
    }
}
