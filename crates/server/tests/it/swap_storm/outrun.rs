//! Publications that outrun long requests: the tables fill up, the next generation waits, nothing is answered otherwise than asked.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use serde_json::json;
use skeg_model::engine::{
    Engine, EventSink, GenerationRequest, LlamaEngine, SeqId, SharedStats, StepOutcome,
};
use skeg_model::steering::{SlotLease, SteeringVector};
use skeg_vector_store::{Error, Reload, ReloadEvent, WatchOptions};
use tokio::runtime::Runtime;

use super::kinds::{Kind, References};
use super::rig::{NUM_CATEGORIES, Rig, Setup};

/// A test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(120);
/// Generations for which the engine has slots.
const NUM_FITTING: usize = 3;

/// A real engine that makes a step only when the test lets it; commands are carried out all the time.
struct Gated {
    engine: LlamaEngine,
    /// One message, one step; free once the other end is gone.
    gate: Option<Receiver<()>>,
}

impl Engine for Gated {
    fn submit(
        &mut self,
        request: GenerationRequest,
        sink: Box<dyn EventSink>,
    ) -> skeg_model::Result<SeqId> {
        self.engine.submit(request, sink)
    }

    fn cancel(&mut self, seq_id: SeqId) {
        self.engine.cancel(seq_id);
    }

    fn register_vectors(&mut self, vectors: &[SteeringVector]) -> skeg_model::Result<SlotLease> {
        self.engine.register_vectors(vectors)
    }

    fn step(&mut self) -> skeg_model::Result<StepOutcome> {
        match self.gate.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => {
                std::thread::yield_now();
                return Ok(StepOutcome::Idle);
            }
            Some(Err(TryRecvError::Disconnected)) => self.gate = None,
            Some(Ok(())) | None => {}
        }
        self.engine.step()
    }

    fn num_unfinished(&self) -> usize {
        self.engine.num_unfinished()
    }

    fn stats(&self) -> SharedStats {
        self.engine.stats()
    }
}

fn gated(num_slots: usize) -> (Rig, SyncSender<()>) {
    let (gate, permits) = sync_channel(1);
    let setup = Setup { num_slots, ..Setup::default() };
    let rig = setup.start_with(|engine| Box::new(Gated { engine, gate: Some(permits) }));
    (rig, gate)
}

/// Requests under way.
struct Running {
    runtime: Runtime,
    rig: Arc<Rig>,
    kinds: Arc<Vec<Kind>>,
}

type Answering = tokio::task::JoinHandle<crate::harness::Answer>;

impl Running {
    /// Sends a request and waits until the engine has it, and so until its generation is pinned.
    fn begin(&self, idx: usize) -> Answering {
        let num_before = self.rig.engine.num_admitted();
        let (rig, kinds) = (Arc::clone(&self.rig), Arc::clone(&self.kinds));
        let answer = self.runtime.spawn(async move { rig.ask(&kinds[idx]).await });
        while self.rig.engine.num_admitted() == num_before {
            std::thread::yield_now();
        }
        answer
    }
}

#[test]
fn publications_that_outrun_requests_wait_for_a_slot_and_are_then_taken_by_themselves() {
    // A short and a long answer; sums need a slot of their own.
    let long = json!({"max_tokens": 60, "ignore_eos": true, "stream": true});
    let kinds = vec![
        Kind::new(Some("malware_viruses"), json!({"max_tokens": 2, "ignore_eos": true})),
        Kind::new(Some("malware_viruses"), long),
        Kind::new(Some("malware_viruses,fraud_deception"), json!({})),
    ];
    let (short, long, sum) = (0, 1, 2);
    let runtime = Runtime::new().unwrap();
    let references = runtime.block_on(References::of(&kinds));
    let (rig, gate) = gated(NUM_FITTING * NUM_CATEGORIES);
    let running = Running { runtime, rig: Arc::new(rig), kinds: Arc::new(kinds) };
    let (rig, good) = (&running.rig, running.rig.good.clone());

    // Three generations are pinned, then a fourth comes.
    let first = running.begin(short);
    rig.publish(&good[1]).unwrap();
    let second = Arc::downgrade(&rig.store.current());
    let mut others = vec![(running.begin(long), good[1].clone())];
    rig.publish(&good[2]).unwrap();
    others.push((running.begin(long), good[2].clone()));
    assert_eq!(rig.num_free_slots(), 0);
    let error = rig.publish(&good[3]).unwrap_err();
    assert!(matches!(error, Error::Prepare { .. }), "{error}");
    let expected = format!(
        "generation {} cannot go live: steering: {NUM_CATEGORIES} vectors need a slot each and 0 of {} are free; \
         give the engine more steering slots, or wait until requests of an earlier generation end",
        good[3],
        NUM_FITTING * NUM_CATEGORIES
    );
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!((rig.live(), rig.store.failed_reloads()), (good[2].clone(), 1));

    // The last good one goes on; a sum is not answered without its vector.
    others.push((running.begin(long), good[2].clone()));
    let refused = running.runtime.block_on(rig.ask(&running.kinds[sum]));
    assert_eq!(refused.error(), (429, "no_steering_slot".to_owned()));

    // The watcher meets the same fault, and nothing new when it does so again.
    let events = rig.store.subscribe();
    let options = WatchOptions { poll_interval: Duration::from_millis(1), file_events: false };
    let watch = rig.store.watch_with(options).unwrap();
    // The prompts and the first tokens, then the short answer's end.
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    let answer = running.runtime.block_on(first).unwrap();
    assert_eq!(references.check(short, &running.kinds[short], &answer), good[0]);
    let swapped = ReloadEvent::Swapped { from: good[2].clone(), to: good[3].clone() };
    assert_eq!(events.recv_timeout(DEADLINE), Ok(swapped));
    assert_eq!((rig.store.swaps(), rig.store.failed_reloads()), (3, 1));
    assert_eq!(rig.engine.num_admitted(), others.len());
    // A stream that has begun keeps its generation's slots, and nothing else of it.
    while second.strong_count() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(rig.num_free_slots(), 0);
    drop((watch, gate));

    for (answer, generation) in others {
        let answer = running.runtime.block_on(answer).unwrap();
        assert_eq!(references.check(long, &running.kinds[long], &answer), generation);
    }
    let answer = running.runtime.block_on(rig.ask(&running.kinds[sum]));
    assert_eq!(references.check(sum, &running.kinds[sum], &answer), good[3]);
    rig.settle();
    assert_eq!(rig.num_free_slots(), (NUM_FITTING - 1) * NUM_CATEGORIES);
}

#[test]
fn a_client_that_leaves_lets_go_of_its_generation() {
    let kinds = vec![Kind::new(Some("physical_harm"), json!({"max_tokens": 60}))];
    let (rig, gate) = gated(2 * NUM_CATEGORIES);
    let runtime = Runtime::new().unwrap();
    let running = Running { runtime, rig: Arc::new(rig), kinds: Arc::new(kinds) };
    let (rig, good) = (&running.rig, running.rig.good.clone());
    let answer = running.begin(0);
    rig.publish(&good[1]).unwrap();
    assert!(matches!(rig.publish(&good[2]), Err(Error::Prepare { .. })));
    answer.abort();
    assert!(running.runtime.block_on(answer).unwrap_err().is_cancelled());
    gate.send(()).unwrap();
    while rig.engine.num_admitted() > 0 {
        std::thread::yield_now();
    }
    let swapped = Reload::Swapped { from: good[1].clone(), to: good[2].clone() };
    assert_eq!(rig.store.reload().unwrap(), swapped);
}
