//! The checks that every item goes through, whatever it was read from.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::item::Item;
use super::options::OnConflict;
use crate::error::{Error, Place, Result};

/// Longest id, in bytes: ids stand in errors and reports.
const MAX_ID_BYTES: usize = 256;

/// Items that passed so far.
pub(super) struct Collector<'a> {
    path: &'a Path,
    on_conflict: OnConflict,
    items: Vec<Item>,
    ids: HashSet<String>,
    /// Digest of prompt and answer to the item that was the first to have them. A digest, because the texts
    /// themselves would take the memory of the set again.
    first_with: HashMap<[u8; 32], usize>,
    /// Items whose labels another one contradicts.
    in_conflict: BTreeSet<usize>,
    num_repeats: usize,
    /// Items left out for contradicting one of `in_conflict`.
    num_contradicting: usize,
}

/// What is left when the file ends.
pub(super) struct Collected {
    pub(super) items: Vec<Item>,
    pub(super) num_repeats: usize,
    pub(super) num_conflicts: usize,
}

impl<'a> Collector<'a> {
    pub(super) fn new(path: &'a Path, on_conflict: OnConflict) -> Self {
        Self {
            path,
            on_conflict,
            items: Vec::new(),
            ids: HashSet::new(),
            first_with: HashMap::new(),
            in_conflict: BTreeSet::new(),
            num_repeats: 0,
            num_contradicting: 0,
        }
    }

    /// Takes an item, drops a repeat, or refuses.
    pub(super) fn add(&mut self, item: Item, place: Place) -> Result<()> {
        self.check(&item).map_err(|reason| Error::bad_row(self.path, place, reason))?;
        self.ids.insert(item.id.clone());
        let key = digest(&item);
        let Some(&first_idx) = self.first_with.get(&key) else {
            self.first_with.insert(key, self.items.len());
            self.items.push(item);
            return Ok(());
        };
        let first = &self.items[first_idx];
        let differing = differing(first, &item);
        if self.in_conflict.contains(&first_idx) {
            self.num_contradicting += 1;
        } else if differing.is_empty() {
            self.num_repeats += 1;
        } else if self.on_conflict == OnConflict::Drop {
            self.in_conflict.insert(first_idx);
            self.num_contradicting += 1;
        } else {
            return Err(Error::Conflict {
                path: self.path.to_owned(),
                place,
                first: first.id.clone(),
                second: item.id,
                fields: differing.join(" and "),
            });
        }
        Ok(())
    }

    fn check(&self, item: &Item) -> Result<(), String> {
        let id = &item.id;
        if id.trim().is_empty() {
            return Err("the id is empty; expected one that no other row has".to_owned());
        }
        if id.len() > MAX_ID_BYTES {
            let length = id.len();
            return Err(format!("the id has {length} bytes; expected at most {MAX_ID_BYTES}"));
        }
        if item.text.trim().is_empty() {
            return Err(format!("item `{id}` has an empty `text`; expected a prompt"));
        }
        if self.ids.contains(id) {
            return Err(format!("id `{id}` was used by an earlier row; ids must differ"));
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Collected {
        let Self { items, in_conflict, num_repeats, num_contradicting, .. } = self;
        let num_conflicts = in_conflict.len() + num_contradicting;
        let kept = items.into_iter().enumerate().filter(|(idx, _)| !in_conflict.contains(idx));
        Collected { items: kept.map(|(_, item)| item).collect(), num_repeats, num_conflicts }
    }
}

/// Of prompt and answer, with a length before the prompt, so that no two pairs are the same bytes; and no answer is
/// not an empty one.
fn digest(item: &Item) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((item.text.len() as u64).to_le_bytes());
    hasher.update(&item.text);
    if let Some(response) = &item.response {
        hasher.update([1]);
        hasher.update(response);
    }
    hasher.finalize().into()
}

/// The labels in which two items differ.
fn differing(one: &Item, other: &Item) -> Vec<&'static str> {
    let labels = [
        ("`harmful`", one.harmful != other.harmful),
        ("the answer's label", one.response_label != other.response_label),
        ("category", one.category != other.category),
    ];
    labels.into_iter().filter(|(_, differ)| *differ).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, text: &str, response: Option<&str>) -> Item {
        Item {
            category: Some("a".to_owned()),
            harmful: Some(true),
            response: response.map(ToOwned::to_owned),
            ..Item::new(id, text, "own")
        }
    }

    fn collect(items: &[Item], on_conflict: OnConflict) -> Result<Collected> {
        let mut collector = Collector::new(Path::new("own.jsonl"), on_conflict);
        for (idx, item) in items.iter().enumerate() {
            collector.add(item.clone(), Place::Line(idx + 1))?;
        }
        Ok(collector.finish())
    }

    #[test]
    fn repeats_are_of_prompt_and_answer_together() {
        let items = [
            item("a", "xy", None),
            item("b", "xy", None),
            item("c", "xy", Some("")),
            item("d", "x", Some("y")),
            item("e", "x", Some("y")),
        ];
        let collected = collect(&items, OnConflict::Error).unwrap();
        let ids: Vec<&str> = collected.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["a", "c", "d"]);
        assert_eq!((collected.num_repeats, collected.num_conflicts), (2, 0));
    }

    #[test]
    fn labels_in_conflict_are_an_error_that_names_both_items() {
        let first = item("a", "the prompt", None);
        let mut others =
            [item("b", "the prompt", None), item("b", "the prompt", None), first.clone()];
        others[0].harmful = None;
        others[1].category = Some("b".to_owned());
        others[2].id = "b".to_owned();
        others[2].response_label = Some("safe".to_owned());
        for (other, field) in others.into_iter().zip(["`harmful`", "category", "label"]) {
            let error = collect(&[first.clone(), other], OnConflict::Error).err().unwrap();
            let text = error.to_string();
            assert!(matches!(error, Error::Conflict { .. }), "{text}");
            for part in ["own.jsonl:2: ", "`a`", "`b`", field] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains("the prompt"), "{text}");
        }
    }

    #[test]
    fn all_sides_of_a_conflict_are_dropped_if_wished() {
        let harmless = |id| Item { harmful: Some(false), ..item(id, "x", None) };
        let items = [
            item("a", "x", None),
            item("b", "x", None),
            harmless("c"),
            item("d", "x", None),
            harmless("e"),
            item("f", "y", None),
        ];
        let collected = collect(&items, OnConflict::Drop).unwrap();
        assert_eq!(collected.items, [item("f", "y", None)]);
        // b was a repeat before c came.
        assert_eq!((collected.num_repeats, collected.num_conflicts), (1, 4));
    }

    #[test]
    fn ids_have_bounds() {
        for (id, expected) in [(" ", "id is empty"), (&*"i".repeat(257), "has 257 bytes")] {
            let error = collect(&[item(id, "x", None)], OnConflict::Error).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(collect(&[item(&"i".repeat(256), "x", None)], OnConflict::Error).is_ok());
    }
}
