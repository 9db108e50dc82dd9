//! Which prompts of a record are asked again: those that the data has, some of each category.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use skeg_vector_store::Category;

use super::trial::ArmReport;
use crate::data::{DataSet, Item};
use crate::error::{Error, Result};
use crate::experiment::Prompt;

/// The harmful prompts of the data of which both reports have an outcome, by category and in the order of their ids.
///
/// # Errors
/// [`Error::Data`] when an id is two prompts', or when a category has more of them than were tested.
pub(super) fn recorded_prompts(
    data: &[DataSet],
    [first, second]: [&ArmReport; 2],
) -> Result<BTreeMap<Category, Vec<Prompt>>> {
    // As a calibration takes them: harmful prompts, or prompts with labelled answers.
    let is_harmful = |item: &Item| item.harmful.unwrap_or(item.response_label.is_some());
    let is_recorded =
        |item: &Item| [first, second].iter().all(|report| report.outcomes.contains_key(&item.id));
    let mut prompts: BTreeMap<&str, Prompt> = BTreeMap::new();
    for item in data.iter().flat_map(|set| &set.items) {
        let category = item.category_slug().filter(|slug| first.by_category.contains_key(slug));
        let Some(category) = category.filter(|_| is_recorded(item) && is_harmful(item)) else {
            continue;
        };
        let (id, text) = (item.id.clone(), item.text.clone());
        let prompt = Prompt { id, text, category, is_harmful: true };
        if prompts.get(item.id.as_str()).is_some_and(|known| *known != prompt) {
            return Err(Error::Data(format!(
                "id `{}` stands for two different prompts in the data; give only the files that the generation was \
                 calibrated with",
                item.id
            )));
        }
        prompts.insert(&item.id, prompt);
    }
    let mut by_category: BTreeMap<Category, Vec<Prompt>> = BTreeMap::new();
    for prompt in prompts.into_values() {
        by_category.entry(prompt.category.clone()).or_default().push(prompt);
    }
    for (category, prompts) in &by_category {
        let num_tested = first.by_category.get(category).map_or(0, |counts| counts.total);
        if prompts.len() > num_tested {
            return Err(Error::Data(format!(
                "the data has {} harmful prompts of category `{category}` with ids of the test, {num_tested} were tested; \
                 give only the files that the generation was calibrated with, without its harmless ones",
                prompts.len()
            )));
        }
    }
    Ok(by_category)
}

/// At most `num` prompts: in turn one of each category, in a drawn order.
pub(super) fn sample(
    by_category: BTreeMap<Category, Vec<Prompt>>,
    num: usize,
    seed: u64,
) -> Vec<Prompt> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut groups: Vec<Vec<Prompt>> = by_category.into_values().collect();
    for group in &mut groups {
        shuffle(group, &mut rng);
    }
    shuffle(&mut groups, &mut rng);
    let most = groups.iter().map(Vec::len).max().unwrap_or_default();
    let turns = (0..most).flat_map(|turn| groups.iter().filter_map(move |group| group.get(turn)));
    turns.take(num).cloned().collect()
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        let drawn = ((u64::from(rng.next_u32()) * (last as u64 + 1)) >> 32) as usize;
        items.swap(last, drawn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(sizes: &[(&str, usize)]) -> BTreeMap<Category, Vec<Prompt>> {
        let group = |&(name, size): &(&str, usize)| {
            let category: Category = name.parse().unwrap();
            let prompt = |number| Prompt {
                id: format!("{name}-{number}"),
                text: "x".to_owned(),
                category: category.clone(),
                is_harmful: true,
            };
            (category.clone(), (0..size).map(prompt).collect())
        };
        sizes.iter().map(group).collect()
    }

    fn ids(num: usize, seed: u64) -> Vec<String> {
        let by_category = groups(&[("adult_content", 30), ("child_abuse", 30), ("fraud", 2)]);
        sample(by_category, num, seed).into_iter().map(|prompt| prompt.id).collect()
    }

    #[test]
    fn a_sample_is_spread_over_the_categories() {
        let count =
            |ids: &[String], name: &str| ids.iter().filter(|id| id.starts_with(name)).count();
        let chosen = ids(9, 1);
        assert_eq!(["adult", "child"].map(|name| count(&chosen, name)).iter().sum::<usize>(), 7);
        assert_eq!(count(&chosen, "fraud"), 2);
        assert!(count(&chosen, "adult").abs_diff(count(&chosen, "child")) <= 1, "{chosen:?}");
        let mut all = ids(1000, 1);
        assert_eq!(all.len(), 62);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 62);
    }

    #[test]
    fn the_seed_decides_the_sample() {
        assert_eq!(ids(6, 1), ids(6, 1));
        assert_ne!(ids(6, 1), ids(6, 2));
        // Not the first category alone, whatever the seed.
        let firsts: std::collections::BTreeSet<String> =
            (0..20).map(|seed| ids(1, seed)[0][..5].to_owned()).collect();
        assert_eq!(firsts.len(), 3, "{firsts:?}");
    }
}
