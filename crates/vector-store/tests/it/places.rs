//! What holds in every place, a folder or an object store: compare-and-set, history, removal, racing publishers.

use std::sync::Barrier;

use skeg_vector_store::place::{LocalPlace, Look, Place, open};
use skeg_vector_store::{
    Change, ChangeKind, Current, Error, GenerationId, Result, rollback_target,
};

use crate::bucket::{self, publish_to, write_to};

const PUBLISHERS: u8 = 8;

/// Runs a check in a folder and in an object store.
fn in_each_place(check: impl Fn(&dyn Place)) {
    let root = tempfile::tempdir().unwrap();
    check(&LocalPlace::new(root.path().join("made")));
    check(&bucket::place(&bucket::empty()));
}

fn change(kind: ChangeKind, reason: &str) -> Change {
    Change { kind, actor: "tests".to_owned(), reason: reason.to_owned() }
}

#[test]
fn a_generation_is_read_as_it_was_written() {
    in_each_place(|place| {
        assert_eq!(place.find_current().unwrap(), None);
        let error = place.current().unwrap_err().to_string();
        assert!(error.contains("there is no CURRENT"), "{error}");
        let id = write_to(place, 3);
        let files = place.read_files(&id).unwrap();
        assert_eq!(place.add_files(&files).unwrap(), id);
        assert_eq!(place.load(&id).unwrap().card, crate::support::card(3));
        let listed = place.generations().unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].id == id && listed[0].is_whole);
        assert!(listed[0].modified <= place.now().unwrap());
    });
}

#[test]
fn what_is_no_generation_is_not_taken() {
    in_each_place(|place| {
        let id = write_to(place, 0);
        let mut files = place.read_files(&id).unwrap();
        files.insert("../CURRENT".to_owned(), b"{}".to_vec());
        assert!(place.add_files(&files).is_err());
        files.remove("../CURRENT");
        files.insert("CARD.md".to_owned(), b"changed".to_vec());
        assert!(matches!(place.add_files(&files), Err(Error::Damaged { .. })));
        let absent = GenerationId::parse("0123456789abcdef").unwrap();
        let error = place.set_current(&absent, None, &Change::default()).unwrap_err().to_string();
        assert!(error.contains("there is no generation 0123456789abcdef"), "{error}");
        assert_eq!(place.find_current().unwrap(), None);
    });
}

#[test]
fn every_change_is_in_the_history_with_who_and_why() {
    in_each_place(|place| {
        let (a, b) = (write_to(place, 0), write_to(place, 1));
        place.set_current(&a, Some(0), &change(ChangeKind::Publish, "first")).unwrap();
        place.set_current(&b, Some(1), &change(ChangeKind::Publish, "second")).unwrap();
        place.set_current(&a, Some(2), &change(ChangeKind::Rollback, "b was bad")).unwrap();
        let history = place.history(10).unwrap();
        let told: Vec<_> = history
            .iter()
            .map(|entry| {
                let before = entry.previous.as_ref();
                (entry.sequence, &entry.generation, before, entry.reason.as_str(), entry.kind)
            })
            .collect();
        let expected = [
            (3, &a, Some(&b), "b was bad", ChangeKind::Rollback),
            (2, &b, Some(&a), "second", ChangeKind::Publish),
            (1, &a, None, "first", ChangeKind::Publish),
        ];
        assert_eq!(told, expected);
        assert!(history.iter().all(|entry| entry.actor == "tests" && entry.unix_time > 0));
        assert_eq!(place.history(2).unwrap(), history[..2]);
    });
}

#[test]
fn rolling_back_goes_one_further_each_time() {
    in_each_place(|place| {
        let ids = [0, 1, 2].map(|mark| publish_to(place, mark));
        let back = || {
            let current = place.current().unwrap();
            let target = rollback_target(&current, &place.history(100).unwrap());
            if let Some(target) = &target {
                let how = change(ChangeKind::Rollback, "");
                place.set_current(target, Some(current.sequence), &how).unwrap();
            }
            target
        };
        assert_eq!([back(), back(), back()], [Some(ids[1].clone()), Some(ids[0].clone()), None]);
        // Publishing what serves already does not hide what served before.
        publish_to(place, 2);
        publish_to(place, 2);
        assert_eq!(back(), Some(ids[0].clone()));
    });
}

