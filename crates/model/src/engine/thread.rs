//! The engine's own thread, and the handle everybody else holds.
//!
//! The thread is the only owner of model, cache and scheduler. Commands reach it through one bounded
//! channel and are read between steps; admission is counted where a request is handed in, so that an
//! overloaded engine refuses at once and never lets a caller wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use super::{
    Engine, EngineStats, Event, EventSink, GenerationRequest, LayerProjections, SharedProjections,
    SharedStats, SinkClosed, StepOutcome,
};
use crate::error::Error;
use crate::steering::{Registering, SlotLease, SteeringVector};

/// Registrations that may queue beside the admitted requests. They come from publishing a generation
/// and from requests for several categories, a few at a time; beyond this the caller is told to try again.
const MAX_QUEUED_REGISTRATIONS: usize = 64;

/// Steps that a device may fail one after the other, with none in between that came to its end, before the engine is given up: a
/// CUDA context that has failed once fails for good, and only a new process has another.
const MAX_FAILED_STEPS: u32 = 8;

/// Why a command was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// As many sequences as the engine admits are queued or running, or as many registrations as it
    /// lets wait are waiting. Try again later.
    #[error("the engine is at its limit of {limit} {what}")]
    Overloaded {
        /// What there are too many of.
        what: &'static str,
        /// The limit that was reached.
        limit: usize,
    },
    /// The engine thread has ended or is draining.
    #[error("the engine is stopped")]
    Stopped,
    /// The engine refused the command.
    #[error(transparent)]
    Refused(#[from] Error),
}

fn overloaded_by_sequences(limit: usize) -> SubmitError {
    SubmitError::Overloaded { limit, what: "sequences, queued and running" }
}

enum Command {
    Submit(Box<GenerationRequest>, Box<dyn EventSink>),
    Register(Vec<SteeringVector>, SyncSender<Result<SlotLease, Error>>, Permit),
    /// Finish what was admitted, then end.
    Drain,
}

