//! When the events of a step are delivered: while the next one's pass runs, or at once where none follows.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::*;
use crate::engine::{EngineThread, Finish};
use crate::gpu::Ranks;
use crate::gpu::stub::{Asked, StubOps};
use crate::testing::random_llama_into;

/// What happens in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happened {
    /// The device was asked; the same in a row counts once.
    Asked(Asked),
    /// The reader of this number was sent a token.
    Token(usize),
    /// It was sent an end, and which.
    End(usize, bool),
    /// Its sink was dropped.
    Gone(usize),
}

const INPUT: Happened = Happened::Asked(Asked::Input);
const OPERATIONS: Happened = Happened::Asked(Asked::Operation);
const RESULTS: Happened = Happened::Asked(Asked::Results);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Happened>>>);

impl Log {
    fn note(&self, what: Happened) {
        let mut log = self.0.lock().unwrap();
        if log.last() != Some(&what) || !matches!(what, Happened::Asked(_)) {
            log.push(what);
        }
    }

    fn take(&self) -> Vec<Happened> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Notes what it is sent. From token number `leaves_at` on it says that it is closed when it is sent something, and not before.
struct Noting {
    log: Log,
    reader: usize,
    num_tokens: usize,
    leaves_at: usize,
}

impl EventSink for Noting {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.log.note(match event {
            Event::Token { .. } => Happened::Token(self.reader),
            Event::Finished(_) => Happened::End(self.reader, true),
            Event::Failed(_) => Happened::End(self.reader, false),
        });
        self.num_tokens += 1;
        if self.num_tokens >= self.leaves_at { Err(SinkClosed) } else { Ok(()) }
    }

    fn is_closed(&self) -> bool {
        false
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        self.log.note(Happened::Gone(self.reader));
    }
}

/// An engine on a device that computes nothing, for two sequences at once: every token is 1. `told` says what becomes of what is
/// asked.
fn engine_on(told: impl FnMut(Asked) -> Result<()> + Send + 'static) -> LlamaEngine {
    let ranks = Ranks::one(Box::new(StubOps::new(told)));
    let form = RandomWeights::Dense(DType::F32);
    let llama = random_llama_into(tiny_config(), 7, form, ranks).unwrap();
    let config = EngineConfig { max_num_seqs: 2, ..EngineConfig::default() };
    LlamaEngine::new(Arc::new(llama), &config).unwrap()
}

/// What fails from now on when it is asked.
type Fault = Arc<Mutex<Option<Asked>>>;

struct Bench {
    engine: LlamaEngine,
    log: Log,
    fault: Fault,
    num_readers: usize,
}

impl Bench {
    fn new() -> Self {
        let (log, fault) = (Log::default(), Fault::default());
        let told = {
            let (log, fault) = (log.clone(), fault.clone());
            move |asked| {
                log.note(Happened::Asked(asked));
                match *fault.lock().unwrap() == Some(asked) {
                    true => Err(Error::Request("as the test wants it".to_owned())),
                    false => Ok(()),
                }
            }
        };
        let engine = engine_on(told);
        log.take();
        Self { engine, log, fault, num_readers: 0 }
    }

    fn submit(&mut self, max_new_tokens: usize, leaves_at: usize) -> SeqId {
        let reader = self.num_readers;
        self.num_readers += 1;
        let sink = Noting { log: self.log.clone(), reader, num_tokens: 0, leaves_at };
        self.engine.submit(request(max_new_tokens), Box::new(sink)).unwrap()
    }

    /// What happens in a step whose events may be kept.
    fn ahead(&mut self) -> Vec<Happened> {
        assert_eq!(self.engine.step_ahead().unwrap(), StepOutcome::Advanced);
        self.log.take()
    }
}

fn request(max_new_tokens: usize) -> GenerationRequest {
    GenerationRequest {
        prompt_token_ids: vec![3; 5],
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_new_tokens,
        stop_token_ids: Vec::new(),
        steering: None,
        gate: None,
    }
}

const STAYS: usize = usize::MAX;

#[test]
fn events_are_delivered_while_the_next_pass_runs_and_the_last_ones_at_once() {
    use Happened::{End, Gone, Token};
    let mut bench = Bench::new();
    bench.submit(2, STAYS);
    bench.submit(3, STAYS);
    assert_eq!(bench.ahead(), [INPUT, OPERATIONS, RESULTS]);
    assert_eq!(bench.ahead(), [INPUT, OPERATIONS, Token(0), Token(1), RESULTS]);
    let first_ends = [Token(0), End(0, true), Gone(0), Token(1)];
    let last_ends = [Token(1), End(1, true), Gone(1)];
    let third = [&[INPUT, OPERATIONS], &first_ends[..], &[RESULTS], &last_ends].concat();
    assert_eq!(bench.ahead(), third);
    assert_eq!(bench.engine.step_ahead().unwrap(), StepOutcome::Idle);
    assert_eq!(bench.log.take(), []);
}

