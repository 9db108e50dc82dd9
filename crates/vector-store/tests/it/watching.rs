//! The watching thread: events, polling, links, and its end. Each test waits on the store's own events.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use skeg_vector_store::{Generation, ReloadEvent, Store, WatchOptions};

use crate::support::{card, model, open, publish, replace_current};

/// Far longer than any look takes, so that only what is tested can bring the event.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// A test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(120);

const EVENTS_ALONE: WatchOptions = WatchOptions { poll_interval: NEVER, file_events: true };
const POLLING_ALONE: WatchOptions =
    WatchOptions { poll_interval: Duration::from_millis(1), file_events: false };

fn next(events: &Receiver<ReloadEvent>) -> ReloadEvent {
    events.recv_timeout(DEADLINE).expect("the store tells of a change")
}

/// Changes the store and expects it to follow, twice.
fn check_follows(options: WatchOptions) {
    let root = tempfile::tempdir().unwrap();
    let a = publish(root.path(), 0);
    let store = Arc::new(open(root.path()));
    let events = store.subscribe();
    let guard = store.watch_with(options).unwrap();
    let b = publish(root.path(), 1);
    assert_eq!(next(&events), ReloadEvent::Swapped { from: a, to: b.clone() });
    assert_eq!(store.current().generation.id, b);
    let c = publish(root.path(), 2);
    assert_eq!(next(&events), ReloadEvent::Swapped { from: b, to: c });
    drop(guard);
}

#[test]
fn a_change_is_followed_by_events() {
    check_follows(EVENTS_ALONE);
}

#[test]
fn a_change_is_followed_by_polling_where_there_are_no_events() {
    check_follows(POLLING_ALONE);
}

#[test]
fn a_change_made_before_the_watch_began_is_seen() {
    let root = tempfile::tempdir().unwrap();
    publish(root.path(), 0);
    let store = Arc::new(open(root.path()));
    let events = store.subscribe();
    publish(root.path(), 1);
    let _guard = store.watch_with(EVENTS_ALONE).unwrap();
    assert!(matches!(next(&events), ReloadEvent::Swapped { .. }));
}

#[test]
fn a_fault_counts_once_and_repair_is_picked_up() {
    let root = tempfile::tempdir().unwrap();
    publish(root.path(), 0);
    // The fault lies in preparing mark 1, so that the test sees when it is met.
    let (met, meetings) = sync_channel(16);
    let prepare = move |generation: &Generation| {
        if generation.card != card(1) {
            return Ok(());
        }
        met.try_send(()).ok();
        Err("no slot is free".to_owned())
    };
    let store = Arc::new(Store::open(root.path(), model(), prepare).unwrap());
    let events = store.subscribe();
    let _guard = store.watch_with(POLLING_ALONE).unwrap();
    publish(root.path(), 1);
    meetings.recv_timeout(DEADLINE).expect("the watcher tries it");
    assert_eq!(store.current().generation.card, card(0));
    publish(root.path(), 2);
    assert!(matches!(next(&events), ReloadEvent::Failed { .. }));
    assert!(matches!(next(&events), ReloadEvent::Swapped { .. }));
    assert_eq!((store.failed_reloads(), store.swaps()), (1, 1));
}

/// Torn, something else, and naming what is not there: by events and by polling.
#[test]
fn a_current_that_is_torn_or_points_nowhere_is_waited_out() {
    for options in [EVENTS_ALONE, POLLING_ALONE] {
        let root = tempfile::tempdir().unwrap();
        let mut serves = publish(root.path(), 0);
        let store = Arc::new(open(root.path()));
        let events = store.subscribe();
        let _guard = store.watch_with(options).unwrap();
        let nowhere = "{\"sequence\": 9, \"generation\": \"0123456789abcdef\"}\n";
        for (mark, bad) in [(1, ""), (2, "{\"sequence\": 2, "), (3, "\0\0\0\0"), (4, nowhere)] {
            let good = std::fs::read_to_string(root.path().join("CURRENT")).unwrap();
            replace_current(root.path(), bad);
            assert!(matches!(next(&events), ReloadEvent::Failed { .. }), "{bad:?}");
            assert_eq!(store.current().generation.id, serves);
            replace_current(root.path(), &good);
            let id = publish(root.path(), mark);
            assert_eq!(next(&events), ReloadEvent::Swapped { from: serves, to: id.clone() });
            serves = id;
        }
        assert_eq!((store.failed_reloads(), store.swaps()), (4, 4));
    }
}

#[cfg(unix)]
#[test]
fn a_swapped_link_is_followed() {
    use std::os::unix::fs::symlink;
    // As a mounted volume does it: CURRENT is a link through a folder link that is replaced in one step.
    let root = tempfile::tempdir().unwrap();
    let a = publish(root.path(), 0);
    let current = root.path().join("CURRENT");
    let layer = |name: &str| {
        let dir = root.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::rename(&current, dir.join("CURRENT")).unwrap();
    };
    layer("..first");
    let b = publish(root.path(), 1);
    layer("..second");
    symlink("..first", root.path().join("..data")).unwrap();
    symlink("..data/CURRENT", &current).unwrap();

    let store: Arc<Store<String>> = Arc::new(open(root.path()));
    assert_eq!(store.current().generation.id, a);
    let events = store.subscribe();
    let _guard = store.watch_with(EVENTS_ALONE).unwrap();
    symlink("..second", root.path().join("..data_tmp")).unwrap();
    std::fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
    assert_eq!(next(&events), ReloadEvent::Swapped { from: a, to: b });
}

#[test]
fn nothing_is_followed_after_the_guard_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let a = publish(root.path(), 0);
    let store = Arc::new(open(root.path()));
    // Dropping waits for the thread, so afterwards nobody is left to reload.
    drop(store.watch_with(POLLING_ALONE).unwrap());
    publish(root.path(), 1);
    assert_eq!(store.current().generation.id, a);
    assert_eq!(Arc::strong_count(&store), 1);
}

#[test]
fn a_watch_does_not_keep_the_store_alive() {
    let root = tempfile::tempdir().unwrap();
    publish(root.path(), 0);
    let store = Arc::new(open(root.path()));
    let weak = Arc::downgrade(&store);
    let guard = store.watch_with(EVENTS_ALONE).unwrap();
    drop(store);
    drop(guard);
    assert!(weak.upgrade().is_none());
}
