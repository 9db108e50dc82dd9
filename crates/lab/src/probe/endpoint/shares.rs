//! From another taxonomy's names to shares of our categories.

use std::collections::BTreeMap;

use skeg_vector_store::{Category, resolve_alias};

use crate::probe::Verdict;

/// The categories of a verdict, and what an endpoint's own names mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) categories: &'a [Category],
    pub(super) map: &'a BTreeMap<String, Category>,
}

impl Names<'_> {
    /// The category that a name means: as the map says, or as its slug, or as another taxonomy has it.
    fn position(self, name: &str) -> Option<usize> {
        let position = |slug: &str| self.categories.iter().position(|own| own.as_str() == slug);
        if let Some(category) = self.map.get(name) {
            return position(category.as_str());
        }
        position(name).or_else(|| position(resolve_alias(name)?.as_str()))
    }
}

/// Scores of names, gathered by the categories they mean.
#[derive(Debug)]
pub(super) struct ScoresByCategory<'a> {
    names: Names<'a>,
    /// The largest score of the names that mean it; they overlap, so they do not add up.
    scores: Vec<f64>,
    /// The largest score of the names that mean none of them.
    other: f64,
}

impl<'a> ScoresByCategory<'a> {
    pub(super) fn new(names: Names<'a>) -> Self {
        Self { names, scores: vec![0.0; names.categories.len()], other: 0.0 }
    }

    /// Whether a name means one of the categories.
    pub(super) fn is_mapped(&self, name: &str) -> bool {
        self.names.position(name).is_some()
    }

    /// Adds a name's score, 0 or more.
    pub(super) fn add(&mut self, name: &str, score: f64) {
        let kept = match self.names.position(name) {
            Some(idx) => &mut self.scores[idx],
            None => &mut self.other,
        };
        *kept = kept.max(score);
    }

    /// The largest score of all.
    pub(super) fn max(&self) -> f64 {
        self.scores.iter().copied().fold(self.other, f64::max)
    }

    /// The verdict with this probability of harm. Shares are `(score_c + other / C) / (sum_c score_c + other)`: a name that means
    /// none of the C categories says nothing of which it is, so its score goes to all alike.
    pub(super) fn verdict(&self, harm: f64) -> Verdict {
        let num_categories = self.names.categories.len() as f64;
        let total = self.scores.iter().sum::<f64>() + self.other;
        let share = |score: f64| {
            if total > 0.0 {
                (score + self.other / num_categories) / total
            } else {
                1.0 / num_categories
            }
        };
        let shares = self.scores.iter().map(|&score| share(score));
        Verdict::new(harm, self.names.categories.iter().cloned().zip(shares))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NO_MAP: BTreeMap<String, Category> = BTreeMap::new();

    fn shares_of(slugs: &[&str], scores: &[(&str, f64)]) -> Vec<(String, f32)> {
        let categories: Vec<Category> =
            slugs.iter().map(|slug| Category::parse(slug).unwrap()).collect();
        let names = Names { categories: &categories, map: &NO_MAP };
        let mut gathered = ScoresByCategory::new(names);
        for (name, score) in scores {
            gathered.add(name, *score);
        }
        let shares = gathered.verdict(0.0).categories;
        let sum: f32 = shares.iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{shares:?}");
        shares.into_iter().map(|(category, share)| (category.as_str().to_owned(), share)).collect()
    }

    fn check(slugs: &[&str], scores: &[(&str, f64)], expected: &[(&str, f32)]) {
        let found = shares_of(slugs, scores);
        assert_eq!(found.len(), expected.len());
        for ((slug, share), (expected_slug, expected_share)) in found.iter().zip(expected) {
            assert_eq!(slug, expected_slug, "{found:?}");
            assert!((share - expected_share).abs() < 1e-6, "{found:?}");
        }
    }

    const SLUGS: [&str; 3] = ["adult_content", "hate_harass_violence", "own_words"];

    #[test]
    fn names_of_one_category_count_once_by_the_largest() {
        let scores =
            [("hate", 0.2), ("hate/threatening", 0.6), ("sexual", 0.2), ("own_words", 0.2)];
        let expected = [("hate_harass_violence", 0.6), ("adult_content", 0.2), ("own_words", 0.2)];
        check(&SLUGS, &scores, &expected);
    }

    #[test]
    fn names_without_a_category_leave_the_shares_uniform() {
        let uniform = SLUGS.map(|slug| (slug, 1.0 / 3.0));
        check(&SLUGS, &[], &uniform);
        check(&SLUGS, &[("S8", 1.0), ("weather", 0.4)], &uniform);
        // A category that is known elsewhere and not here.
        check(&SLUGS, &[("self-harm", 0.9)], &uniform);
        let mixed = [("adult_content", 2.0 / 3.0), (SLUGS[1], 1.0 / 6.0), (SLUGS[2], 1.0 / 6.0)];
        check(&SLUGS, &[("S12", 0.5), ("S8", 0.5)], &mixed);
    }

    #[test]
    fn the_largest_score_may_be_one_without_a_category() {
        let categories = [Category::parse("adult_content").unwrap()];
        let names = Names { categories: &categories, map: &NO_MAP };
        let mut gathered = ScoresByCategory::new(names);
        assert!(gathered.is_mapped("sexual") && !gathered.is_mapped("self-harm"));
        gathered.add("sexual", 0.3);
        assert!((gathered.max() - 0.3).abs() < 1e-12);
        gathered.add("weather", 0.8);
        assert!((gathered.max() - 0.8).abs() < 1e-12);
    }

    #[test]
    fn what_the_map_says_goes_before_what_a_name_means_elsewhere() {
        let categories = SLUGS.map(|slug| Category::parse(slug).unwrap());
        let map = |name: &str, slug: &str| (name.to_owned(), Category::parse(slug).unwrap());
        let map = BTreeMap::from([
            map("weather", "own_words"),
            map("sexual", "own_words"),
            map("hate", "physical_harm"),
        ]);
        let names = Names { categories: &categories, map: &map };
        for (name, expected) in [
            ("weather", Some(2)),
            ("sexual", Some(2)),
            ("adult_content", Some(0)),
            ("harassment", Some(1)),
            // Led to a category that is not here.
            ("hate", None),
            ("Weather", None),
        ] {
            assert_eq!(names.position(name), expected, "{name}");
        }
    }
}
