//! Garbage collection removes what nobody goes back to, and nothing else, whoever publishes beside it.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skeg_vector_store::gc::{KeepRules, Kept, collect, collect_leftovers, judge, judge_leftovers};
use skeg_vector_store::place::{LocalPlace, ObjectPlace, Place};
use skeg_vector_store::{Change, Error, GenerationId, list_generations};

use crate::bucket::{self, TestBucket, publish_to, write_to};

const NOTHING_IS_YOUNG: KeepRules = KeepRules { changes: 2, grace: Duration::ZERO };

fn ids(place: &dyn Place) -> Vec<GenerationId> {
    place.generations().unwrap().into_iter().map(|listed| listed.id).collect()
}

fn check(place: &dyn Place) {
    let mut published = [0, 1, 2, 3].map(|mark| publish_to(place, mark)).to_vec();
    let never = write_to(place, 4);
    let why = |id: &GenerationId, rules| {
        let judged = judge(place, rules).unwrap();
        judged.into_iter().find(|judged| judged.id == *id).unwrap().kept
    };
    assert_eq!(why(&published[3], NOTHING_IS_YOUNG), Some(Kept::Serves));
    // The last two changes: from 1 to 2, from 2 to 3.
    assert_eq!(why(&published[1], NOTHING_IS_YOUNG), Some(Kept::InHistory));
    assert_eq!(why(&published[0], NOTHING_IS_YOUNG), None);
    assert_eq!(why(&never, NOTHING_IS_YOUNG), None);
    let all_young = KeepRules { changes: 0, grace: Duration::from_secs(3600) };
    assert_eq!(why(&published[0], all_young), Some(Kept::Young));
    assert_eq!(ids(place).len(), 5);

    let gone = collect(place, NOTHING_IS_YOUNG).unwrap();
    assert_eq!(gone.iter().filter(|judged| judged.kept.is_none()).count(), 2);
    published.remove(0);
    published.sort();
    assert_eq!(ids(place), published);
    let only_current = KeepRules { changes: 0, grace: Duration::ZERO };
    collect(place, only_current).unwrap();
    let current = place.current().unwrap().generation;
    assert_eq!(ids(place), std::slice::from_ref(&current));
    place.load(&current).unwrap();
}

#[test]
fn what_is_in_use_or_young_stays() {
    let root = tempfile::tempdir().unwrap();
    check(&LocalPlace::new(root.path()));
    check(&bucket::place(&bucket::empty()));
}

#[test]
fn ages_are_by_the_file_systems_clock() {
    let root = tempfile::tempdir().unwrap();
    let place = LocalPlace::new(root.path());
    let old = publish_to(&place, 0);
    publish_to(&place, 1);
    let day = Duration::from_secs(24 * 3600);
    let dir = fs::File::open(root.path().join(format!("generations/{old}"))).unwrap();
    dir.set_modified(SystemTime::now() - 2 * day).unwrap();
    let rules = KeepRules { changes: 0, grace: day };
    let judged = judge(&place, rules).unwrap();
    let judged = judged.into_iter().find(|judged| judged.id == old).unwrap();
    assert!(judged.kept.is_none() && judged.age >= day, "{judged:?}");
}

#[test]
fn a_place_where_nothing_serves_is_left_alone() {
    let place = bucket::place(&bucket::empty());
    let id = write_to(&place, 0);
    assert!(collect(&place, NOTHING_IS_YOUNG).is_err());
    assert_eq!(ids(&place), [id]);
}

#[test]
fn what_is_half_written_goes_when_it_is_old() {
    let bucket = bucket::empty();
    let place = bucket::place(&bucket);
    let current = publish_to(&place, 0);
    let folder = tempfile::tempdir().unwrap();
    let half = crate::support::write(folder.path(), 1);
    let files = LocalPlace::new(folder.path()).read_files(&half).unwrap();
    assert!(ObjectPlace::new(TestBucket::dying(&bucket, 2, false)).add_files(&files).is_err());
    let listed = place.generations().unwrap();
    assert!(listed.iter().any(|listed| listed.id == half && !listed.is_whole));
    collect(&place, NOTHING_IS_YOUNG).unwrap();
    assert_eq!(ids(&place), [current]);
}

/// The publisher is just before garbage collection's first removal, which has looked at `CURRENT` already.
#[test]
fn what_is_published_while_it_is_removed_is_put_back() {
    let bucket = bucket::empty();
    let healthy = bucket::place(&bucket);
    let old = publish_to(&healthy, 0);
    for mark in [1, 2, 3] {
        publish_to(&healthy, mark);
    }
    let (publisher, id) = (bucket::place(&bucket), old.clone());
    let collector = TestBucket::new(&bucket).before("delete", move || {
        publisher.set_current(&id, None, &Change::default()).unwrap();
    });
    let collector = ObjectPlace::new(collector);
    let error = collect(&collector, NOTHING_IS_YOUNG).unwrap_err().to_string();
    assert!(error.contains("was put back"), "{error}");
    assert_eq!(healthy.current().unwrap().generation, old);
    assert_eq!(healthy.load(&old).unwrap().id, old);
}

