//! A load of synthetic requests on an OpenAI-compatible server: closed loop and open loop.

mod arrivals;
mod client;
mod prompt;
mod sse;
mod summary;
mod target;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope, sleep};
use std::time::{Duration, Instant};

pub(super) use client::{Client, Failure};
pub(super) use prompt::{RequestShape, words};
pub(super) use summary::{Level, Load};
pub(super) use target::{Api, endpoint};

use arrivals::Arrivals;
use client::Answer;
use summary::Run;

/// Stack of the thread of one request: it holds a read buffer and little else.
const STACK_BYTES: usize = 512 * 1024;
/// Requests of one level have numbers below this, so that no two levels share a prompt.
const LEVEL_STRIDE: u64 = 1 << 32;

/// When a level ends: no request starts later, and those that run are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) requests: Option<u64>,
    pub(super) duration: Option<Duration>,
}

impl Limit {
    fn allows(&self, index: u64, elapsed: Duration) -> bool {
        index < self.requests.unwrap_or(u64::MAX).min(LEVEL_STRIDE)
            && self.duration.is_none_or(|duration| elapsed < duration)
    }
}

/// What requests are made of, and how they are sent.
#[derive(Debug)]
pub(super) struct Generator<'a> {
    pub(super) client: &'a Client,
    pub(super) limit: Limit,
    /// Most requests in flight in an open loop.
    pub(super) max_in_flight: usize,
    pub(super) seed: u64,
}

impl Generator<'_> {
    /// Sends `number` requests one by one, uncounted.
    pub(super) fn warm_up(&self, number: u64) -> Result<(), Failure> {
        (0..number).try_for_each(|index| self.client.send(index, Instant::now()).map(drop))
    }

    /// Runs one level; `level_idx` from 0, different for each level of a command.
    pub(super) fn run(&self, load: Load, level_idx: u64, on_end: impl Fn() + Sync) -> Level {
        let send = |index: u64, due: Instant| {
            let outcome = self.client.send((level_idx + 1) * LEVEL_STRIDE + index, due);
            on_end();
            outcome
        };
        let run = match load {
            Load::Clients(num_clients) => closed_loop(num_clients, self.limit, &send),
            Load::Rate(rate) => {
                let arrivals = Arrivals::new(rate, self.seed);
                open_loop(arrivals, self.limit, self.max_in_flight, &send, &on_end)
            }
        };
        Level::of(load, &run)
    }
}

type Outcome = Result<Answer, Failure>;

/// Each client sends its next request when its last one has ended.
fn closed_loop(
    num_clients: usize,
    limit: Limit,
    send: &(impl Fn(u64, Instant) -> Outcome + Sync),
) -> Run {
    let next = AtomicU64::new(0);
    let outcomes = Mutex::new(Vec::new());
    let started = Instant::now();
    scope(|scope| {
        for _ in 0..num_clients {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if !limit.allows(index, started.elapsed()) {
                        return;
                    }
                    let outcome = send(index, Instant::now());
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Run { elapsed: started.elapsed(), outcomes, num_not_sent: 0 }
}

/// Requests are sent when they are due, however many are still running. At `max_in_flight` of them (each is
/// a thread and a connection here) an arrival is counted and not sent.
fn open_loop(
    mut arrivals: Arrivals,
    limit: Limit,
    max_in_flight: usize,
    send: &(impl Fn(u64, Instant) -> Outcome + Sync),
    on_not_sent: &impl Fn(),
) -> Run {
    let num_in_flight = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let mut num_not_sent = 0;
    let started = Instant::now();
    scope(|scope| {
        for index in 0.. {
            let offset = arrivals.next();
            if !limit.allows(index, offset) {
                return;
            }
            sleep(offset.saturating_sub(started.elapsed()));
            if num_in_flight.load(Ordering::Acquire) >= max_in_flight {
                num_not_sent += 1;
                on_not_sent();
                continue;
            }
            num_in_flight.fetch_add(1, Ordering::AcqRel);
            let (num_in_flight, outcomes) = (&num_in_flight, &outcomes);
            let request = move || {
                // From when it was due, so that a late start counts as waiting.
                let outcome = send(index, started + offset);
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                num_in_flight.fetch_sub(1, Ordering::AcqRel);
            };
            if Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, request).is_err() {
                num_in_flight.fetch_sub(1, Ordering::AcqRel);
                num_not_sent += 1;
                on_not_sent();
            }
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Run { elapsed: started.elapsed(), outcomes, num_not_sent }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    use super::*;

    fn requests(number: u64) -> Limit {
        Limit { requests: Some(number), duration: None }
    }

    #[test]
    fn a_closed_loop_sends_each_request_once_and_keeps_all_clients_busy() {
        // Nobody passes before all four clients are there.
        let together = Barrier::new(4);
        let sent = Mutex::new(BTreeSet::new());
        let run = closed_loop(4, requests(8), &|index, _| {
            together.wait();
            assert!(sent.lock().unwrap().insert(index));
            Ok(Answer::default())
        });
        assert_eq!(run.outcomes.len(), 8);
        assert_eq!(sent.into_inner().unwrap(), (0..8).collect());
    }

    #[test]
    fn an_open_loop_sends_without_waiting_for_answers() {
        // Five requests that end together: a closed loop of fewer clients would never get there.
        let together = Barrier::new(5);
        let send = |_, _| {
            together.wait();
            Ok(Answer::default())
        };
        let run = open_loop(Arrivals::new(1e6, 1), requests(5), 8, &send, &|| {});
        assert_eq!((run.outcomes.len(), run.num_not_sent), (5, 0));
    }

    #[test]
    fn arrivals_beyond_the_bound_are_counted_and_not_sent() {
        // Every request runs until all ten have arrived, so only the first is sent.
        let num_arrived = AtomicUsize::new(0);
        let arrive = || num_arrived.fetch_add(1, Ordering::AcqRel);
        let send = |_, _| {
            arrive();
            while num_arrived.load(Ordering::Acquire) < 10 {
                std::thread::yield_now();
            }
            Ok(Answer::default())
        };
        let on_not_sent = || {
            arrive();
        };
        let run = open_loop(Arrivals::new(1e6, 1), requests(10), 1, &send, &on_not_sent);
        assert_eq!((run.outcomes.len(), run.num_not_sent), (1, 9));
    }

    #[test]
    fn a_level_ends_with_its_time() {
        let limit = Limit { requests: None, duration: Some(Duration::from_millis(1)) };
        assert!(!limit.allows(0, Duration::from_millis(1)) && limit.allows(9, Duration::ZERO));
        let mut arrivals = Arrivals::new(1e5, 3);
        let expected = std::iter::from_fn(|| Some(arrivals.next()))
            .take_while(|&offset| offset < Duration::from_millis(1))
            .count();
        let send = |_, _| Ok(Answer::default());
        let run = open_loop(Arrivals::new(1e5, 3), limit, 1000, &send, &|| {});
        assert_eq!(run.outcomes.len(), expected);
    }
}