/// One place among a bounded number: a sequence's until the engine lets go of its sink, a
/// registration's until it is answered.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// A place, if fewer than `limit` are taken.
    fn take(num_taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        num_taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                (taken < limit).then_some(taken + 1)
            })
            .ok()
            .map(|_| Self(Arc::clone(num_taken)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

struct AdmittedSink {
    sink: Box<dyn EventSink>,
    _permit: Permit,
}

impl EventSink for AdmittedSink {
    fn try_send(&mut self, event: Event) -> Result<(), SinkClosed> {
        self.sink.try_send(event)
    }

    fn is_closed(&self) -> bool {
        self.sink.is_closed()
    }
}

/// The way to a running engine; clones are cheap and share the admission count.
#[derive(Clone)]
pub struct EngineHandle {
    commands: SyncSender<Command>,
    num_admitted: Arc<AtomicUsize>,
    /// Sequences that may be queued or running at once.
    max_admitted: usize,
    num_registering: Arc<AtomicUsize>,
    /// Whether sequences are taken. Read-locked while one is handed in, so that none can come to lie
    /// behind the drain command, where nobody would find it. Held for as long as `try_send` takes.
    accepting: Arc<RwLock<bool>>,
    alive: Arc<AtomicBool>,
    stats: SharedStats,
    projections: SharedProjections,
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle")
            .field("num_admitted", &self.num_admitted())
            .field("max_admitted", &self.max_admitted)
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

impl EngineHandle {
    /// Hands in a sequence without waiting. What the engine has to say of it, a refusal included, comes
    /// as events.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`] at the admission limit, [`SubmitError::Stopped`] once draining.
    pub fn submit(
        &self,
        request: GenerationRequest,
        sink: Box<dyn EventSink>,
    ) -> Result<(), SubmitError> {
        let accepting = self.accepting.read().unwrap_or_else(PoisonError::into_inner);
        if !*accepting {
            return Err(SubmitError::Stopped);
        }
        let limit = self.max_admitted;
        let permit =
            Permit::take(&self.num_admitted, limit).ok_or(overloaded_by_sequences(limit))?;
        let sink = Box::new(AdmittedSink { sink, _permit: permit });
        self.send(Command::Submit(Box::new(request), sink))
    }

    /// Puts vectors into the steering tables. Waits for the step in progress, so it is not for an
    /// async task's own thread.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] when the vectors do not fit the model or no slot is free,
    /// [`SubmitError::Overloaded`] when too many registrations wait already.
    pub fn register_vectors(&self, vectors: Vec<SteeringVector>) -> Result<SlotLease, SubmitError> {
        let limit = MAX_QUEUED_REGISTRATIONS;
        let permit = Permit::take(&self.num_registering, limit)
            .ok_or(SubmitError::Overloaded { limit, what: "registrations of vectors, queued" })?;
        let (reply, answer) = sync_channel(1);
        self.send(Command::Register(vectors, reply, permit))?;
        Ok(answer.recv().map_err(|_| SubmitError::Stopped)??)
    }

    /// Sequences queued and running.
    #[must_use]
    pub fn num_admitted(&self) -> usize {
        self.num_admitted.load(Ordering::Acquire)
    }

    /// The engine's numbers after its last step, without waiting for the one in progress.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.stats.read()
    }

    /// What the engine's live probe found so far, by sampled layer.
    #[must_use]
    pub fn projections(&self) -> Vec<LayerProjections> {
        self.projections.read()
    }

    /// Whether the engine thread is running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Whether it has not been told to drain. An engine that died still is: [`Self::is_alive`] says that.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        *self.accepting.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no further sequence; the thread ends when the admitted ones have.
    pub fn drain(&self) {
        let mut accepting = self.accepting.write().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *accepting, false) && self.send(Command::Drain).is_err() {
            tracing::debug!("the engine thread had ended before it was told to drain");
        }
    }

    fn send(&self, command: Command) -> Result<(), SubmitError> {
        self.commands.try_send(command).map_err(|error| match error {
            // Cannot be: the channel has a place for every permit, and one for the drain.
            TrySendError::Full(_) => overloaded_by_sequences(self.max_admitted),
            TrySendError::Disconnected(_) => SubmitError::Stopped,
        })
    }
}

/// The running thread. Dropping it does not stop it; [`EngineHandle::drain`] does.
#[derive(Debug)]
pub struct EngineThread {
    /// True when it drained.
    thread: JoinHandle<bool>,
}

/// Marks the thread dead and tells whoever wants to know, on return and on panic alike.
struct OnExit<F: FnOnce()> {
    alive: Arc<AtomicBool>,
    notify: Option<F>,
}

impl<F: FnOnce()> Drop for OnExit<F> {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
        if let Some(notify) = self.notify.take() {
            notify();
        }
    }
}

impl EngineThread {
    /// Starts a thread that owns `engine`. At most `max_admitted` sequences are queued or running;
    /// `on_exit` runs on the thread when it ends: by draining, by a panic, or because its device fails step after step.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives no thread.
    pub fn spawn(
        mut engine: Box<dyn Engine>,
        max_admitted: usize,
        on_exit: impl FnOnce() + Send + 'static,
    ) -> Result<(Self, EngineHandle), Error> {
        // Bound: every admitted sequence may still be in the channel, beside the registrations and one drain.
        let (commands, receiver) = sync_channel(max_admitted + MAX_QUEUED_REGISTRATIONS + 1);
        let alive = Arc::new(AtomicBool::new(true));
        let handle = EngineHandle {
            commands,
            num_admitted: Arc::new(AtomicUsize::new(0)),
            max_admitted,
            num_registering: Arc::new(AtomicUsize::new(0)),
            accepting: Arc::new(RwLock::new(true)),
            alive: Arc::clone(&alive),
            stats: engine.stats(),
            projections: engine.projections(),
        };
        let guard = OnExit { alive, notify: Some(on_exit) };
        let thread = std::thread::Builder::new()
            .name("skeg-engine".to_owned())
            .spawn(move || {
                let _guard = guard;
                run(engine.as_mut(), &receiver)
            })
            .map_err(|source| Error::Io { path: "the engine thread".into(), source })?;
        Ok((Self { thread }, handle))
    }