/// Garbage collection is all between a publisher's check of the generation and its write of `CURRENT`.
#[test]
fn what_is_removed_while_it_is_published_is_put_back() {
    let bucket = bucket::empty();
    let healthy = bucket::place(&bucket);
    let old = publish_to(&healthy, 0);
    for mark in [1, 2, 3] {
        publish_to(&healthy, mark);
    }
    let collector = bucket::place(&bucket);
    let publisher = TestBucket::new(&bucket).before("put CURRENT", move || {
        collect(&collector, NOTHING_IS_YOUNG).unwrap();
    });
    let publisher = Arc::new(publisher);
    let place = ObjectPlace::new(Arc::clone(&publisher));
    place.set_current(&old, None, &Change::default()).unwrap();
    assert_eq!(healthy.current().unwrap().generation, old);
    assert_eq!(healthy.load(&old).unwrap().id, old);
}

#[test]
fn in_a_folder_what_was_removed_cannot_be_published() {
    let root = tempfile::tempdir().unwrap();
    let place = LocalPlace::new(root.path());
    let (old, current) = (publish_to(&place, 0), publish_to(&place, 1));
    collect(&place, KeepRules { changes: 0, grace: Duration::ZERO }).unwrap();
    let error = place.set_current(&old, None, &Change::default()).unwrap_err().to_string();
    assert!(error.contains(&format!("there is no generation {old}")), "{error}");
    assert_eq!(place.current().unwrap().generation, current);
    let left: Vec<_> = fs::read_dir(root.path().join("generations")).unwrap().collect();
    assert_eq!(left.len(), 1);
}

const HOUR: Duration = Duration::from_secs(3600);

/// Makes something of the store look as if nobody wrote to it for two hours.
pub(crate) fn make_old(path: &std::path::Path) {
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - 2 * HOUR).unwrap();
}

/// What a dead publisher, a dead collector and a dead reader of the clock left, beside what a living publisher is at.
#[test]
fn what_dead_writers_left_goes_when_it_is_old() {
    let root = tempfile::tempdir().unwrap();
    let place = LocalPlace::new(root.path());
    assert_eq!(judge_leftovers(&place, Duration::ZERO).unwrap(), []);
    let ids = [publish_to(&place, 0), publish_to(&place, 1)];
    let dir = root.path().join("generations");
    let dead = [".clock-7", ".removed-0123456789abcdef", ".staging-7-0"];
    fs::write(dir.join(dead[0]), "").unwrap();
    for name in &dead[1..] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("manifest.json"), "{").unwrap();
    }
    for name in dead {
        make_old(&dir.join(name));
    }
    fs::create_dir(dir.join(".staging-8-0")).unwrap();
    fs::create_dir(dir.join("lost+found")).unwrap();

    let goes = |judged: Vec<skeg_vector_store::gc::JudgedLeftover>| {
        let named = judged.into_iter().map(|judged| (judged.leftover.name, judged.goes));
        named.collect::<Vec<_>>()
    };
    let expected = [dead[0], dead[1], ".staging-7-0", ".staging-8-0"];
    let expected = expected.map(|name| (name.to_owned(), name != ".staging-8-0"));
    assert_eq!(goes(judge_leftovers(&place, HOUR).unwrap()), expected);
    assert_eq!(goes(collect_leftovers(&place, HOUR).unwrap()), expected);
    let left = goes(judge_leftovers(&place, HOUR).unwrap());
    assert_eq!(left, [(".staging-8-0".to_owned(), false)]);
    assert!(dir.join("lost+found").exists());
    let mut ids = ids.to_vec();
    ids.sort();
    assert_eq!(list_generations(root.path()).unwrap(), ids);
}

/// Nothing is young here, so that what a living publisher has written goes too.
#[test]
fn a_publisher_whose_work_was_collected_fails_and_leaves_no_half() {
    let root = tempfile::tempdir().unwrap();
    let place = LocalPlace::new(root.path());
    let current = publish_to(&place, 0);
    let staging = root.path().join("generations/.staging-7-0");
    fs::create_dir(&staging).unwrap();
    let seen = place.leftovers().unwrap();
    // The publisher was done before it was collected.
    let id = crate::support::write(root.path(), 1);
    fs::remove_dir(&staging).unwrap();
    place.remove_leftover(&seen[0]).unwrap();
    assert_eq!(place.load(&id).unwrap().id, id);
    // And the other way round.
    fs::create_dir(&staging).unwrap();
    place.remove_leftover(&seen[0]).unwrap();
    assert!(!staging.exists());
    assert_eq!(place.leftovers().unwrap(), []);
    assert!(matches!(place.remove(&current), Err(Error::Layout { .. })));
}
