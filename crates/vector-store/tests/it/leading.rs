//! A mirror that leads a store: the copy names what the store serves, and nothing that it refused.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skeg_vector_store::mirror::{FollowOptions, Mirror, Synced};
use skeg_vector_store::place::{Bucket as _, CloudBucket, LocalPlace, ObjectPlace, Only, Place};
use skeg_vector_store::{
    Change, Current, Error, Generation, GenerationId, Reload, ReloadEvent, Store, WatchOptions,
    read_current,
};

use crate::bucket::{self, TestBucket, publish_to};
use crate::support::{model, open};

/// A test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(120);
/// Tries that the growing pause leaves room for in any time that a test may take: after 1, 3, 7, 15, 31, 63 and 127 seconds.
const MAX_TRIES_BY_TIME: usize = 7;

/// Refuses one generation, or all as long as it is closed, and counts what it was asked.
#[derive(Default)]
struct Gate {
    is_closed: AtomicBool,
    refused: Mutex<Option<GenerationId>>,
    num_asked: AtomicUsize,
}

impl Gate {
    fn prepare(&self, generation: &Generation) -> Result<(), String> {
        self.num_asked.fetch_add(1, Ordering::SeqCst);
        let is_refused = self.refused.lock().unwrap().as_ref() == Some(&generation.id);
        if is_refused || self.is_closed.load(Ordering::SeqCst) {
            return Err("no room".to_owned());
        }
        Ok(())
    }

    fn refuse(&self, id: &GenerationId) {
        *self.refused.lock().unwrap() = Some(id.clone());
    }
}

struct Replica {
    mirror: Arc<Mirror>,
    store: Arc<Store<()>>,
    gate: Arc<Gate>,
}

/// A replica that serves the only generation of a place.
fn start(bucket: &Arc<CloudBucket>, folder: &Path) -> Replica {
    start_through(Box::new(bucket::place(bucket)), folder)
}

fn start_through(place: Box<dyn Place>, folder: &Path) -> Replica {
    let mirror = Arc::new(Mirror::new(place, folder).unwrap().for_model(model()));
    mirror.sync().unwrap();
    let gate = Arc::new(Gate::default());
    let asked = Arc::clone(&gate);
    let store = Store::open(folder, model(), move |generation| asked.prepare(generation)).unwrap();
    let store = Arc::new(store);
    mirror.lead(&store);
    Replica { mirror, store, gate }
}

fn live(replica: &Replica) -> GenerationId {
    replica.store.current().generation.id.clone()
}

#[test]
fn what_the_store_takes_is_live_and_named_and_what_it_refuses_is_neither() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    publish_to(&place, 0);
    let replica = start(&bucket, folder.path());
    let b = publish_to(&place, 1);
    let current = Current { sequence: 2, generation: b.clone() };
    assert_eq!(replica.mirror.sync().unwrap(), Synced::Followed(current.clone()));
    assert_eq!(
        (live(&replica), read_current(folder.path()).unwrap()),
        (b.clone(), current.clone())
    );

    let events = replica.store.subscribe();
    replica.gate.is_closed.store(true, Ordering::SeqCst);
    publish_to(&place, 2);
    for _ in 0..2 {
        assert!(matches!(replica.mirror.sync(), Err(Error::Prepare { .. })));
    }
    assert_eq!((live(&replica), read_current(folder.path()).unwrap()), (b.clone(), current));
    assert!(replica.mirror.last_fault().unwrap().contains("no room"));
    assert_eq!((replica.store.failed_reloads(), replica.mirror.faults()), (2, 1));
    assert!(matches!(events.try_recv(), Ok(ReloadEvent::Failed { .. })));
    // Whoever starts again starts with what was served.
    assert_eq!(open(folder.path()).current().generation.id, b);

    // The place goes back to it: nothing is to be made live, and the sequence is followed.
    place.set_current(&b, Some(3), &Change::default()).unwrap();
    let back = Current { sequence: 4, generation: b };
    assert_eq!(replica.mirror.sync().unwrap(), Synced::Followed(back.clone()));
    assert_eq!(read_current(folder.path()).unwrap(), back);
    assert_eq!(replica.mirror.last_fault(), None);
}

