//! A replica's copy of a place: it follows the place, serves from a folder, and starts when the place is away.
//!
//! A [`Store`] is opened on the folder and watches it as any other. What holds:
//! - A generation is copied and checked whole before the folder's `CURRENT` names it. A place that is away, or that names
//!   a generation which is not sound or not for the model, changes nothing: the last good one stays, the fault is
//!   logged once and counted.
//! - With trusted keys a generation that none of them signed is such a fault. The copy takes a generation again where it lacks a
//!   signature that counts, so one that is signed later, or with a new key, is followed then.
//! - The copy has the place's sequence, and never goes back: a lower sequence, or another generation under the same one,
//!   is a fault ([`Error::Rewound`]), because a stale answer and a store that was restored from a backup look alike. Going back
//!   to an earlier generation is a change like any other and has a higher sequence. Whoever really starts a place anew
//!   publishes there above the old sequence, or empties the folder. No clock is asked.
//! - Where a store leads ([`Mirror::lead`]), the copy names what that store serves: a generation that it cannot serve is not
//!   named, now or after a restart.
//! - The folder belongs to the copy of one place, which the file `MIRROR` in it names. It keeps the generation that serves
//!   and the one before. What a replica that died left half copied goes with the first change ten minutes later.

mod follow;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use arc_swap::ArcSwapOption;
pub use follow::{FollowGuard, FollowOptions};

use crate::current::{copy_current, find_current, nothing_published};
use crate::error::{Error, Result};
use crate::generation::{add_generation, list_generations, load_files, load_generation};
use crate::place::{LocalPlace, Look, Place, Tag};
use crate::store::{Asked, Refusal};
use crate::{Current, Generation, GenerationId, ModelBinding, Store, TrustedKeys, files, gc};

/// Names the place that a folder is the copy of.
const MARKER: &str = "MIRROR";
/// It is an address.
const MAX_MARKER_BYTES: u64 = 8192;
/// What lies half copied in the folder for so long was left by a replica that died: copying takes seconds.
const LEFTOVER_GRACE: Duration = Duration::from_secs(600);

/// What a look at the place led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Synced {
    /// The copy says what the place says.
    Unchanged,
    /// The copy says this now.
    Followed(Current),
}

/// A folder that follows a place.
pub struct Mirror {
    place: Box<dyn Place>,
    root: PathBuf,
    model: Option<ModelBinding>,
    trusted: TrustedKeys,
    /// One look at a time.
    state: Mutex<State>,
    faults: AtomicU64,
    follows: AtomicU64,
    /// Makes a generation live before the copy names it; set once there is who serves from the copy.
    taker: OnceLock<Taker>,
    /// Why the last look failed; the same fault again is neither logged nor counted.
    last_fault: ArcSwapOption<String>,
}

type Taker = Box<dyn Fn(&GenerationId, Asked) -> Result<()> + Send + Sync>;

#[derive(Debug, Default)]
struct State {
    /// The version of the place's `CURRENT` that the copy has.
    tag: Option<Tag>,
    /// What was found wrong.
    refusal: Option<Refusal>,
    /// The generation whose copy was found to be signed by a trusted key, since it is asked again with each look.
    trusted: Option<GenerationId>,
}

impl Mirror {
    /// A copy of `place` in the folder `cache_root`, which is made if it is not there. The place is not asked yet.
    ///
    /// # Errors
    /// [`Error::Layout`] when the folder is a store of its own or the copy of another place, [`Error::Io`].
    pub fn new(place: Box<dyn Place>, cache_root: &Path) -> Result<Self> {
        fs::create_dir_all(cache_root).map_err(Error::io("create", cache_root))?;
        mark(cache_root, &place.name())?;
        Ok(Self {
            place,
            root: cache_root.to_owned(),
            model: None,
            trusted: TrustedKeys::default(),
            state: Mutex::default(),
            faults: AtomicU64::new(0),
            follows: AtomicU64::new(0),
            taker: OnceLock::new(),
            last_fault: ArcSwapOption::empty(),
        })
    }

    /// Copies only generations that were made for this model, so that a replica can start from what it has.
    #[must_use]
    pub fn for_model(mut self, model: ModelBinding) -> Self {
        self.model = Some(model);
        self
    }

