//! The mapping of foreign categories on public data.

use std::collections::BTreeSet;
use std::path::Path;

use skeg_lab::data::{CategoryMap, Fit};
use skeg_lab::{ReadOptions, catqa_categories, read_data};

use crate::judge::data_dir;

#[test]
fn beavertails_leads_to_eight_categories_or_more() {
    let Some(dir) = data_dir() else {
        println!("skipped: no data");
        return;
    };
    let map = CategoryMap::read(&Path::new(&dir).join("mapping.json")).unwrap();
    let set = "beavertails_eval";
    let data =
        read_data(&Path::new(&dir).join(format!("{set}.jsonl")), &ReadOptions::default()).unwrap();
    assert!(map.has(set) && !map.has("beavertails"));
    let of = |least| {
        let found = data.items.iter().filter_map(|item| map.category_of(set, item, least));
        found.collect::<BTreeSet<_>>()
    };
    let [strong, medium, weak] = [Fit::Strong, Fit::Medium, Fit::Weak].map(of);
    assert!(strong.len() < medium.len() && medium.len() >= 8, "{strong:?} {medium:?}");
    assert!(strong.is_subset(&medium) && medium.is_subset(&weak));
    let catqa: BTreeSet<_> = catqa_categories().into_iter().collect();
    assert!(weak.is_subset(&catqa), "{weak:?}");
    // Of the 700 prompts the 50 of one category have no counterpart.
    let count = data.items.iter().filter(|item| map.category_of(set, item, Fit::Weak).is_some());
    assert_eq!(count.count(), 650);
    assert_eq!(map.category_of("catqa", &data.items[0], Fit::Weak), None);
}
