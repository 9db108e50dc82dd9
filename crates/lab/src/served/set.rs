//! The prompts that a server is asked.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use skeg_model::ChatMessage;
use skeg_vector_store::Category;

use crate::calibrate::shuffle;
use crate::data::{DataSet, Item};
use crate::error::{Error, Result};

/// One labelled prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedPrompt {
    /// Its id in its set.
    pub id: String,
    /// The text that judges see.
    pub text: String,
    /// The messages that are sent.
    pub conversation: Vec<ChatMessage>,
    /// Whether it asks for harm.
    pub is_harmful: bool,
    /// What its set says of a harmful prompt.
    pub category: Option<Category>,
}

/// Labelled prompts under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedSet {
    /// The name in tables.
    pub name: String,
    /// Lower-case hex SHA-256 of its file.
    pub sha256: String,
    /// Prompts in the file's order.
    pub prompts: Vec<ServedPrompt>,
}

impl ServedSet {
    /// The items that say whether they are harmful, of more than `limit` so many that `seed` draws.
    ///
    /// # Errors
    /// [`Error::Data`] when there is none.
    pub fn new(name: &str, data: &DataSet, limit: Option<usize>, seed: u64) -> Result<Self> {
        let labelled = data.items.iter().filter_map(|item| Some(prompt(item, item.harmful?)));
        let mut prompts: Vec<(usize, ServedPrompt)> = labelled.enumerate().collect();
        if let Some(limit) = limit.filter(|&limit| limit < prompts.len()) {
            shuffle(&mut prompts, &mut ChaCha8Rng::seed_from_u64(seed));
            prompts.truncate(limit);
            prompts.sort_unstable_by_key(|(idx, _)| *idx);
        }
        if prompts.is_empty() {
            return Err(Error::Data(format!(
                "set `{name}` has no prompt to ask; expected rows with `harmful` true or false, and a limit of at least 1"
            )));
        }
        let prompts = prompts.into_iter().map(|(_, prompt)| prompt).collect();
        Ok(Self { name: name.to_owned(), sha256: data.sha256.clone(), prompts })
    }
}

fn prompt(item: &Item, is_harmful: bool) -> ServedPrompt {
    ServedPrompt {
        id: item.id.clone(),
        text: item.text.clone(),
        conversation: item.conversation(),
        is_harmful,
        category: if is_harmful { item.category_slug() } else { None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(number: usize) -> DataSet {
        let item = |idx: usize| Item {
            harmful: (idx != 3).then_some(idx.is_multiple_of(2)),
            category: Some("fraud".to_owned()),
            ..Item::new(idx.to_string(), format!("text {idx}"), "own")
        };
        DataSet::of((0..number).map(item).collect(), "ab".to_owned())
    }

    fn ids(set: &ServedSet) -> Vec<usize> {
        set.prompts.iter().map(|prompt| prompt.id.parse().unwrap()).collect()
    }

    #[test]
    fn labelled_prompts_are_asked_and_harmless_ones_have_no_category() {
        let set = ServedSet::new("own", &data(5), None, 0).unwrap();
        assert_eq!(ids(&set), [0, 1, 2, 4]);
        let named: Vec<bool> = set.prompts.iter().map(|p| p.category.is_some()).collect();
        assert_eq!(named, [true, false, true, true]);
        assert_eq!(ids(&ServedSet::new("own", &data(5), Some(4), 0).unwrap()), [0, 1, 2, 4]);
    }

    #[test]
    fn the_seed_draws_and_the_order_stays() {
        let of = |seed| ids(&ServedSet::new("own", &data(100), Some(9), seed).unwrap());
        assert!(of(1).len() == 9 && of(1).is_sorted_by(|a, b| a < b));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(of(1)[8] > 20, "the first ones alone: {:?}", of(1));
    }

    #[test]
    fn a_set_without_a_label_or_a_place_is_refused() {
        let unlabelled = DataSet::of(vec![Item::new("a", "text", "own")], String::new());
        for error in [
            ServedSet::new("own", &unlabelled, None, 0),
            ServedSet::new("own", &data(5), Some(0), 0),
        ] {
            assert!(error.unwrap_err().to_string().contains("set `own` has no prompt"));
        }
    }
}
