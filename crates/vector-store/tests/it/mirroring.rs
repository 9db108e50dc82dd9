//! A copy follows its place, stays with the last good generation whatever the place does, and serves without it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skeg_vector_store::mirror::{FollowOptions, Mirror, Synced};
use skeg_vector_store::place::{
    Bucket as _, CloudBucket, LocalPlace, ObjectPlace, Only, Place as _,
};
use skeg_vector_store::{
    Change, Current, Error, ReloadEvent, Store, list_generations, read_current, write_generation,
};

use crate::bucket::{self, TestBucket, publish_to};
use crate::support::{model, new_generation, open};

/// A test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(120);

struct Replica {
    /// What the replica reaches its place through.
    path: Arc<TestBucket>,
    mirror: Arc<Mirror>,
}

/// A replica that was started on a folder.
fn start(bucket: &Arc<CloudBucket>, folder: &std::path::Path, is_away: bool) -> Replica {
    let path = Arc::new(TestBucket::new(bucket));
    path.is_away.store(is_away, Ordering::SeqCst);
    let place = Box::new(ObjectPlace::new(Arc::clone(&path)));
    let mirror = Arc::new(Mirror::new(place, folder).unwrap().for_model(model()));
    Replica { path, mirror }
}

#[test]
fn a_place_that_is_away_at_the_start_is_followed_when_it_comes_back() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let a = publish_to(&bucket::place(&bucket), 0);
    let replica = start(&bucket, folder.path(), true);
    for _ in 0..3 {
        assert!(matches!(replica.mirror.sync(), Err(Error::Place { .. })));
    }
    // One fault that lasts.
    assert_eq!((replica.mirror.faults(), replica.mirror.follows()), (1, 0));
    assert!(read_current(folder.path()).is_err());
    replica.path.is_away.store(false, Ordering::SeqCst);
    let current = Current { sequence: 1, generation: a };
    assert_eq!(replica.mirror.sync().unwrap(), Synced::Followed(current.clone()));
    assert_eq!(open(folder.path()).current().generation.id, current.generation);
    replica.path.is_away.store(true, Ordering::SeqCst);
    assert!(replica.mirror.sync().is_err());
    assert_eq!((replica.mirror.faults(), replica.mirror.follows()), (2, 1));
}

#[test]
fn what_has_not_changed_costs_one_request() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    publish_to(&bucket::place(&bucket), 0);
    let replica = start(&bucket, folder.path(), false);
    replica.mirror.sync().unwrap();
    replica.path.calls.lock().unwrap().clear();
    assert_eq!(replica.mirror.sync().unwrap(), Synced::Unchanged);
    assert_eq!(*replica.path.calls.lock().unwrap(), ["get CURRENT"]);
    // A replica that starts again has no tag, but has the files.
    let again = start(&bucket, folder.path(), false);
    assert_eq!(again.mirror.sync().unwrap(), Synced::Unchanged);
    assert_eq!(*again.path.calls.lock().unwrap(), ["get CURRENT"]);
}

#[test]
fn a_bad_generation_is_not_followed() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let a = publish_to(&place, 0);
    let replica = start(&bucket, folder.path(), false);
    replica.mirror.sync().unwrap();
    let b = publish_to(&place, 1);
    let card = format!("generations/{b}/CARD.md");
    bucket.put(&card, b"changed after it was published", &Only::Always).unwrap();
    for _ in 0..2 {
        assert!(matches!(replica.mirror.sync(), Err(Error::Damaged { .. })));
    }
    assert_eq!(replica.mirror.faults(), 1);
    assert_eq!(open(folder.path()).current().generation.id, a);
    // Restarted with the place away it serves the last good one.
    let again = start(&bucket, folder.path(), true);
    assert!(again.mirror.sync().is_err());
    assert_eq!(open(folder.path()).current().generation.id, a);
    bucket.put(&card, crate::support::card(1).as_bytes(), &Only::Always).unwrap();
    assert!(matches!(replica.mirror.sync().unwrap(), Synced::Followed(_)));
    assert_eq!(open(folder.path()).current().generation.id, b);
}

#[test]
fn a_generation_for_another_model_is_not_followed() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let a = publish_to(&place, 0);
    let replica = start(&bucket, folder.path(), false);
    replica.mirror.sync().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut other = new_generation(1);
    other.model.architecture_id = "another".to_owned();
    let other = write_generation(elsewhere.path(), &other).unwrap();
    let files = LocalPlace::new(elsewhere.path()).read_files(&other).unwrap();
    place.add_files(&files).unwrap();
    place.set_current(&other, None, &Change::default()).unwrap();
    for _ in 0..2 {
        assert!(matches!(replica.mirror.sync(), Err(Error::WrongModel(_))));
    }
    assert_eq!(open(folder.path()).current().generation.id, a);
}

