//! The harmless twins of CatQA's questions that this repository publishes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use skeg_lab::data::{overlap, refuse_overlap};
use skeg_lab::{DataSet, ReadOptions, catqa_categories, read_data};

use crate::judge::data_dir;

fn read(path: &Path) -> DataSet {
    read_data(path, &ReadOptions::default()).unwrap()
}

fn twins() -> DataSet {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/data/catqa_twins.jsonl"))
}

#[test]
fn there_is_one_harmless_twin_for_each_of_the_543_questions() {
    let twins = twins();
    assert_eq!((twins.items.len(), twins.num_repeats), (543, 0));
    let partners: HashSet<&str> =
        twins.items.iter().filter_map(|twin| twin.twin_of.as_deref()).collect();
    assert_eq!(partners.len(), 543);
    assert!(twins.items.iter().all(|twin| twin.harmful == Some(false)));
    let mut by_category = BTreeMap::new();
    for twin in &twins.items {
        *by_category.entry(twin.catqa_category().unwrap()).or_insert(0) += 1;
    }
    assert!(by_category.keys().eq(&catqa_categories()));
    assert!(by_category.values().all(|count| (46..=50).contains(count)), "{by_category:?}");
}

#[test]
fn twins_share_topic_form_and_length_with_their_questions_and_no_text() {
    let Some(dir) = data_dir() else {
        println!("skipped: no data");
        return;
    };
    let (twins, catqa) = (twins(), read(&Path::new(&dir).join("catqa.jsonl")));
    let by_id: BTreeMap<&str, _> =
        catqa.items.iter().map(|item| (item.id.as_str(), item)).collect();
    assert_eq!(by_id.len(), twins.items.len());
    let (mut words, mut twin_words) = (0, 0);
    for twin in &twins.items {
        let question = by_id[twin.twin_of.as_deref().unwrap()];
        assert_eq!(twin.catqa_category(), question.catqa_category(), "{}", twin.id);
        assert_eq!(twin.subcategory, question.subcategory, "{}", twin.id);
        let asks = |text: &str| text.trim_end().ends_with('?');
        assert_eq!(asks(&twin.text), asks(&question.text), "{}", twin.id);
        words += question.text.split_whitespace().count();
        twin_words += twin.text.split_whitespace().count();
    }
    assert!(twin_words.abs_diff(words) * 20 < words, "{twin_words} words, CatQA {words}");
    refuse_overlap(&catqa, &twins).unwrap();
    for set in ["xstest", "coconot", "alpaca", "advbench", "do_not_answer"] {
        let path = Path::new(&dir).join(format!("{set}.jsonl"));
        assert_eq!(overlap(&read(&path), &twins), [], "{set}");
    }
}
