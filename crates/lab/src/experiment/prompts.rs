//! The prompts of an experiment.

use std::collections::BTreeMap;

use skeg_vector_store::Category;

use crate::data::Item;

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its id in its data set.
    pub id: String,
    /// What is asked.
    pub text: String,
    /// Whose vector it is steered with.
    pub category: Category,
    /// Whether it asks for harm.
    pub is_harmful: bool,
}

/// Harmful prompts under their own categories.
#[must_use]
pub fn harmful_prompts(by_category: &BTreeMap<Category, Vec<&Item>>) -> Vec<Prompt> {
    let prompts = by_category.iter().flat_map(|(category, items)| {
        items.iter().map(|item| Prompt {
            id: item.id.clone(),
            text: item.text.clone(),
            category: category.clone(),
            is_harmful: true,
        })
    });
    prompts.collect()
}

/// Harmless prompts, dealt out to the categories in turn: what a wrong category does to them.
#[must_use]
pub fn harmless_prompts<'a>(
    items: impl IntoIterator<Item = &'a Item>,
    categories: &[Category],
) -> Vec<Prompt> {
    let prompts = items.into_iter().zip(categories.iter().cycle()).map(|(item, category)| Prompt {
        id: item.id.clone(),
        text: item.text.clone(),
        category: category.clone(),
        is_harmful: false,
    });
    prompts.collect()
}

/// At most `limit` items at equal distances, so that a sorted set is sampled all over.
#[must_use]
pub fn spread<T: Copy>(items: &[T], limit: usize) -> Vec<T> {
    if items.len() <= limit {
        return items.to_vec();
    }
    (0..limit).map(|idx| items[idx * items.len() / limit]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_reaches_from_end_to_end() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(spread(&items, 4), [0, 25, 50, 75]);
        assert_eq!(spread(&items, 200), items);
        assert!(spread(&items, 0).is_empty());
    }

    #[test]
    fn harmless_prompts_meet_every_category() {
        let categories = crate::catqa_categories();
        let items: Vec<Item> =
            (0..23).map(|number| Item::new(number.to_string(), "a", "own")).collect();
        let prompts = harmless_prompts(&items, &categories);
        assert_eq!(prompts.len(), 23);
        assert_eq!(prompts[0].category, prompts[11].category);
        assert!(prompts.iter().all(|prompt| !prompt.is_harmful));
    }
}
