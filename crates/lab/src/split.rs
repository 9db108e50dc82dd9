//! Which prompts vectors are made from and which they are measured on.
//!
//! One rule, used by extraction and evaluation alike, so that the two sides cannot drift apart.
//! CatQA's files are sorted by subcategory, ten prompts each: the last ten of a category are a
//! subcategory that extraction never saw.

use std::collections::BTreeMap;

use skeg_vector_store::Category;

use crate::data::Item;
use crate::error::{Error, Result};

/// One side of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The first prompts of each category: what vectors are made from.
    Extraction,
    /// Every fourth prompt of [`Part::Extraction`]: what a strength may be tuned on.
    Tuning,
    /// The last prompts of each category: what figures are reported on.
    Evaluation,
}

/// How many prompts of each category go to which side, in the file's order after repeats are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitRule {
    /// At most this many from the start.
    pub num_extraction: usize,
    /// Exactly this many from the end; these are never extracted from.
    pub num_evaluation: usize,
}

/// Tuning takes one prompt in this many of the extraction side.
const TUNING_STRIDE: usize = 4;

impl SplitRule {
    /// The split of the shipped vectors on CatQA: the first 40 of a category, and the last 10.
    pub const SHIPPED: Self = Self { num_extraction: 40, num_evaluation: 10 };

    /// The items of one part by category; items without a category are left out.
    ///
    /// # Errors
    /// [`Error::Data`] when a category has too few prompts to give both sides at least one.
    pub fn part<'a>(
        &self,
        items: &'a [Item],
        part: Part,
    ) -> Result<BTreeMap<Category, Vec<&'a Item>>> {
        let mut chosen = select(items, 0, usize::MAX);
        for (category, items) in &mut chosen {
            let Some(num_before) =
                items.len().checked_sub(self.num_evaluation).filter(|&count| count > 0)
            else {
                return Err(Error::Data(format!(
                    "category `{category}` has {} different prompts; {} are kept for evaluation \
                     and at least one more is needed",
                    items.len(),
                    self.num_evaluation
                )));
            };
            let extraction = ..num_before.min(self.num_extraction);
            *items = match part {
                Part::Extraction => items[extraction].to_vec(),
                Part::Tuning => items[extraction].iter().step_by(TUNING_STRIDE).copied().collect(),
                Part::Evaluation => items[num_before..].to_vec(),
            };
        }
        Ok(chosen)
    }
}

/// Of each category, the items after the first `skip`, at most `limit` of them, in the file's order;
/// items without a category are left out.
#[must_use]
pub fn select(items: &[Item], skip: usize, limit: usize) -> BTreeMap<Category, Vec<&Item>> {
    let mut chosen: BTreeMap<Category, Vec<&Item>> = BTreeMap::new();
    for item in items {
        if let Some(category) = item.category_slug() {
            chosen.entry(category).or_default().push(item);
        }
    }
    for items in chosen.values_mut() {
        *items = items.iter().skip(skip).take(limit).copied().collect();
    }
    chosen.retain(|_, items| !items.is_empty());
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(count: usize) -> Vec<Item> {
        (0..count)
            .map(|number| Item {
                category: Some("Adult Content".to_owned()),
                harmful: Some(true),
                ..Item::new(number.to_string(), format!("prompt {number}"), "own")
            })
            .collect()
    }

    fn ids(items: &[Item], part: Part) -> Vec<String> {
        let parts = SplitRule::SHIPPED.part(items, part).unwrap();
        parts.values().flatten().map(|item| item.id.clone()).collect()
    }

    proptest! {
        #[test]
        fn extraction_and_evaluation_share_no_prompt(count in 11_usize..120) {
            let items = items(count);
            let extraction = ids(&items, Part::Extraction);
            let evaluation = ids(&items, Part::Evaluation);
            prop_assert_eq!(evaluation.len(), 10);
            prop_assert_eq!(extraction.len(), (count - 10).min(40));
            prop_assert!(extraction.iter().all(|id| !evaluation.contains(id)));
            prop_assert!(ids(&items, Part::Tuning).iter().all(|id| extraction.contains(id)));
        }
    }

    #[test]
    fn too_few_prompts_are_an_error_that_names_the_category() {
        let error = SplitRule::SHIPPED.part(&items(10), Part::Extraction).unwrap_err().to_string();
        assert!(error.contains("adult_content") && error.contains("10 different"), "{error}");
    }

    #[test]
    fn select_skips_and_limits_within_a_category() {
        let items = items(10);
        let chosen = select(&items, 7, 2);
        let ids: Vec<&str> = chosen.values().flatten().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["7", "8"]);
        assert!(select(&items, 10, 2).is_empty());
    }
}
