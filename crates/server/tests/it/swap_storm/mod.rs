//! Ten thousand requests against a thousand publications, one in ten of them bad, on a real engine with a random model.
//!
//! A request is answered whole under the generation that it pinned, to the last bit what it is answered alone; whatever the threads do.

mod bad;
mod generations;
mod kinds;
mod outrun;
mod prefix_cache;
mod rig;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use skeg_server::SteeringSlots;
use skeg_vector_store::{Live, Reload};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use bad::{Bad, write_bad};
use kinds::{Kind, References, ask_checked, kinds, long_stream};
use rig::{NUM_CATEGORIES, Rig, Setup};

const NUM_REQUESTS: usize = 10_000;
const NUM_PUBLICATIONS: usize = 1_000;
/// One publication in so many is bad.
const BAD_EVERY: usize = 10;
const NUM_CLIENTS: usize = 16;
/// Requests that clients send for each publication; the publisher sends one more.
const REQUESTS_A_PUBLICATION: usize = NUM_REQUESTS / NUM_PUBLICATIONS - 1;

/// Keeps clients and publisher together: neither is ever far ahead of the other, and clients are answering while a
/// publication is made.
struct Pace {
    /// Requests that clients may begin.
    due: Semaphore,
    /// Requests that were answered and that no publication followed yet.
    answered: Semaphore,
}

impl Pace {
    fn new() -> Self {
        // Each client begins one, and finds at its end that there is none left.
        Self { due: Semaphore::new(NUM_CLIENTS), answered: Semaphore::new(REQUESTS_A_PUBLICATION) }
    }
}

/// Whoever panics stops the others, which would wait for it.
struct StopOnPanic<'a>(&'a Pace);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.due.close();
            self.0.answered.close();
        }
    }
}

/// The whole storm.
struct Storm {
    rig: Rig,
    /// The last is the long stream's.
    kinds: Vec<Kind>,
    references: References,
    pace: Pace,
    /// Requests that were begun.
    num_begun: AtomicUsize,
    num_answered: AtomicUsize,
}

impl Storm {
    /// The kinds but the last in turn, far from each other in the list.
    fn next_kind(&self) -> (usize, &Kind) {
        const STRIDE: usize = 13;
        let idx = self.num_begun.fetch_add(1, Ordering::Relaxed) * STRIDE % (self.kinds.len() - 1);
        (idx, &self.kinds[idx])
    }

    /// Asks as long as requests are due.
    async fn client(&self, left: &AtomicUsize) {
        let _stop = StopOnPanic(&self.pace);
        while let Ok(permit) = self.pace.due.acquire().await {
            permit.forget();
            let taken =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if taken.is_err() {
                return;
            }
            ask_checked(&self.rig, &self.references, self.next_kind()).await;
            self.num_answered.fetch_add(1, Ordering::Relaxed);
            self.pace.answered.add_permits(1);
        }
    }

    /// One long stream after the other, beside all other requests, until the publisher has ended.
    async fn long_client(&self) {
        let _stop = StopOnPanic(&self.pace);
        let idx = self.kinds.len() - 1;
        while !self.pace.answered.is_closed() {
            ask_checked(&self.rig, &self.references, (idx, &self.kinds[idx])).await;
        }
    }

    /// Publishes in turn what is good and what is bad; after each it asks and must be answered under the last good one.
    fn publisher(&self, bad: &[Bad], runtime: &Handle) -> Tally {
        let _stop = StopOnPanic(&self.pace);
        let mut tally = Tally::default();
        let step = u32::try_from(REQUESTS_A_PUBLICATION).unwrap();
        for nth in 0..NUM_PUBLICATIONS {
            let Ok(permits) = runtime.block_on(self.pace.answered.acquire_many(step)) else {
                break;
            };
            permits.forget();
            let from = self.rig.live();
            let mut expected = from.clone();
            if nth % BAD_EVERY == BAD_EVERY - 1 {
                let bad = &bad[tally.num_bad % bad.len()];
                bad.publish(self.rig.root(), || self.rig.store.reload());
                tally.num_bad += 1;
            } else {
                tally.num_good += 1;
                let to = self.rig.good[tally.num_good % self.rig.good.len()].clone();
                expected = to.clone();
                assert_eq!(self.rig.publish(&to).unwrap(), Reload::Swapped { from, to });
            }
            tally.note_live(&self.rig);
            let asked = ask_checked(&self.rig, &self.references, self.next_kind());
            assert_eq!(runtime.block_on(asked), expected, "publication {nth}");
            self.num_answered.fetch_add(1, Ordering::Relaxed);
            self.pace.due.add_permits(REQUESTS_A_PUBLICATION);
        }
        self.pace.answered.close();
        tally
    }
}