#[test]
fn what_serves_is_not_removed() {
    in_each_place(|place| {
        let (a, b) = (publish_to(place, 0), write_to(place, 1));
        let error = place.remove(&a).unwrap_err().to_string();
        assert!(error.contains("CURRENT names this generation"), "{error}");
        place.remove(&b).unwrap();
        let ids: Vec<_> = place.generations().unwrap().into_iter().map(|l| l.id).collect();
        assert_eq!(ids, [a]);
        assert!(place.set_current(&b, None, &Change::default()).is_err());
    });
}

#[test]
fn of_eight_publishers_one_wins_each_round() {
    in_each_place(|place| {
        let ids: Vec<_> = (0..PUBLISHERS).map(|mark| write_to(place, mark)).collect();
        for sequence in 0..12 {
            let start = Barrier::new(ids.len());
            let publish = |id| {
                start.wait();
                place.set_current(id, Some(sequence), &change(ChangeKind::Publish, "race"))
            };
            let results: Vec<Result<Current>> = std::thread::scope(|scope| {
                let publishers: Vec<_> =
                    ids.iter().map(|id| scope.spawn(move || publish(id))).collect();
                publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
            });
            let winners: Vec<_> = results.iter().flatten().collect();
            let [winner] = winners.as_slice() else { panic!("{results:?}") };
            assert_eq!(place.current().unwrap(), **winner);
            assert_eq!(winner.sequence, sequence + 1);
            let lost = |result: &&Result<Current>| {
                matches!(result, Err(Error::Conflict { found, expected, .. })
                    if *found == sequence + 1 && *expected == sequence)
            };
            assert_eq!(results.iter().filter(lost).count(), ids.len() - 1, "{results:?}");
            let newest = &place.history(1).unwrap()[0];
            assert_eq!((newest.sequence, &newest.generation), (sequence + 1, &winner.generation));
        }
    });
}

#[test]
fn publishers_that_expect_nothing_all_succeed_in_some_order() {
    in_each_place(|place| {
        let ids: Vec<_> = (0..PUBLISHERS).map(|mark| write_to(place, mark)).collect();
        let publish = |id| place.set_current(id, None, &Change::default()).unwrap().sequence;
        let mut sequences: Vec<u64> = std::thread::scope(|scope| {
            let publish = &publish;
            let publishers: Vec<_> =
                ids.iter().map(|id| scope.spawn(move || publish(id))).collect();
            publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
        });
        sequences.sort_unstable();
        assert_eq!(sequences, (1..=u64::from(PUBLISHERS)).collect::<Vec<_>>());
        assert_eq!(place.history(100).unwrap().len(), ids.len());
    });
}

#[test]
fn an_object_that_did_not_change_is_not_sent_again() {
    let place = bucket::place(&bucket::empty());
    publish_to(&place, 0);
    let Look::Found { tag: Some(tag), .. } = place.look(None).unwrap() else { panic!("no tag") };
    assert_eq!(place.look(Some(&tag)).unwrap(), Look::Unchanged);
    publish_to(&place, 1);
    assert!(matches!(place.look(Some(&tag)).unwrap(), Look::Found { .. }));
}

#[test]
fn addresses_name_places() {
    for (address, name) in [
        ("vectors/model", "vectors/model"),
        ("file:///srv/vectors", "/srv/vectors"),
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
    ] {
        assert_eq!(open(address).unwrap().name(), name);
    }
    for address in ["ftp://host/path", "file://relative", "http://host/bucket", "s3://"] {
        let error = open(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot open {address}: ")), "{error}");
    }
}
