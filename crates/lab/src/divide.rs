//! The prompts of each category in three parts: to extract from, to choose on, and to test on.
//!
//! In the data's order, so that a set that is sorted by subcategory (`CatQA`) is tested on subcategories that nothing was made
//! from or chosen on. A prompt that stands in several rows, with several answers, goes to one part with all of them. One that
//! stands under several categories is left out where an earlier part has it under another.

use std::collections::{BTreeMap, HashMap, HashSet};

use skeg_vector_store::Category;

use crate::data::{Item, normalised};
use crate::error::{Error, Result};

/// How much of each category's prompts goes where; the rest is the test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Vectors are made from them.
    pub extraction: f64,
    /// Settings are chosen on them.
    pub calibration: f64,
}

impl Default for Shares {
    /// 60 % and 20 %: of `CatQA`'s five subcategories three, one, and one.
    fn default() -> Self {
        Self { extraction: 0.6, calibration: 0.2 }
    }
}

/// One category's items in parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Divided<'a> {
    /// To extract from: all rows of their prompts.
    pub extraction: Vec<&'a Item>,
    /// To choose on: the first row of each prompt.
    pub calibration: Vec<&'a Item>,
    /// To test on: the first row of each prompt.
    pub test: Vec<&'a Item>,
}

/// Fewest prompts of a category: one for each half of the extraction, more would be better, and one for each other part.
const MIN_PROMPTS: usize = 5;

impl Shares {
    /// Divides items with a category, prompt by prompt.
    ///
    /// # Errors
    /// [`Error::Spec`] for shares that leave a part empty, [`Error::Data`] when there is no item with a category or a
    /// category has too few prompts.
    pub fn divide<'a>(
        self,
        items: impl IntoIterator<Item = &'a Item>,
    ) -> Result<BTreeMap<Category, Divided<'a>>> {
        let Self { extraction, calibration } = self;
        if !(extraction > 0.0 && calibration > 0.0 && extraction + calibration < 1.0) {
            return Err(Error::Spec(format!(
                "shares of {extraction} for extraction and {calibration} for calibration; expected two above 0 that leave \
                 something for the test"
            )));
        }
        let mut prompts: BTreeMap<Category, Vec<Vec<&Item>>> = BTreeMap::new();
        let mut place: HashMap<(Category, String), usize> = HashMap::new();
        for item in items {
            let Some(category) = item.category_slug() else { continue };
            let rows = prompts.entry(category.clone()).or_default();
            let idx = *place.entry((category, normalised(&item.text))).or_insert(rows.len());
            match rows.get_mut(idx) {
                Some(rows) => rows.push(item),
                None => rows.push(vec![item]),
            }
        }
        if prompts.is_empty() {
            return Err(Error::Data(
                "no item has a category and is on the unsafe side: `harmful: true`, or a `response_label` of unsafe or \
                 compliance"
                    .to_owned(),
            ));
        }
        let divided = prompts.into_iter().map(|(category, rows)| self.parts(category, &rows));
        leave_out_seen(divided.collect::<Result<_>>()?)
    }

    fn parts<'a>(
        self,
        category: Category,
        prompts: &[Vec<&'a Item>],
    ) -> Result<(Category, Divided<'a>)> {
        let count = prompts.len();
        if count < MIN_PROMPTS {
            return Err(Error::Data(format!(
                "category `{category}` has {count} different prompts; at least {MIN_PROMPTS} are needed to extract from, to \
                 choose on and to test on, and some fifty for figures that say something"
            )));
        }
        // 0.6 + 0.3 is a little less than 0.9.
        let upto =
            |share: f64| (1..count).filter(|&n| n as f64 <= share * count as f64 + 1e-6).count();
        let end = upto(self.extraction).clamp(2, count - 2);
        let next = upto(self.extraction + self.calibration).clamp(end + 1, count - 1);
        let firsts = |rows: &[Vec<&'a Item>]| -> Vec<&'a Item> {
            rows.iter().filter_map(|rows| rows.first().copied()).collect()
        };
        let parts = Divided {
            extraction: prompts[..end].concat(),
            calibration: firsts(&prompts[end..next]),
            test: firsts(&prompts[next..]),
        };
        Ok((category, parts))
    }
}

