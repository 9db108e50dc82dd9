//! The engine's thread and its handle, with an engine whose every step waits for the test.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use skeg_model::engine::{
    Engine, EngineConfig, EngineHandle, EngineStats, EngineThread, Event, EventSink, Finish,
    FinishReason, GenerationRequest, SeqId, SharedStats, SteeringReport, StepOutcome, SubmitError,
    TokenLogprob,
};
use skeg_model::steering::{SlotLease, SteeringVector};
use skeg_model::{Error, Result};

use crate::engine_company;
use crate::engine_support::{Reader, request, sink};

/// A test that would hang forever fails after this long instead.
const HANG: Duration = Duration::from_secs(20);

/// What the engine does in a step.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// One token for each sequence whose reader is there; the others are dropped.
    Advance,
    /// Ends every sequence.
    FinishAll,
    /// Ends the one that was submitted first.
    FinishFirst,
    /// Gives every sequence up, for a device that fails.
    FailOnDevice,
    /// The same for another reason.
    Fail,
    Panic,
}

/// Steps as it is ordered and says when it waits for an order. Ends everything when nobody orders.
struct OrderedEngine {
    at_step: SyncSender<()>,
    orders: Receiver<Order>,
    sequences: Vec<(SeqId, Box<dyn EventSink>)>,
    num_submitted: u64,
}

impl Engine for OrderedEngine {
    fn submit(
        &mut self,
        request: GenerationRequest,
        mut sink: Box<dyn EventSink>,
    ) -> Result<SeqId> {
        if request.prompt_token_ids.is_empty() {
            sink.try_send(Event::Failed("empty".to_owned())).unwrap();
            return Err(Error::Request("empty".to_owned()));
        }
        self.num_submitted += 1;
        let seq_id = SeqId(self.num_submitted);
        self.sequences.push((seq_id, sink));
        Ok(seq_id)
    }

    fn cancel(&mut self, seq_id: SeqId) {
        self.sequences.retain(|(id, _)| *id != seq_id);
    }

    fn register_vectors(&mut self, vectors: &[SteeringVector]) -> Result<SlotLease> {
        Ok(SlotLease::new((1..=u32::try_from(vectors.len()).unwrap()).collect()))
    }

    fn step(&mut self) -> Result<StepOutcome> {
        if self.sequences.is_empty() {
            return Ok(StepOutcome::Idle);
        }
        // Full or gone when the test does not listen.
        self.at_step.try_send(()).ok();
        let end = |sink: &mut Box<dyn EventSink>| {
            sink.try_send(Event::Finished(Finish {
                reason: FinishReason::Length,
                prompt_tokens: 1,
                completion_tokens: 0,
                steering: SteeringReport::default(),
            }))
            .ok();
        };
        match self.orders.recv().unwrap_or(Order::FinishAll) {
            Order::Advance => self.sequences.retain_mut(|(_, sink)| {
                let token = TokenLogprob { token_id: 1, logprob: 0.0 };
                let steering = SteeringReport::default();
                let event = Event::Token { token, top: vec![], steering };
                !sink.is_closed() && sink.try_send(event).is_ok()
            }),
            Order::FinishAll => self.sequences.drain(..).for_each(|(_, mut sink)| end(&mut sink)),
            Order::FinishFirst => end(&mut self.sequences.remove(0).1),
            Order::FailOnDevice => {
                self.sequences.clear();
                let (device, reason) = ("cuda".to_owned(), "as ordered".to_owned());
                return Err(Error::Device { device, reason });
            }
            Order::Fail => {
                self.sequences.clear();
                return Err(Error::Request("as ordered".to_owned()));
            }
            Order::Panic => panic!("as ordered"),
        }
        Ok(StepOutcome::Advanced)
    }

    fn num_unfinished(&self) -> usize {
        self.sequences.len()
    }

    /// It counts nothing.
    fn stats(&self) -> SharedStats {
        SharedStats::default()
    }
}

/// The thread under test and the ropes it hangs on.
struct Bench {
    thread: EngineThread,
    handle: EngineHandle,
    at_step: Receiver<()>,
    orders: SyncSender<Order>,
    exited: Receiver<()>,
}

fn bench(max_admitted: usize) -> Bench {
    let (at_step_sender, at_step) = sync_channel(1000);
    let (orders, orders_receiver) = sync_channel(1000);
    let (exit, exited) = sync_channel(1);
    let engine = OrderedEngine {
        at_step: at_step_sender,
        orders: orders_receiver,
        sequences: Vec::new(),
        num_submitted: 0,
    };
    let on_exit = move || exit.send(()).unwrap();
    let (thread, handle) = EngineThread::spawn(Box::new(engine), max_admitted, on_exit).unwrap();
    Bench { thread, handle, at_step, orders, exited }
}

