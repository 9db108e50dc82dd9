//! A running store: readers pin, swaps are whole, failures keep the last good generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skeg_vector_store::{Error, Live, ModelBinding, Reload, ReloadEvent, Store, set_current};

use crate::support::{card, model, open, publish, replace_current, write};

/// Everything of a pinned generation is of one mark.
fn check_whole(live: &Live<String>) {
    assert_eq!(live.attached, live.generation.card);
    let value = live.generation.vectors.values().next().unwrap().values[0];
    for mark in [0_u8, 1] {
        if live.generation.card == card(mark) {
            assert!((value - (f32::from(mark) + 1.0)).abs() < f32::EPSILON);
        }
    }
    for vectors in live.generation.vectors.values() {
        assert!(vectors.values.iter().all(|other| other.to_bits() == value.to_bits()));
    }
    assert!(live.generation.root_hash.starts_with(live.generation.id.as_str()));
}

#[test]
fn readers_never_see_a_mix_during_two_hundred_swaps() {
    const NUM_READERS: usize = 4;
    let root = tempfile::tempdir().unwrap();
    let ids = [publish(root.path(), 0), write(root.path(), 1)];
    let store = open(root.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..NUM_READERS {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let pinned = store.current();
                    let before = pinned.generation.id.clone();
                    check_whole(&pinned);
                    assert_eq!(pinned.generation.id, before);
                }
            });
        }
        for swap in 1..=200 {
            let (from, to) = (&ids[(swap + 1) % 2], &ids[swap % 2]);
            set_current(root.path(), to, None).unwrap();
            let swapped = Reload::Swapped { from: from.clone(), to: to.clone() };
            assert_eq!(store.reload().unwrap(), swapped);
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!((store.swaps(), store.failed_reloads()), (200, 0));
}

#[test]
fn a_pin_outlives_the_swap_and_frees_what_was_attached_when_it_drops() {
    let root = tempfile::tempdir().unwrap();
    publish(root.path(), 0);
    let store: Store<Arc<()>> = Store::open(root.path(), model(), |_| Ok(Arc::new(()))).unwrap();
    let pinned = store.current();
    let attached = Arc::downgrade(&pinned.attached);
    publish(root.path(), 1);
    store.reload().unwrap();
    assert_eq!(pinned.generation.card, card(0));
    assert_eq!(store.current().generation.card, card(1));
    assert!(attached.upgrade().is_some());
    drop(pinned);
    assert!(attached.upgrade().is_none());
}

#[test]
fn the_same_generation_is_not_loaded_again() {
    let root = tempfile::tempdir().unwrap();
    let id = publish(root.path(), 0);
    let store = open(root.path());
    let pinned = store.current();
    assert_eq!(store.reload().unwrap(), Reload::Unchanged);
    set_current(root.path(), &id, None).unwrap();
    assert_eq!(store.reload().unwrap(), Reload::Unchanged);
    assert!(Arc::ptr_eq(&pinned, &store.current()));
}

#[test]
fn a_failed_reload_keeps_the_last_good_one_and_a_repaired_current_is_picked_up() {
    let root = tempfile::tempdir().unwrap();
    let a = publish(root.path(), 0);
    let store = open(root.path());
    let events = store.subscribe();
    let good = std::fs::read_to_string(root.path().join("CURRENT")).unwrap();

    replace_current(root.path(), "{\"sequence\": 2, ");
    let error = store.reload().unwrap_err().to_string();
    assert!(error.contains("CURRENT: found something else"), "{error}");
    assert_eq!(events.try_recv().unwrap(), ReloadEvent::Failed { reason: error });
    std::fs::remove_file(root.path().join("CURRENT")).unwrap();
    assert!(matches!(store.reload(), Err(Error::Layout { .. })));
    assert_eq!((store.failed_reloads(), store.current().generation.id.clone()), (2, a.clone()));

    replace_current(root.path(), &good);
    assert_eq!(store.reload().unwrap(), Reload::Unchanged);
    let b = publish(root.path(), 1);
    assert_eq!(store.reload().unwrap(), Reload::Swapped { from: a.clone(), to: b.clone() });
    assert!(matches!(events.try_recv().unwrap(), ReloadEvent::Failed { .. }));
    assert_eq!(events.try_recv().unwrap(), ReloadEvent::Swapped { from: a, to: b });
    assert!(events.try_recv().is_err());
}

#[test]
fn a_damaged_generation_and_one_for_another_model_do_not_go_live() {
    let root = tempfile::tempdir().unwrap();
    let a = publish(root.path(), 0);
    let store = open(root.path());
    let b = publish(root.path(), 1);
    let card_path = root.path().join("generations").join(b.as_str()).join("CARD.md");
    std::fs::write(&card_path, "changed").unwrap();
    assert!(matches!(store.reload(), Err(Error::Damaged { .. })));
    assert_eq!(store.current().generation.id, a);
    std::fs::write(&card_path, card(1)).unwrap();
    assert_eq!(store.reload().unwrap(), Reload::Swapped { from: a, to: b.clone() });

    let mut other = crate::support::new_generation(2);
    other.model.architecture_id = "another".to_owned();
    let other = skeg_vector_store::write_generation(root.path(), &other).unwrap();
    set_current(root.path(), &other, None).unwrap();
    assert!(matches!(store.reload(), Err(Error::WrongModel(_))));
    assert_eq!(store.current().generation.id, b);
}

#[test]
fn a_generation_that_cannot_be_prepared_does_not_go_live() {
    let root = tempfile::tempdir().unwrap();
    let a = publish(root.path(), 0);
    let prepare = |generation: &skeg_vector_store::Generation| {
        if generation.card == card(1) { Err("no slot is free".to_owned()) } else { Ok(()) }
    };
    let store = Store::open(root.path(), model(), prepare).unwrap();
    let b = publish(root.path(), 1);
    let error = store.reload().unwrap_err().to_string();
    assert_eq!(error, format!("generation {b} cannot go live: no slot is free"));
    assert_eq!((store.current().generation.id.clone(), store.failed_reloads()), (a, 1));
    let error = Store::open(root.path(), model(), prepare).unwrap_err();
    assert!(matches!(error, Error::Prepare { .. }), "{error}");
}

#[test]
fn a_store_that_cannot_be_opened_fails() {
    let root = tempfile::tempdir().unwrap();
    let open = |model: ModelBinding| Store::open(root.path(), model, |_| Ok(()));
    assert!(matches!(open(model()), Err(Error::Layout { .. })));
    publish(root.path(), 0);
    let other = ModelBinding { weights_id: "other".to_owned(), ..model() };
    assert!(matches!(open(other), Err(Error::WrongModel(_))));
    assert!(open(model()).is_ok());
}

#[test]
fn a_subscriber_that_does_not_read_stops_nobody() {
    let root = tempfile::tempdir().unwrap();
    publish(root.path(), 0);
    let store = open(root.path());
    let idle = store.subscribe();
    drop(store.subscribe());
    replace_current(root.path(), "broken");
    for _ in 0..100 {
        assert!(store.reload().is_err());
    }
    assert_eq!(store.failed_reloads(), 100);
    assert_eq!(idle.try_iter().count(), 64);
}