#[test]
fn what_was_refused_is_taken_once_it_can_be() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    publish_to(&place, 0);
    let replica = start(&bucket, folder.path());
    replica.gate.is_closed.store(true, Ordering::SeqCst);
    let b = publish_to(&place, 1);
    assert!(replica.mirror.sync().is_err());
    replica.gate.is_closed.store(false, Ordering::SeqCst);
    replica.mirror.sync().unwrap();
    assert_eq!(live(&replica), b);
}

#[test]
fn looks_at_an_interval_do_not_try_what_was_refused_every_time() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    publish_to(&place, 0);
    let path = Arc::new(TestBucket::new(&bucket));
    let replica = start_through(Box::new(ObjectPlace::new(Arc::clone(&path))), folder.path());
    let b = publish_to(&place, 1);
    replica.gate.refuse(&b);
    let events = replica.store.subscribe();
    let looks = FollowOptions { interval: Duration::from_micros(10) };
    let following = replica.mirror.follow(looks).unwrap();
    let event = events.recv_timeout(DEADLINE);
    assert!(matches!(event, Ok(ReloadEvent::Failed { .. })));
    path.calls.lock().unwrap().clear();
    while path.calls.lock().unwrap().len() < 100 {
        std::thread::yield_now();
    }
    // Another generation is another matter.
    let c = publish_to(&place, 2);
    let event = events.recv_timeout(DEADLINE);
    assert!(matches!(event, Ok(ReloadEvent::Swapped { to, .. }) if to == c));
    drop(following);
    assert!(replica.gate.num_asked.load(Ordering::SeqCst) <= 3 + MAX_TRIES_BY_TIME);
    assert_eq!(replica.store.failed_reloads(), 1);
}

#[test]
fn looks_at_an_interval_do_not_read_what_is_damaged_every_time() {
    let (bucket, folder) = (bucket::empty(), tempfile::tempdir().unwrap());
    let place = bucket::place(&bucket);
    publish_to(&place, 0);
    let path = Arc::new(TestBucket::new(&bucket));
    let replica = start_through(Box::new(ObjectPlace::new(Arc::clone(&path))), folder.path());
    let b = publish_to(&place, 1);
    let card = format!("generations/{b}/CARD.md");
    bucket.put(&card, b"changed after it was published", &Only::Always).unwrap();
    path.calls.lock().unwrap().clear();
    let looks = FollowOptions { interval: Duration::from_micros(10) };
    let following = replica.mirror.follow(looks).unwrap();
    let count =
        |word: &str| path.calls.lock().unwrap().iter().filter(|call| call.contains(word)).count();
    while count("CURRENT") < 100 {
        std::thread::yield_now();
    }
    assert!((1..=1 + MAX_TRIES_BY_TIME).contains(&count(&card)));
    assert_eq!(replica.mirror.faults(), 1);
    // By hand it is read at once.
    let before = count(&card);
    drop(following);
    assert!(matches!(replica.mirror.sync(), Err(Error::Damaged { .. })));
    assert!(count(&card) > before);
}

#[test]
fn a_watched_folder_does_not_try_what_was_refused_every_time_either() {
    let folder = tempfile::tempdir().unwrap();
    let place = LocalPlace::new(folder.path());
    let a = publish_to(&place, 0);
    let gate = Arc::new(Gate::default());
    let asked = Arc::clone(&gate);
    let store = Store::open(folder.path(), model(), move |generation| asked.prepare(generation));
    let store = Arc::new(store.unwrap());
    let b = publish_to(&place, 1);
    gate.refuse(&b);
    let events = store.subscribe();
    let poll_interval = Duration::from_micros(10);
    let options = WatchOptions { poll_interval, file_events: false };
    let watching = store.watch_with(options).unwrap();
    assert!(matches!(events.recv_timeout(DEADLINE), Ok(ReloadEvent::Failed { .. })));
    let c = publish_to(&place, 2);
    let event = events.recv_timeout(DEADLINE);
    assert_eq!(event, Ok(ReloadEvent::Swapped { from: a.clone(), to: c.clone() }));
    drop(watching);
    assert!(gate.num_asked.load(Ordering::SeqCst) <= 3 + MAX_TRIES_BY_TIME);
    // By hand it is tried at once.
    gate.is_closed.store(true, Ordering::SeqCst);
    place.set_current(&a, None, &Change::default()).unwrap();
    assert!(store.reload().is_err());
    gate.is_closed.store(false, Ordering::SeqCst);
    assert_eq!(store.reload().unwrap(), Reload::Swapped { from: c, to: a });
}
