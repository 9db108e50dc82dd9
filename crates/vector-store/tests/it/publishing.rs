//! `CURRENT` changes whole, in order, and only from what the writer had seen.

use std::sync::Barrier;

use skeg_vector_store::{Current, Error, GenerationId, read_current, set_current};

use crate::support::{replace_current, write};

#[test]
fn the_sequence_grows_by_one_with_each_change() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (write(root.path(), 0), write(root.path(), 1));
    for (sequence, id) in (1..).zip([&a, &b, &b, &a]) {
        let current = set_current(root.path(), id, None).unwrap();
        assert_eq!(current, Current { sequence, generation: id.clone() });
        assert_eq!(read_current(root.path()).unwrap(), current);
    }
    let text = std::fs::read_to_string(root.path().join("CURRENT")).unwrap();
    assert_eq!(text, format!("{{\"sequence\": 4, \"generation\": \"{a}\"}}\n"));
}

#[test]
fn a_writer_that_saw_another_sequence_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (write(root.path(), 0), write(root.path(), 1));
    let error = set_current(root.path(), &a, Some(1)).unwrap_err().to_string();
    assert!(
        error.contains("CURRENT: field `sequence`: found 0, expected 1; another publisher"),
        "{error}"
    );
    set_current(root.path(), &a, Some(0)).unwrap();
    assert!(set_current(root.path(), &b, Some(0)).is_err());
    assert_eq!(read_current(root.path()).unwrap().generation, a);
    set_current(root.path(), &b, Some(1)).unwrap();
    assert_eq!(read_current(root.path()).unwrap().generation, b);
}

#[test]
fn of_two_writers_that_saw_the_same_one_wins() {
    let root = tempfile::tempdir().unwrap();
    let ids = [write(root.path(), 0), write(root.path(), 1)];
    for sequence in 0..20 {
        let start = Barrier::new(ids.len());
        let write = |id: &GenerationId| {
            start.wait();
            set_current(root.path(), id, Some(sequence))
        };
        let results: Vec<Result<Current, Error>> = std::thread::scope(|scope| {
            let writers = ids.each_ref().map(|id| scope.spawn(|| write(id)));
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let winners: Vec<&Current> =
            results.iter().filter_map(|result| result.as_ref().ok()).collect();
        let [winner] = winners.as_slice() else { panic!("{results:?}") };
        assert_eq!(read_current(root.path()).unwrap(), **winner);
        assert_eq!(winner.sequence, sequence + 1);
        let conflicts =
            results.iter().filter(|result| matches!(result, Err(Error::Conflict { .. })));
        assert_eq!(conflicts.count(), 1);
    }
}

#[test]
fn writers_that_expect_nothing_never_share_a_sequence() {
    let root = tempfile::tempdir().unwrap();
    let id = write(root.path(), 0);
    let publish = || set_current(root.path(), &id, None).unwrap().sequence;
    let five = || [(); 5].map(|()| publish());
    let mut sequences: Vec<u64> = std::thread::scope(|scope| {
        let writers = [(); 4].map(|()| scope.spawn(five));
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=20).collect::<Vec<u64>>());
}

#[test]
fn what_cannot_be_loaded_is_not_published() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (write(root.path(), 0), write(root.path(), 1));
    set_current(root.path(), &a, None).unwrap();
    let card = root.path().join("generations").join(b.as_str()).join("CARD.md");
    std::fs::write(card, "changed").unwrap();
    assert!(matches!(set_current(root.path(), &b, None), Err(Error::Damaged { .. })));
    assert_eq!(read_current(root.path()).unwrap().generation, a);
}

#[test]
fn a_current_that_cannot_be_read_is_not_written_over() {
    let root = tempfile::tempdir().unwrap();
    let id = write(root.path(), 0);
    replace_current(root.path(), "not json");
    assert!(matches!(set_current(root.path(), &id, None), Err(Error::Syntax { .. })));
    replace_current(
        root.path(),
        &format!("{{\"sequence\": {}, \"generation\": \"{id}\"}}", u64::MAX),
    );
    let error = set_current(root.path(), &id, None).unwrap_err().to_string();
    assert!(error.contains("cannot grow"), "{error}");
}