fn submit(handle: &EngineHandle) -> Result<Reader, SubmitError> {
    let (sink, reader) = sink(100);
    handle.submit(request(vec![1], 100), sink).map(|()| reader)
}

fn ends(reader: &Reader) -> bool {
    matches!(reader.wait(), Some(Event::Finished(_)))
}

#[test]
fn a_full_engine_refuses_at_once_and_takes_again_what_fits() {
    let bench = bench(2);
    let first = submit(&bench.handle).unwrap();
    bench.at_step.recv().unwrap();
    let second = submit(&bench.handle).unwrap();
    assert!(matches!(submit(&bench.handle), Err(SubmitError::Overloaded { limit: 2, .. })));
    assert_eq!(bench.handle.num_admitted(), 2);

    bench.orders.send(Order::FinishFirst).unwrap();
    assert!(ends(&first));
    // The next step has begun, so the one that let go of the first sequence is over.
    bench.at_step.recv().unwrap();
    assert_eq!(bench.handle.num_admitted(), 1);
    let third = submit(&bench.handle).unwrap();
    bench.orders.send(Order::FinishAll).unwrap();
    bench.orders.send(Order::FinishAll).unwrap();
    assert!(ends(&second) && ends(&third));
}

#[test]
fn a_refused_request_gives_its_place_back_and_says_why() {
    let bench = bench(1);
    let (sink, reader) = sink(1);
    bench.handle.submit(request(vec![], 1), sink).unwrap();
    assert_eq!(reader.wait(), Some(Event::Failed("empty".to_owned())));
    assert_eq!(reader.wait(), None, "nothing after the refusal");
    // Commands are carried out in order: the refused one is done with.
    bench.handle.register_vectors(vec![]).unwrap();
    assert_eq!(bench.handle.num_admitted(), 0);
    assert!(submit(&bench.handle).is_ok());
}

#[test]
fn draining_finishes_what_was_taken_and_ends() {
    let bench = bench(4);
    let first = submit(&bench.handle).unwrap();
    bench.at_step.recv().unwrap();
    let queued = submit(&bench.handle).unwrap();
    bench.handle.drain();
    bench.handle.drain();
    assert!(matches!(submit(&bench.handle), Err(SubmitError::Stopped)));
    assert!(bench.handle.is_alive());
    bench.orders.send(Order::Advance).unwrap();
    bench.orders.send(Order::FinishAll).unwrap();
    assert!(matches!(first.wait(), Some(Event::Token { .. })));
    assert!(ends(&first) && ends(&queued));
    bench.exited.recv_timeout(HANG).unwrap();
    assert!(!bench.handle.is_alive());
    assert!(bench.thread.join(), "drained, not panicked");
    assert!(matches!(bench.handle.register_vectors(vec![]), Err(SubmitError::Stopped)));
}

#[test]
fn draining_an_idle_engine_ends_it() {
    let bench = bench(1);
    bench.handle.drain();
    bench.exited.recv_timeout(HANG).unwrap();
    assert!(bench.thread.join());
}

#[test]
fn a_panic_is_seen_by_everybody() {
    let bench = bench(4);
    let running = submit(&bench.handle).unwrap();
    bench.at_step.recv().unwrap();
    let queued = submit(&bench.handle).unwrap();
    bench.orders.send(Order::Panic).unwrap();
    bench.exited.recv_timeout(HANG).unwrap();
    assert!(!bench.handle.is_alive());
    assert_eq!((running.wait(), queued.wait()), (None, None), "every sink is dropped");
    assert!(!bench.thread.join());
    assert_eq!(bench.handle.num_admitted(), 0);
    assert!(matches!(submit(&bench.handle), Err(SubmitError::Stopped)));
    assert!(matches!(bench.handle.register_vectors(vec![]), Err(SubmitError::Stopped)));
    bench.handle.drain();
}

#[test]
fn vectors_are_registered_while_a_sequence_runs() {
    let bench = bench(1);
    let reader = submit(&bench.handle).unwrap();
    bench.at_step.recv().unwrap();
    let handle = bench.handle.clone();
    let registering = std::thread::spawn(move || handle.register_vectors(vec![]).unwrap());
    // However long it takes until the registration is in the channel, a step comes that it precedes.
    while !registering.is_finished() {
        bench.orders.send(Order::Advance).unwrap();
        bench.at_step.recv().unwrap();
        reader.read();
    }
    assert!(registering.join().unwrap().slots().is_empty());
    assert_eq!(bench.handle.num_admitted(), 1, "the sequence goes on");
}

