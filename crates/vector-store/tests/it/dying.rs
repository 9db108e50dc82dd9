//! A publisher that dies at any write, and files that end at any byte: the old generation or the new one, never a mix.

use std::fs;
use std::sync::Arc;

use skeg_vector_store::place::{Bucket as _, CloudBucket, LocalPlace, ObjectPlace, Only, Place};
use skeg_vector_store::{Change, Current, Generation, GenerationId, load_generation, read_current};

use crate::bucket::{self, TestBucket, publish_to, write_to};
use crate::support::{open, publish, write};

/// What a healthy reader finds: `CURRENT`, and the generation it names, whole.
fn found(bucket: &Arc<CloudBucket>) -> (Current, Generation) {
    let place = bucket::place(bucket);
    let current = place.current().unwrap();
    let generation = place.load(&current.generation).unwrap();
    (current, generation)
}

/// Publishes the generation of mark 1 over that of mark 0 with a publisher that dies with the write after `writes`.
fn publish_dying(writes: usize, answer_is_lost: bool) -> bool {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let old = publish_to(&bucket::place(&bucket), 0);
    let new = write(folder.path(), 1);
    let files = skeg_vector_store::read_files(folder.path(), &new).unwrap();
    let dying = ObjectPlace::new(TestBucket::dying(&bucket, writes, answer_is_lost));
    let result =
        dying.add_files(&files).and_then(|id| dying.set_current(&id, Some(1), &Change::default()));
    let (current, generation) = found(&bucket);
    assert!(current.generation == old || current.generation == new);
    assert_eq!(current.sequence, if current.generation == old { 1 } else { 2 });
    assert_eq!(generation.id, current.generation);
    if result.is_ok() {
        assert_eq!(current.generation, new);
    }
    let history = bucket::place(&bucket).history(10).unwrap();
    // At worst the last change is missing in it; nothing is there that did not happen.
    assert!(history.iter().all(|entry| entry.sequence <= current.sequence));
    assert!(current.sequence - u64::try_from(history.len()).unwrap() <= 1, "{history:?}");
    // Another publisher takes up where this one died.
    let again = bucket::place(&bucket);
    assert_eq!(again.add_files(&files).unwrap(), new);
    let current = again.set_current(&new, Some(current.sequence), &Change::default()).unwrap();
    assert_eq!(found(&bucket).0, current);
    result.is_ok() && history.len() == 2
}

#[test]
fn a_publisher_may_die_at_any_write() {
    for answer_is_lost in [false, true] {
        let survived = (0..100).find(|writes| publish_dying(*writes, answer_is_lost));
        // Four files, CURRENT and the history, whose answer is not needed.
        assert_eq!(survived, Some(if answer_is_lost { 5 } else { 6 }));
    }
}

#[test]
fn removing_may_die_at_any_write() {
    for writes in 0..8 {
        let bucket = bucket::empty();
        let healthy = bucket::place(&bucket);
        let (current, gone) = (publish_to(&healthy, 0), write_to(&healthy, 1));
        let dying = ObjectPlace::new(TestBucket::dying(&bucket, writes, false));
        let result = dying.remove(&gone);
        assert_eq!(found(&bucket).1.id, current);
        // Whatever is left of it is not whole, so nobody takes it for one, and the next removal finishes.
        let is_whole = |id: &GenerationId| {
            healthy.generations().unwrap().iter().any(|listed| listed.id == *id && listed.is_whole)
        };
        assert_eq!(is_whole(&gone), writes == 0);
        healthy.remove(&gone).unwrap();
        assert_eq!(healthy.generations().unwrap().len(), 1);
        assert_eq!(result.is_ok(), writes >= 4);
    }
}

/// A live store keeps the old generation, and a new reader of the new one gets an error, for every shorter file.
fn check_truncated(name: &str) {
    let root = tempfile::tempdir().unwrap();
    let old = publish(root.path(), 0);
    let store = open(root.path());
    let new = publish(root.path(), 1);
    let path = root.path().join("generations").join(new.as_str()).join(name);
    let whole = fs::read(&path).unwrap();
    for num_bytes in 0..whole.len() {
        fs::write(&path, &whole[..num_bytes]).unwrap();
        assert!(store.reload().is_err(), "{name} of {num_bytes} bytes");
        assert_eq!(store.current().generation.id, old);
        assert!(load_generation(root.path(), &new, None).is_err());
    }
    fs::write(&path, &whole).unwrap();
    store.reload().unwrap();
    assert_eq!(store.current().generation.id, new);
}

#[test]
fn a_manifest_that_ends_at_any_byte_changes_nothing() {
    check_truncated("manifest.json");
}

#[test]
fn a_policy_that_ends_at_any_byte_changes_nothing() {
    check_truncated("policy.toml");
}

#[test]
fn a_current_that_ends_at_any_byte_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let old = publish(root.path(), 0);
    let store = open(root.path());
    let new = publish(root.path(), 1);
    let path = root.path().join("CURRENT");
    let whole = fs::read(&path).unwrap();
    // Without its last byte, the end of the line, it says all it has to say.
    for num_bytes in 0..whole.len() - 1 {
        fs::write(&path, &whole[..num_bytes]).unwrap();
        assert!(read_current(root.path()).is_err(), "{num_bytes} bytes");
        assert!(store.reload().is_err());
        assert_eq!(store.current().generation.id, old);
        let place = LocalPlace::new(root.path());
        // Nor is it written over, since what it said is not known.
        assert!(place.set_current(&old, None, &Change::default()).is_err());
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    store.reload().unwrap();
    assert_eq!(store.current().generation.id, new);
}

#[test]
fn objects_that_end_at_any_byte_are_refused() {
    let bucket = bucket::empty();
    let place = bucket::place(&bucket);
    let id = publish_to(&place, 0);
    let files = place.read_files(&id).unwrap();
    for name in ["manifest.json", "policy.toml"] {
        let key = format!("generations/{id}/{name}");
        for num_bytes in 0..files[name].len() {
            bucket.put(&key, &files[name][..num_bytes], &Only::Always).unwrap();
            assert!(place.load(&id).is_err(), "{name} of {num_bytes} bytes");
            assert!(place.set_current(&id, None, &Change::default()).is_err());
        }
        bucket.put(&key, &files[name], &Only::Always).unwrap();
    }
    assert_eq!(place.load(&id).unwrap().id, id);
}

#[test]
fn what_a_dead_publisher_left_in_a_folder_is_in_nobodys_way() {
    let root = tempfile::tempdir().unwrap();
    let old = publish(root.path(), 0);
    fs::write(root.path().join(".CURRENT.tmp"), "{\"seq").unwrap();
    fs::create_dir(root.path().join("generations/.staging-1-0")).unwrap();
    fs::write(root.path().join("generations/.staging-1-0/manifest.json"), "{").unwrap();
    fs::write(root.path().join("history/.2.json.tmp"), "{").unwrap();
    assert_eq!(open(root.path()).current().generation.id, old);
    let new = publish(root.path(), 1);
    let place = LocalPlace::new(root.path());
    assert_eq!(place.current().unwrap(), Current { sequence: 2, generation: new });
    assert_eq!(place.history(10).unwrap().len(), 2);
}

#[test]
fn a_change_whose_entry_is_missing_is_named_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let ids = [0, 1, 2].map(|mark| publish(root.path(), mark));
    fs::remove_file(root.path().join("history/2.json")).unwrap();
    let history = LocalPlace::new(root.path()).history(10).unwrap();
    let sequences: Vec<u64> = history.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, [3, 1]);
    assert_eq!(history[0].previous.as_ref(), Some(&ids[1]));
}
