//! What a set to measure on shares with what a probe was trained on: a figure of texts that a probe knows says nothing.

use super::TrainedOn;
use super::corpus::SourceSet;
use crate::data::{DataSet, Item, overlap};

/// A file that a probe was trained on and is to be measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Index of the set that is to be measured.
    pub set_idx: usize,
    /// Index of the file in it.
    pub file_idx: usize,
    /// Name of the set that the probe was trained on with it.
    pub trained_in: String,
}

/// Files of the sets whose bytes a probe was trained on.
#[must_use]
pub fn seen_files(trained_on: &TrainedOn, sets: &[SourceSet]) -> Vec<SeenFile> {
    let trained_in = |sha256: &String| {
        let set = trained_on.sets.iter().find(|set| set.sha256.contains(sha256));
        set.map(|set| set.name.clone())
    };
    let files = sets.iter().enumerate().flat_map(|(set_idx, set)| {
        let files = set.files.iter().enumerate();
        files.map(move |(file_idx, file)| (set_idx, file_idx, &file.sha256))
    });
    files
        .filter_map(|(set_idx, file_idx, sha256)| {
            Some(SeenFile { set_idx, file_idx, trained_in: trained_in(sha256)? })
        })
        .collect()
}

/// Texts that a set to measure on shares with a file of training data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedTexts {
    /// The set that is to be measured.
    pub set: String,
    /// Index of the training file.
    pub trained_idx: usize,
    /// Different texts that are in both.
    pub num_shared: usize,
    /// Prompts of the set that say whether they are harmful.
    pub num_texts: usize,
}

/// What the sets share with each of the training files, where they share something. Texts that read alike are the same, as
/// [`overlap`] has it; items that do not say whether they are harmful are in no probe and in no figure.
#[must_use]
pub fn shared_texts(trained: &[DataSet], sets: &[SourceSet]) -> Vec<SharedTexts> {
    let trained: Vec<DataSet> = trained.iter().map(|file| labelled(&file.items)).collect();
    let of_set = |set: &SourceSet| {
        let asked = labelled(set.files.iter().flat_map(|file| &file.items));
        let shared = trained.iter().enumerate().map(|(trained_idx, file)| SharedTexts {
            set: set.name.clone(),
            trained_idx,
            num_shared: overlap(file, &asked).len(),
            num_texts: asked.items.len(),
        });
        shared.filter(|shared| shared.num_shared > 0).collect::<Vec<_>>()
    };
    sets.iter().flat_map(of_set).collect()
}

fn labelled<'a>(items: impl IntoIterator<Item = &'a Item>) -> DataSet {
    let items = items.into_iter().filter(|item| item.harmful.is_some());
    DataSet::of(items.cloned().collect(), String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::TrainingSource;

    fn file(sha256: &str, rows: &[(&str, Option<bool>)]) -> DataSet {
        let item = |(idx, &(text, harmful)): (usize, &(&str, Option<bool>))| Item {
            harmful,
            ..Item::new(format!("{sha256}{idx}"), text, "own")
        };
        DataSet::of(rows.iter().enumerate().map(item).collect(), sha256.to_owned())
    }

    fn set(name: &str, files: &[DataSet]) -> SourceSet {
        SourceSet { name: name.to_owned(), files: files.to_vec() }
    }

    #[test]
    fn a_file_is_known_by_its_bytes_whatever_set_it_is_in() {
        let source = |name: &str, sha256: &[&str]| TrainingSource {
            name: name.to_owned(),
            sha256: sha256.iter().map(|&hash| hash.to_owned()).collect(),
            num_prompts: [1, 1],
            num_augmented: 0,
        };
        let trained_on = TrainedOn { sets: vec![source("x", &["a", "b"]), source("y", &["c"])] };
        let sets = [
            set("m", &[file("d", &[]), file("b", &[])]),
            set("n", &[file("c", &[]), file("e", &[])]),
        ];
        let seen = |set_idx, file_idx, trained_in: &str| SeenFile {
            set_idx,
            file_idx,
            trained_in: trained_in.to_owned(),
        };
        assert_eq!(seen_files(&trained_on, &sets), [seen(0, 1, "x"), seen(1, 0, "y")]);
        assert_eq!(seen_files(&TrainedOn::default(), &sets), []);
    }

    #[test]
    fn shared_texts_are_counted_once_a_set_and_a_file_where_they_have_labels() {
        let trained = [
            file("a", &[("One  text", Some(true)), ("two", Some(false)), ("three", None)]),
            file("b", &[("four", Some(false))]),
        ];
        let sets = [
            set(
                "m",
                &[
                    file("c", &[("ONE TEXT", Some(true)), ("three", Some(true))]),
                    file("d", &[("one text", Some(false)), ("two", None), ("four", Some(true))]),
                ],
            ),
            set("n", &[file("e", &[("five", Some(true))])]),
        ];
        let shared = |trained_idx| SharedTexts {
            set: "m".to_owned(),
            trained_idx,
            num_shared: 1,
            num_texts: 4,
        };
        assert_eq!(shared_texts(&trained, &sets), [shared(0), shared(1)]);
        assert_eq!(shared_texts(&[], &sets), []);
    }
}