#[test]
fn a_step_that_is_not_followed_has_delivered_its_events_when_it_returns() {
    use Happened::Token;
    let mut bench = Bench::new();
    bench.submit(3, STAYS);
    bench.submit(3, STAYS);
    for _ in 0..2 {
        bench.engine.step().unwrap();
        assert_eq!(bench.log.take(), [INPUT, OPERATIONS, RESULTS, Token(0), Token(1)]);
    }
}

#[test]
fn a_pass_that_fails_loses_no_event_of_the_step_before() {
    use Happened::{End, Gone, Token};
    for failing in [Asked::Input, Asked::Operation, Asked::Results] {
        let mut bench = Bench::new();
        for max_new_tokens in [9, 1, 9, 1] {
            bench.submit(max_new_tokens, STAYS);
        }
        bench.ahead();
        *bench.fault.lock().unwrap() = Some(failing);
        bench.engine.step_ahead().unwrap_err();
        let mut log = bench.log.take();
        log.retain(|happened| !matches!(happened, Happened::Asked(_)));
        let of_step_before = [Token(0), Token(1), End(1, true), Gone(1)];
        let of_step = [End(0, false), Gone(0), End(2, false), Gone(2)];
        assert_eq!(log, [of_step_before, of_step].concat(), "{failing:?}");

        *bench.fault.lock().unwrap() = None;
        let next = [INPUT, OPERATIONS, RESULTS, Token(3), End(3, true), Gone(3)];
        assert_eq!(bench.ahead(), next, "the one that waited");
    }
}

#[test]
fn a_sequence_whose_reader_is_found_gone_ends_before_the_step_after() {
    use Happened::{Gone, Token};
    let mut bench = Bench::new();
    bench.submit(9, 1);
    bench.submit(9, STAYS);
    bench.ahead();
    assert_eq!(bench.ahead(), [INPUT, OPERATIONS, Token(0), Token(1), RESULTS]);
    // Nothing is sent to it any more.
    assert_eq!(bench.ahead(), [INPUT, OPERATIONS, Gone(0), Token(1), RESULTS]);
    assert_eq!(bench.engine.num_unfinished(), 1);
    assert_eq!(bench.engine.stats.read().num_running, 1);

    // A step that delivers its own events ends it at once.
    bench.submit(9, 1);
    bench.engine.step().unwrap();
    assert_eq!(bench.engine.num_unfinished(), 1);
    assert_eq!(bench.engine.stats.read().num_running, 1);
    let last = [INPUT, OPERATIONS, Token(1), RESULTS, Token(1), Token(2), Gone(2)];
    assert_eq!(bench.log.take(), last);
}

#[test]
fn what_is_kept_is_delivered_before_a_sequence_is_cancelled() {
    use Happened::{Gone, Token};
    let mut bench = Bench::new();
    let id = bench.submit(9, STAYS);
    bench.ahead();
    bench.engine.cancel(id);
    assert_eq!(bench.log.take(), [Token(0), Gone(0)]);
    assert_eq!(bench.engine.num_unfinished(), 0);
}

struct Channel(SyncSender<Event>);

impl EventSink for Channel {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.0.try_send(event).map_err(|_| SinkClosed)
    }

    fn is_closed(&self) -> bool {
        false
    }
}

fn channel(max_new_tokens: usize) -> (Box<Channel>, Receiver<Event>) {
    let (sender, events) = sync_channel(max_new_tokens + 1);
    (Box::new(Channel(sender)), events)
}

#[test]
fn every_reader_of_the_engine_s_thread_gets_its_tokens_and_then_its_end() {
    let engine = engine_on(|_| Ok(()));
    let (thread, handle) = EngineThread::spawn(Box::new(engine), 100, || ()).unwrap();
    let lens = (0..100).map(|idx| 1 + idx * 7 % 23);
    let readers: Vec<(usize, Receiver<Event>)> = lens
        .map(|len| {
            let (sink, events) = channel(len);
            handle.submit(request(len), sink).unwrap();
            (len, events)
        })
        .collect();
    for (len, events) in readers {
        let events: Vec<Event> = events.into_iter().collect();
        let (end, tokens) = events.split_last().unwrap();
        assert!(
            matches!(end, Event::Finished(Finish { completion_tokens, .. }) if *completion_tokens == len)
        );
        assert_eq!(tokens.len(), len);
        assert!(tokens.iter().all(|event| matches!(event, Event::Token { .. })));
    }
    handle.drain();
    assert!(thread.join());
    assert_eq!(handle.num_admitted(), 0);
}

#[test]
fn a_panic_loses_no_event_of_the_steps_before() {
    let mut num_steps = 0;
    let engine = engine_on(move |asked| {
        assert!(num_steps < 3 || asked != Asked::Input, "as the test wants it");
        num_steps += usize::from(asked == Asked::Results);
        Ok(())
    });
    let (exit, exited) = sync_channel(1);
    let on_exit = move || exit.send(()).unwrap();
    let (thread, handle) = EngineThread::spawn(Box::new(engine), 2, on_exit).unwrap();
    let (sink, events) = channel(9);
    handle.submit(request(9), sink).unwrap();
    assert_eq!(events.into_iter().count(), 3, "a token for each step that was made, and no end");
    exited.recv().unwrap();
    assert!(!thread.join());
    assert_eq!(handle.num_admitted(), 0);
}
