//! The live generation of a running program: pinned by readers, replaced whole, kept when a reload fails.

mod refusal;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use watch::{WatchGuard, WatchOptions};

use crate::current::read_current;
use crate::error::{Error, Result};
use crate::generation::load_generation;
use crate::{Generation, GenerationId, ModelBinding, TrustedKeys};
pub(crate) use refusal::Refusal;

/// Events a subscriber may be behind; what is beyond is dropped for it, while the counters stay exact.
const MAX_WAITING_EVENTS: usize = 64;

/// A generation with what was made for it before it went live.
#[derive(Debug)]
pub struct Live<T> {
    /// The generation.
    pub generation: Generation,
    /// What the store's `prepare` closure made of it.
    pub attached: T,
    /// When it went live here.
    pub since: Instant,
    /// How long it took from the look at `CURRENT` until it could go live.
    pub took: Duration,
    /// The generation that it replaced in this process; `None` for the first.
    pub replaced: Option<GenerationId>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// `CURRENT` names the generation that is live.
    Unchanged,
    /// Another generation is live.
    Swapped {
        /// The one before.
        from: GenerationId,
        /// The one after.
        to: GenerationId,
    },
}

/// What subscribers are told, after it has taken effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadEvent {
    /// Another generation is live.
    Swapped {
        /// The one before.
        from: GenerationId,
        /// The one after.
        to: GenerationId,
    },
    /// A reload failed and the last good generation was kept.
    Failed {
        /// The error's text.
        reason: String,
    },
}

type Prepare<T> = Box<dyn Fn(&Generation) -> Result<T, String> + Send + Sync>;

/// A store's live generation.
///
/// Readers call [`Store::current`] and keep what they get as long as they need: a swap changes nothing for them.
pub struct Store<T> {
    root: PathBuf,
    binding: ModelBinding,
    trusted: TrustedKeys,
    prepare: Prepare<T>,
    live: ArcSwap<Live<T>>,
    /// One reload at a time; readers never take it.
    reloading: Mutex<ReloadState>,
    failed_reloads: AtomicU64,
    swaps: AtomicU64,
}

#[derive(Debug, Default)]
struct ReloadState {
    subscribers: Vec<SyncSender<ReloadEvent>>,
    /// Why the last attempt failed; a watcher that meets the same fault again is silent about it.
    last_fault: Option<String>,
    /// What could not be served, which a watcher does not try at every look.
    refusal: Option<Refusal>,
}

/// Who asked for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A person or a signal: every failure counts.
    ByCaller,
    /// The watching thread, which asks again and again: a failure counts once.
    ByWatcher,
}

impl<T> Store<T> {
    /// Opens a store with the generation that `CURRENT` names, or fails. Signatures are not asked for: [`Store::open_trusting`].
    ///
    /// `prepare` is called for each generation after it was validated and before it goes live; what it returns lives as
    /// long as the generation is live or pinned. When it fails, the generation does not go live.
    ///
    /// # Errors
    /// Every error of [`read_current`] and [`load_generation`]; [`Error::Prepare`].
    pub fn open(
        root: &Path,
        binding: ModelBinding,
        prepare: impl Fn(&Generation) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::open_trusting(root, binding, TrustedKeys::default(), prepare)
    }