#[test]
fn a_copy_never_goes_back_to_a_lower_sequence() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let [a, b] = [0, 1].map(|mark| publish_to(&place, mark));
    let replica = start(&bucket, folder.path(), false);
    replica.mirror.sync().unwrap();
    let say = |sequence: u64, id| {
        let text = format!("{{\"sequence\": {sequence}, \"generation\": \"{id}\"}}\n");
        bucket.put("CURRENT", text.as_bytes(), &Only::Always).unwrap();
    };
    for sequence in [1, 2] {
        say(sequence, &a);
        let error = replica.mirror.sync().unwrap_err();
        assert!(matches!(error, Error::Rewound { found, kept: 2, .. } if found == sequence));
        assert_eq!(read_current(folder.path()).unwrap().generation, b);
    }
    say(3, &a);
    let current = Current { sequence: 3, generation: a };
    assert_eq!(replica.mirror.sync().unwrap(), Synced::Followed(current));
}

#[test]
fn a_copy_keeps_two_generations() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let replica = start(&bucket, folder.path(), false);
    let ids = [0, 1, 2, 3].map(|mark| {
        let id = publish_to(&place, mark);
        replica.mirror.sync().unwrap();
        id
    });
    let mut expected = vec![ids[2].clone(), ids[3].clone()];
    expected.sort();
    assert_eq!(list_generations(folder.path()).unwrap(), expected);
}

#[test]
fn a_damaged_copy_is_fetched_again() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let a = publish_to(&place, 0);
    start(&bucket, folder.path(), false).mirror.sync().unwrap();
    std::fs::write(folder.path().join(format!("generations/{a}/CARD.md")), "").unwrap();
    publish_to(&place, 1);
    publish_to(&place, 0);
    start(&bucket, folder.path(), false).mirror.sync().unwrap();
    assert_eq!(open(folder.path()).current().generation.id, a);
}

#[test]
fn a_folder_is_the_copy_of_one_place() {
    let (store, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let refused = |place: &str, folder: &std::path::Path| {
        let place = Box::new(LocalPlace::new(place));
        Mirror::new(place, folder).unwrap_err().to_string()
    };
    publish_to(&LocalPlace::new(store.path()), 0);
    let error = refused("elsewhere", store.path());
    assert!(error.contains("is a store of its own"), "{error}");
    Mirror::new(Box::new(LocalPlace::new("first")), folder.path()).unwrap();
    Mirror::new(Box::new(LocalPlace::new("first")), folder.path()).unwrap();
    let error = refused("second", folder.path());
    assert!(error.contains("is the copy of first, expected second"), "{error}");
}

#[test]
fn a_store_on_the_copy_serves_what_is_published_at_the_place() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let a = publish_to(&place, 0);
    let replica = start(&bucket, folder.path(), false);
    replica.mirror.sync().unwrap();
    let store: Arc<Store<String>> = Arc::new(open(folder.path()));
    let events = store.subscribe();
    let _watching = store.watch().unwrap();
    let interval = Duration::from_millis(1);
    let following = replica.mirror.follow(FollowOptions { interval }).unwrap();
    let b = publish_to(&place, 1);
    let swapped = ReloadEvent::Swapped { from: a, to: b.clone() };
    assert_eq!(events.recv_timeout(DEADLINE).unwrap(), swapped);
    // Dropping waits for the thread, so afterwards nobody is left to follow.
    drop(following);
    publish_to(&place, 2);
    assert_eq!(Arc::strong_count(&replica.mirror), 1);
    assert_eq!(read_current(folder.path()).unwrap().generation, b);
}

#[test]
fn what_a_replica_that_died_left_half_copied_goes() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    let replica = start(&bucket, folder.path(), false);
    publish_to(&place, 0);
    replica.mirror.sync().unwrap();
    let staging = |name: &str| folder.path().join("generations").join(name);
    for name in [".staging-7-0", ".staging-8-0"] {
        std::fs::create_dir(staging(name)).unwrap();
        std::fs::write(staging(name).join("manifest.json"), "{").unwrap();
    }
    crate::collecting::make_old(&staging(".staging-7-0"));
    replica.mirror.sync().unwrap();
    assert!(staging(".staging-7-0").exists());
    publish_to(&place, 1);
    replica.mirror.sync().unwrap();
    // The other one may be another replica's that shares the folder.
    assert!(!staging(".staging-7-0").exists() && staging(".staging-8-0").exists());
}