#[test]
fn a_reader_that_is_gone_ends_its_sequence_at_the_next_step() {
    let bench = bench(2);
    let (leaves, stays) = (submit(&bench.handle).unwrap(), submit(&bench.handle).unwrap());
    bench.at_step.recv().unwrap();
    drop(leaves);
    // The second may have come after the first step had begun.
    for _ in 0..2 {
        bench.orders.send(Order::Advance).unwrap();
        bench.at_step.recv().unwrap();
    }
    assert_eq!(bench.handle.num_admitted(), 1);
    assert!(matches!(stays.wait(), Some(Event::Token { .. })));
}

#[test]
fn the_thread_ends_when_nobody_can_ask_any_more() {
    let bench = bench(1);
    let reader = submit(&bench.handle).unwrap();
    drop(bench.handle);
    bench.orders.send(Order::FinishAll).unwrap();
    assert!(ends(&reader), "what was taken is finished first");
    bench.exited.recv_timeout(HANG).unwrap();
}

#[test]
fn draining_is_heard_however_many_registrations_wait() {
    let bench = bench(3);
    let reader = submit(&bench.handle).unwrap();
    bench.at_step.recv().unwrap();
    let (refused, num_refused) = sync_channel(1000);
    // More than any bound on commands that wait: one of them at least is turned away.
    let registering: Vec<_> = (0..100)
        .map(|_| {
            let (handle, refused) = (bench.handle.clone(), refused.clone());
            std::thread::spawn(move || {
                if let Err(error) = handle.register_vectors(vec![]) {
                    refused
                        .send(matches!(error, SubmitError::Overloaded { limit: 64, .. }))
                        .unwrap();
                }
            })
        })
        .collect();
    assert!(num_refused.recv_timeout(HANG).unwrap(), "the queue has a bound");
    let beside = submit(&bench.handle).expect("registrations take no sequence's place");
    bench.handle.drain();
    drop(bench.orders);
    assert!(ends(&reader) && ends(&beside));
    bench.exited.recv_timeout(HANG).expect("the drain was heard");
    registering.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Hands in a sequence, whose step goes as ordered.
fn step(bench: &Bench, order: Order) {
    let reader = submit(&bench.handle).unwrap();
    bench.orders.send(order).unwrap();
    // Its end, or that of its sink.
    reader.wait();
}

#[test]
fn an_engine_whose_device_fails_step_after_step_is_given_up() {
    // A place is given back a little after its reader knows.
    let bench = bench(64);
    // A step that comes to its end tells that the device works.
    for order in [Order::FailOnDevice, Order::FinishAll] {
        (0..7).for_each(|_| step(&bench, order));
    }
    (0..20).for_each(|_| step(&bench, Order::Fail));
    (0..7).for_each(|_| step(&bench, Order::FailOnDevice));
    bench.handle.register_vectors(vec![]).unwrap();
    assert!(bench.handle.is_alive());
    step(&bench, Order::FailOnDevice);
    bench.exited.recv_timeout(HANG).expect("it ends");
    assert!(!bench.handle.is_alive());
    assert!(!bench.thread.join(), "that is no drain");
    assert!(matches!(submit(&bench.handle), Err(SubmitError::Stopped)));
}

#[test]
fn a_request_that_was_taken_is_never_lost_to_a_drain() {
    for _ in 0..200 {
        let bench = bench(64);
        drop(bench.orders);
        let (started, all_started) = sync_channel(3);
        let submitting: Vec<_> = (0..3)
            .map(|_| {
                let (handle, started) = (bench.handle.clone(), started.clone());
                std::thread::spawn(move || {
                    let mut readers = Vec::new();
                    started.send(()).unwrap();
                    loop {
                        match submit(&handle) {
                            Ok(reader) => readers.push(reader),
                            Err(SubmitError::Overloaded { .. }) => {}
                            Err(_) => return readers,
                        }
                    }
                })
            })
            .collect();
        (0..3).for_each(|_| all_started.recv().unwrap());
        bench.handle.drain();
        for thread in submitting {
            assert!(thread.join().unwrap().iter().all(ends), "taken and dropped without a word");
        }
        assert!(bench.thread.join());
    }
}

#[test]
fn the_engine_s_numbers_can_be_read_from_its_handle() {
    let config = EngineConfig::default();
    let engine = engine_company::engine(&config);
    let (thread, handle) = EngineThread::spawn(Box::new(engine), 2, || ()).unwrap();
    assert_eq!(handle.stats(), EngineStats::default());
    let (sink, reader) = sink(3);
    handle.submit(request(vec![1; 5], 3), sink).unwrap();
    handle.drain();
    assert!(thread.join());
    assert_eq!(reader.read().len(), 4);
    let stats = handle.stats();
    assert_eq!((stats.computed_rows, stats.num_held_blocks), (5 + 2, 0));
    assert_eq!(stats.num_blocks, config.kv_cache_tokens / config.block_size);
}