    /// [`Store::open`] for generations that one of the keys signed; without keys, for all. It holds for every reload and check too.
    ///
    /// # Errors
    /// As [`Store::open`], and [`Error::Untrusted`].
    pub fn open_trusting(
        root: &Path,
        binding: ModelBinding,
        trusted: TrustedKeys,
        prepare: impl Fn(&Generation) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self> {
        let started = Instant::now();
        let current = read_current(root)?;
        let prepare: Prepare<T> = Box::new(prepare);
        let conditions = (&binding, &trusted);
        let (generation, attached) = load_live(root, &current.generation, conditions, &prepare)?;
        let live = Live::new(generation, attached, started, None);
        tracing::info!(generation = %live.generation.id, sequence = current.sequence, "store opened");
        Ok(Self {
            root: root.to_owned(),
            binding,
            trusted,
            prepare,
            live: ArcSwap::from_pointee(live),
            reloading: Mutex::new(ReloadState::default()),
            failed_reloads: AtomicU64::new(0),
            swaps: AtomicU64::new(0),
        })
    }

    /// Pins the live generation: what is returned does not change. Never waits.
    #[must_use]
    pub fn current(&self) -> Arc<Live<T>> {
        self.live.load_full()
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The keys, one of which signed what is live; none where signatures are not asked for.
    #[must_use]
    pub fn trusted_keys(&self) -> &TrustedKeys {
        &self.trusted
    }

    /// Makes the generation that `CURRENT` names the live one, if it is valid and is not live already.
    ///
    /// # Errors
    /// As [`Store::open_trusting`]. The last good generation stays live; the reason is logged and counted.
    pub fn reload(&self) -> Result<Reload> {
        self.reload_asked(Asked::ByCaller)
    }

    /// Makes a generation of the store the live one, whatever `CURRENT` names: for whoever writes `CURRENT` once it can be
    /// served.
    pub(crate) fn take(&self, id: &GenerationId, asked: Asked) -> Result<Reload> {
        self.swap(asked, || Ok(id.clone()))
    }

    /// Validates a generation of the store as a reload would, `prepare` included, and does not make it live.
    ///
    /// # Errors
    /// Every error of [`load_generation`]; [`Error::Untrusted`]; [`Error::Prepare`].
    pub fn check(&self, id: &GenerationId) -> Result<Generation> {
        // What was attached to it goes at once: what it takes a place in has one left for the real one.
        let conditions = (&self.binding, &self.trusted);
        let (generation, _) = load_live(&self.root, id, conditions, &self.prepare)?;
        Ok(generation)
    }

    /// Reloads that failed since the store was opened. A fault that a watcher meets again and again counts once.
    #[must_use]
    pub fn failed_reloads(&self) -> u64 {
        self.failed_reloads.load(Ordering::Relaxed)
    }

    /// Generations that went live since the store was opened, the first not counted.
    #[must_use]
    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }

    /// Swaps and failures from here on. A subscriber that does not read misses those beyond the last 64 it has waiting.
    pub fn subscribe(&self) -> Receiver<ReloadEvent> {
        let (sender, receiver) = sync_channel(MAX_WAITING_EVENTS);
        self.lock().subscribers.push(sender);
        receiver
    }

    fn reload_asked(&self, asked: Asked) -> Result<Reload> {
        self.swap(asked, || Ok(read_current(&self.root)?.generation))
    }

    fn swap(&self, asked: Asked, wanted: impl FnOnce() -> Result<GenerationId>) -> Result<Reload> {
        let mut state = self.lock();
        let started = Instant::now();
        let result = wanted().and_then(|id| self.try_swap(id, asked, started, &mut state));
        match &result {
            Ok(reload) => {
                state.last_fault = None;
                if let Reload::Swapped { from, to } = reload {
                    self.swaps.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(%from, %to, "generation swapped");
                    state.tell(&ReloadEvent::Swapped { from: from.clone(), to: to.clone() });
                }
            }
            Err(Error::Refused { .. }) => {}
            Err(error) => {
                let reason = error.to_string();
                if asked == Asked::ByCaller || state.last_fault.as_ref() != Some(&reason) {
                    self.failed_reloads.fetch_add(1, Ordering::Relaxed);
                    let kept = self.live.load().generation.id.clone();
                    tracing::error!(%kept, %reason, "reload failed; the last good generation stays");
                    state.tell(&ReloadEvent::Failed { reason: reason.clone() });
                }
                state.last_fault = Some(reason);
            }
        }
        result
    }

    /// The caller holds the reload lock.
    fn try_swap(
        &self,
        to: GenerationId,
        asked: Asked,
        started: Instant,
        state: &mut ReloadState,
    ) -> Result<Reload> {
        let from = self.live.load().generation.id.clone();
        if to == from {
            return Ok(Reload::Unchanged);
        }
        let too_early = state.refusal.as_ref().is_some_and(|refusal| refusal.holds(&to, started));
        if asked == Asked::ByWatcher && too_early {
            let reason = state.last_fault.clone().unwrap_or_default();
            return Err(Error::Refused { generation: to, reason });
        }
        match load_live(&self.root, &to, (&self.binding, &self.trusted), &self.prepare) {
            Ok((generation, attached)) => {
                let live = Live::new(generation, attached, started, Some(from.clone()));
                self.live.store(Arc::new(live));
                state.refusal = None;
                Ok(Reload::Swapped { from, to })
            }
            Err(error) => {
                if matches!(error, Error::Prepare { .. }) {
                    let before = state.refusal.take();
                    state.refusal = Some(Refusal::note(before.as_ref(), &to, Instant::now()));
                }
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReloadState> {
        // A panic in `prepare` leaves the state whole: it is changed only after an attempt.
        self.reloading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReloadState {
    /// Tells every subscriber that still listens.
    fn tell(&mut self, event: &ReloadEvent) {
        self.subscribers.retain(|subscriber| {
            !matches!(subscriber.try_send(event.clone()), Err(TrySendError::Disconnected(_)))
        });
    }
}

fn load_live<T>(
    root: &Path,
    id: &GenerationId,
    (binding, trusted): (&ModelBinding, &TrustedKeys),
    prepare: &Prepare<T>,
) -> Result<(Generation, T)> {
    let generation = load_generation(root, id, Some(binding))?;
    trusted.check(&generation)?;
    if generation.weights_mismatch {
        tracing::warn!(generation = %id, "the vectors were not measured on these weights");
    }
    let attached =
        prepare(&generation).map_err(|reason| Error::Prepare { generation: id.clone(), reason })?;
    Ok((generation, attached))
}

impl<T> Live<T> {
    fn new(
        generation: Generation,
        attached: T,
        started: Instant,
        replaced: Option<GenerationId>,
    ) -> Self {
        let since = Instant::now();
        let took = since.saturating_duration_since(started);
        Self { generation, attached, since, took, replaced }
    }
}

impl<T> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.root)
            .field("generation", &self.live.load().generation.id)
            .field("swaps", &self.swaps())
            .field("failed_reloads", &self.failed_reloads())
            .finish_non_exhaustive()
    }
}