    /// Copies only generations that one of these keys signed; without keys, all.
    #[must_use]
    pub fn trusting(mut self, keys: TrustedKeys) -> Self {
        self.trusted = keys;
        self
    }

    /// From now on the copy names a generation only after a store that was opened on it has made it live: what a program cannot
    /// serve, it does not find when it starts again. The store follows by this alone and need not watch the folder; the first
    /// one that is given counts.
    pub fn lead<T: Send + Sync + 'static>(&self, store: &Arc<Store<T>>) {
        let store = Arc::downgrade(store);
        let taker = move |id: &GenerationId, asked| match store.upgrade() {
            Some(store) => store.take(id, asked).map(drop),
            // Nobody serves any more.
            None => Ok(()),
        };
        self.taker.set(Box::new(taker)).ok();
    }

    /// The folder, for [`Store::open`].
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The place that is followed.
    #[must_use]
    pub fn place(&self) -> &dyn Place {
        self.place.as_ref()
    }

    /// Faults met since this was made; one that lasts counts once.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Changes followed since this was made.
    #[must_use]
    pub fn follows(&self) -> u64 {
        self.follows.load(Ordering::Relaxed)
    }

    /// The fault of the last look, if it had one. Never waits.
    #[must_use]
    pub fn last_fault(&self) -> Option<String> {
        self.last_fault.load().as_deref().cloned()
    }

    /// Brings a generation into the copy, which goes on to name what it names: for whoever checks one before the place
    /// names it. It may go with the next change.
    ///
    /// # Errors
    /// As [`Mirror::sync`], of what concerns this generation.
    pub fn bring(&self, id: &GenerationId) -> Result<()> {
        let _one_at_a_time = self.lock();
        self.fetch(id)
    }

    /// Looks at the place and follows it. Where it has tags, a look at what has not changed takes one short request.
    ///
    /// # Errors
    /// What the place refuses; [`Error::Rewound`]; [`Error::Untrusted`]; as [`load_generation`] for a generation that is not sound or
    /// not for the model. The copy is as it was; the reason is logged and counted when it is a new one.
    pub fn sync(&self) -> Result<Synced> {
        self.sync_asked(Asked::ByCaller)
    }

    fn sync_asked(&self, asked: Asked) -> Result<Synced> {
        let mut state = self.lock();
        let result = self.try_sync(&mut state, asked);
        match &result {
            Ok(synced) => {
                if self.last_fault.swap(None).is_some() {
                    tracing::info!(place = self.place.name(), "the store is followed again");
                }
                if let Synced::Followed(current) = synced {
                    self.follows.fetch_add(1, Ordering::Relaxed);
                    let (sequence, generation) = (current.sequence, &current.generation);
                    tracing::info!(place = self.place.name(), sequence, %generation, "followed");
                }
            }
            // It is the fault that is known.
            Err(Error::Refused { .. }) => {}
            Err(error) => {
                let reason = error.to_string();
                if self.last_fault().as_ref() != Some(&reason) {
                    self.faults.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(place = self.place.name(), %reason, "cannot follow; the last good generation stays");
                }
                self.last_fault.store(Some(Arc::new(reason)));
            }
        }
        result
    }

    /// The caller holds the lock. The tag is kept only once the copy says what it stands for.
    fn try_sync(&self, state: &mut State, asked: Asked) -> Result<Synced> {
        let (current, tag) = match self.place.look(state.tag.as_ref())? {
            Look::Unchanged => return Ok(Synced::Unchanged),
            Look::Absent => return Err(nothing_published(&self.place.path_of(files::CURRENT))),
            Look::Found { current, tag } => (current, tag),
        };
        let kept = find_current(&self.root)?;
        if kept.as_ref() == Some(&current) {
            if !self.trusted.is_empty() && state.trusted.as_ref() != Some(&current.generation) {
                self.fetch(&current.generation)?;
                state.trusted = Some(current.generation);
            }
            state.tag = tag;
            return Ok(Synced::Unchanged);
        }
        if let Some(kept) = kept.as_ref().filter(|kept| kept.sequence >= current.sequence) {
            return Err(Error::Rewound {
                place: self.place.name(),
                found: current.sequence,
                generation: current.generation,
                cache: self.root.clone(),
                kept: kept.sequence,
            });
        }
        self.prune_leftovers();
        self.fetch_unless_refused(&current.generation, state, asked)?;
        if let Some(take) = self.taker.get() {
            take(&current.generation, asked)?;
        }
        copy_current(&self.root, &current)?;
        state.trusted = Some(current.generation.clone());
        state.tag = tag;
        self.prune(&current.generation, kept.as_ref().map(|kept| &kept.generation));
        Ok(Synced::Followed(current))
    }

    /// [`Self::fetch`]; what was found wrong is not read again at every look at an interval.
    fn fetch_unless_refused(
        &self,
        id: &GenerationId,
        state: &mut State,
        asked: Asked,
    ) -> Result<()> {
        let now = Instant::now();
        let too_early = state.refusal.as_ref().is_some_and(|refusal| refusal.holds(id, now));
        if asked == Asked::ByWatcher && too_early {
            let reason = self.last_fault().unwrap_or_default();
            return Err(Error::Refused { generation: id.clone(), reason });
        }
        let fetched = self.fetch(id);
        let before = state.refusal.take();
        // A place that is away may be there at the next look.
        if fetched.as_ref().is_err_and(|error| !matches!(error, Error::Place { .. })) {
            state.refusal = Some(Refusal::note(before.as_ref(), id, Instant::now()));
        }
        fetched
    }

    /// Makes sure that the copy has a generation, sound, for the model and signed by a trusted key.
    fn fetch(&self, id: &GenerationId) -> Result<()> {
        if self.load_copy(id).is_ok() {
            return Ok(());
        }
        let fetched = self.place.read_files(id)?;
        let found = load_files(
            &self.place.path_of(&format!("{}/{id}", files::GENERATIONS)),
            Some(id),
            &fetched,
        )?;
        self.trusted.check(&found)?;
        // What is there is damaged, or lacks a signature, which is added, or was not for the model and is judged again below.
        let target = files::generations_dir(&self.root).join(id.as_str());
        if target.exists() && load_generation(&self.root, id, None).is_err() {
            fs::remove_dir_all(&target).map_err(Error::io("remove", &target))?;
        }
        add_generation(&self.root, &fetched)?;
        self.load_copy(id).map(|_| ())
    }

    fn load_copy(&self, id: &GenerationId) -> Result<Generation> {
        let copied = load_generation(&self.root, id, self.model.as_ref())?;
        self.trusted.check(&copied)?;
        Ok(copied)
    }

    /// Removes all generations of the copy but two. What cannot be removed now is tried again with the next change.
    fn prune(&self, current: &GenerationId, before: Option<&GenerationId>) {
        let copy = LocalPlace::new(&self.root);
        let unused = |id: &GenerationId| id != current && Some(id) != before;
        for id in list_generations(&self.root).into_iter().flatten().filter(unused) {
            if let Err(error) = copy.remove(&id) {
                tracing::warn!(generation = %id, %error, "an old generation was left behind");
            }
        }
    }

    /// Before anything is copied, so that a replica that dies again and again while it copies does not fill its disk.
    fn prune_leftovers(&self) {
        let copy = LocalPlace::new(&self.root);
        if let Err(error) = gc::collect_leftovers(&copy, LEFTOVER_GRACE) {
            tracing::warn!(root = %self.root.display(), %error, "what a dead replica left was left behind");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed only after what it says is true.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a folder the copy of a place, or finds that it is.
fn mark(root: &Path, name: &str) -> Result<()> {
    let path = root.join(MARKER);
    let found = files::read_small(&path, MAX_MARKER_BYTES)?;
    match found.as_deref().map(String::from_utf8_lossy) {
        Some(found) if found.trim_end() == name => Ok(()),
        Some(found) => {
            let found = found.trim_end();
            let reason = format!(
                "this folder is the copy of {found}, expected {name}; empty it, or name another one"
            );
            Err(Error::layout(root, reason))
        }
        None if root.join(files::CURRENT).exists() => {
            let reason = "this folder is a store of its own, expected an empty one or the copy of a \
                          place; name another one";
            Err(Error::layout(root, reason))
        }
        None => files::replace(root, MARKER, format!("{name}\n").as_bytes()),
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("place", &self.place)
            .field("root", &self.root)
            .field("faults", &self.faults())
            .field("follows", &self.follows())
            .finish_non_exhaustive()
    }
}