/// What the publisher did and saw.
#[derive(Default)]
struct Tally {
    num_good: usize,
    num_bad: usize,
    /// Every generation that went live and is still in memory.
    in_memory: Vec<Weak<Live<SteeringSlots>>>,
}

impl Tally {
    /// At most one generation a client, the long one's too, is in memory beside the live one.
    fn note_live(&mut self, rig: &Rig) {
        let live = Arc::downgrade(&rig.store.current());
        if self.in_memory.last().is_none_or(|last| !last.ptr_eq(&live)) {
            self.in_memory.push(live);
        }
        self.in_memory.retain(|live| live.strong_count() > 0);
        assert!(self.in_memory.len() <= NUM_CLIENTS + 2, "{} in memory", self.in_memory.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_requests_and_a_thousand_publications_mix_and_lose_nothing() {
    // What each client and the long one pins, the live generation, the one that replaces it; and a sum for everyone who asks, the publisher too.
    let num_slots = (NUM_CLIENTS + 3) * NUM_CATEGORIES + NUM_CLIENTS + 1;
    let setup = Setup { num_slots, prefix_caching: true, kv_cache_tokens: 4096 };
    let mut kinds = kinds();
    kinds.push(long_stream());
    let storm = Arc::new(Storm {
        references: References::of(&kinds).await,
        rig: setup.start(),
        kinds,
        pace: Pace::new(),
        num_begun: AtomicUsize::new(0),
        num_answered: AtomicUsize::new(0),
    });
    let bad = write_bad(storm.rig.root());
    let (runtime, publishing) = (Handle::current(), Arc::clone(&storm));
    let publisher = tokio::task::spawn_blocking(move || publishing.publisher(&bad, &runtime));
    let left = Arc::new(AtomicUsize::new(NUM_PUBLICATIONS * REQUESTS_A_PUBLICATION));
    let clients = (0..NUM_CLIENTS).map(|_| {
        let (storm, left) = (Arc::clone(&storm), Arc::clone(&left));
        tokio::spawn(async move { storm.client(&left).await })
    });
    let long = Arc::clone(&storm);
    let long = tokio::spawn(async move { long.long_client().await });
    for client in clients.chain([long]).collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let tally = publisher.await.unwrap();
    check_end(&storm, &tally, num_slots);
}

/// Everything was counted, and nothing is held but the last good generation.
fn check_end(storm: &Storm, tally: &Tally, num_slots: usize) {
    let rig = &storm.rig;
    assert_eq!(storm.num_answered.load(Ordering::Relaxed), NUM_REQUESTS);
    assert_eq!(tally.num_good + tally.num_bad, NUM_PUBLICATIONS);
    assert_eq!(tally.num_bad, NUM_PUBLICATIONS / BAD_EVERY);
    assert_eq!(rig.store.swaps(), tally.num_good as u64);
    assert_eq!(rig.store.failed_reloads(), tally.num_bad as u64);
    assert_eq!(rig.live(), rig.good[tally.num_good % rig.good.len()]);
    let in_memory = tally.in_memory.iter().filter(|live| live.strong_count() > 0);
    assert_eq!(in_memory.count(), 1);
    rig.settle();
    assert_eq!(rig.num_free_slots(), num_slots - NUM_CATEGORIES);
    let stats = rig.engine.stats();
    assert_eq!((stats.num_running, stats.num_waiting, stats.num_held_blocks), (0, 0, 0));
    assert!(stats.prefix_cache_hit_tokens > 0 && stats.prefix_cache_evictions > 0, "{stats:?}");
    assert_eq!(rig.engine.num_admitted(), 0);
}