/// What a vector of any category is made from is chosen on and tested on nowhere, and what is chosen on is not tested on.
fn leave_out_seen(
    mut divided: BTreeMap<Category, Divided<'_>>,
) -> Result<BTreeMap<Category, Divided<'_>>> {
    let texts = |of: for<'p, 'd> fn(&'p Divided<'d>) -> &'p Vec<&'d Item>| -> HashSet<String> {
        divided.values().flat_map(of).map(|item| normalised(&item.text)).collect()
    };
    let (extracted, chosen) = (texts(|parts| &parts.extraction), texts(|parts| &parts.calibration));
    for (category, parts) in &mut divided {
        parts.calibration.retain(|item| !extracted.contains(&normalised(&item.text)));
        parts.test.retain(|item| {
            let text = normalised(&item.text);
            !extracted.contains(&text) && !chosen.contains(&text)
        });
        if parts.calibration.is_empty() || parts.test.is_empty() {
            return Err(Error::Data(format!(
                "category `{category}` has no prompt left to choose on or to test on: other categories have the same ones and \
                 extract from them; give it prompts of its own"
            )));
        }
    }
    Ok(divided)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(count: usize) -> Vec<Item> {
        let item = |number: usize| Item {
            category: Some("Adult Content".to_owned()),
            ..Item::new(number.to_string(), format!("prompt {}", number % 37), "own")
        };
        (0..count).map(item).collect()
    }

    proptest! {
        #[test]
        fn parts_share_no_prompt_and_are_not_empty(
            count in 5_usize..90, extraction in 0.05_f64..0.9, rest in 0.1_f64..0.9,
        ) {
            let items = items(count);
            let shares = Shares { extraction, calibration: (1.0 - extraction) * rest };
            let divided = shares.divide(&items).unwrap();
            let Divided { extraction, calibration, test } = divided.into_values().next().unwrap();
            prop_assert!(extraction.len() > 1 && !calibration.is_empty() && !test.is_empty());
            let distinct = count.min(37);
            prop_assert_eq!(extraction.len() + calibration.len() + test.len() >= distinct, true);
            let has = |part: &[&Item], item: &Item| part.iter().any(|other| other.text == item.text);
            prop_assert!(!extraction.iter().any(|item| has(&calibration, item) || has(&test, item)));
            prop_assert!(!calibration.iter().any(|item| has(&test, item)));
        }
    }

    #[test]
    fn catqa_s_fifty_are_thirty_ten_and_ten() {
        let items: Vec<Item> = (0..50)
            .map(|number| Item { text: format!("{number}"), ..items(1)[0].clone() })
            .collect();
        let divided = Shares::default().divide(&items).unwrap().into_values().next().unwrap();
        let counts = (divided.extraction.len(), divided.calibration.len(), divided.test.len());
        assert_eq!(counts, (30, 10, 10));
        assert_eq!(divided.test[0].text, "40");
        // 0.6 and 0.3 make a little less than 0.9.
        let shares = Shares { extraction: 0.6, calibration: 0.3 };
        let divided = shares.divide(&items).unwrap().into_values().next().unwrap();
        let counts = (divided.extraction.len(), divided.calibration.len(), divided.test.len());
        assert_eq!(counts, (30, 15, 5));
    }

    #[test]
    fn a_prompt_of_two_categories_is_not_tested_on_where_either_extracts_from_it() {
        let of = |category: &str, numbers: &[usize]| -> Vec<Item> {
            let item = |number: &usize| Item {
                category: Some(category.to_owned()),
                ..Item::new(format!("{category} {number}"), format!("prompt {number}"), "own")
            };
            numbers.iter().map(item).collect()
        };
        // Six to extract from, two to choose on, two to test on.
        let first = of("adult_content", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let second =
            |last: [usize; 4]| of("child_abuse", &[&[20, 21, 22, 23, 24, 25][..], &last].concat());
        let items = [first.clone(), second([5, 26, 6, 9])].concat();
        let divided = Shares::default().divide(&items).unwrap();
        let texts =
            |part: &[&Item]| -> Vec<String> { part.iter().map(|item| item.text.clone()).collect() };
        let parts = |slug: &str| &divided[&slug.parse::<Category>().unwrap()];
        assert_eq!(texts(&parts("child_abuse").calibration), ["prompt 26"]);
        assert_eq!(texts(&parts("child_abuse").test), ["prompt 9"]);
        let Divided { extraction, calibration, test } = parts("adult_content");
        assert_eq!((extraction.len(), calibration.len(), test.len()), (6, 2, 2));
        for last in [[26, 27, 0, 7], [0, 1, 26, 27]] {
            let items = [first.clone(), second(last)].concat();
            let error = Shares::default().divide(&items).unwrap_err().to_string();
            assert!(error.contains("`child_abuse` has no prompt left"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_divided_is_an_error_that_says_why() {
        let message =
            |shares: Shares, items: &[Item]| shares.divide(items).unwrap_err().to_string();
        assert!(message(Shares::default(), &items(4)).contains("`adult_content` has 4 different"));
        assert!(message(Shares::default(), &[]).contains("harmful: true"));
        let all = Shares { extraction: 0.8, calibration: 0.2 };
        assert!(message(all, &items(10)).contains("leave something for the test"));
    }
}