    /// Waits for the thread's end; true when it drained, false when it panicked or its device failed for good.
    #[must_use]
    pub fn join(self) -> bool {
        self.thread.join().unwrap_or(false)
    }
}

/// The loop: read commands while there are any, do a part of a registration, then make one step, during whose pass the events of the
/// one before are delivered. Sleeps only while nothing is to be done, and so while no event is kept ([`Engine::step_ahead`]).
/// True when it drained, false when its device failed for good.
fn run(engine: &mut dyn Engine, commands: &Receiver<Command>) -> bool {
    let mut draining = false;
    let mut num_failed = 0;
    // Bound: each has a permit.
    let mut registrations = VecDeque::new();
    loop {
        if engine.num_unfinished() == 0 && registrations.is_empty() {
            // No sequence lies behind the drain command (`EngineHandle::accepting`).
            if draining {
                return true;
            }
            // Every handle is gone: nobody can ask for anything any more.
            let Ok(command) = commands.recv() else { return true };
            draining |= apply(engine, command, &mut registrations);
        }
        while let Ok(command) = commands.try_recv() {
            draining |= apply(engine, command, &mut registrations);
        }
        go_on_registering(engine, &mut registrations);
        match engine.step_ahead() {
            Ok(StepOutcome::Advanced) => num_failed = 0,
            Ok(StepOutcome::Idle) => {}
            Err(error) => {
                tracing::error!(%error, "an engine step failed; its sequences were given up");
                num_failed += u32::from(matches!(error, Error::Device { .. }));
            }
        }
        if num_failed == MAX_FAILED_STEPS {
            tracing::error!(
                num_failed,
                "the device fails step after step; the engine is given up, and the process should be started anew"
            );
            return false;
        }
    }
}

/// A registration under way, and who waits for it.
struct Registration {
    registering: Registering,
    reply: SyncSender<Result<SlotLease, Error>>,
    _permit: Permit,
}

/// Carries out one command; true when it says to drain.
fn apply(
    engine: &mut dyn Engine,
    command: Command,
    registrations: &mut VecDeque<Registration>,
) -> bool {
    match command {
        Command::Submit(request, sink) => submit(engine, *request, sink),
        Command::Register(vectors, reply, permit) => match engine.begin_registering(vectors) {
            Ok(registering) => {
                registrations.push_back(Registration { registering, reply, _permit: permit });
            }
            Err(error) => answer(&reply, Err(error)),
        },
        Command::Drain => return true,
    }
    false
}

/// Does a part of the oldest registration, and answers it when it is done.
fn go_on_registering(engine: &mut dyn Engine, registrations: &mut VecDeque<Registration>) {
    let Some(oldest) = registrations.front_mut() else { return };
    let answered = match engine.go_on_registering(&mut oldest.registering) {
        Ok(false) => return,
        Ok(true) => Ok(oldest.registering.lease().clone()),
        Err(error) => Err(error),
    };
    answer(&oldest.reply, answered);
    registrations.pop_front();
}

fn answer(reply: &SyncSender<Result<SlotLease, Error>>, answer: Result<SlotLease, Error>) {
    if reply.send(answer).is_err() {
        tracing::debug!("nobody waits for the registration; its slots are free again");
    }
}

/// A refusal is sent by the engine itself (see [`Engine::submit`]); here it is only noted.
fn submit(engine: &mut dyn Engine, request: GenerationRequest, sink: Box<dyn EventSink>) {
    if let Err(error) = engine.submit(request, sink) {
        tracing::debug!(%error, "a request was refused by the engine");
    }
}
