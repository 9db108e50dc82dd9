//! Where generations lie: a folder, or a prefix of an object store, behind one blocking trait.

mod bucket;
#[cfg(feature = "object-store")]
mod cloud;
#[cfg(feature = "object-store")]
mod connector;
mod local;
mod objects;
mod open;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use bucket::{Bucket, BucketObject, Got, Only, Tag};
#[cfg(feature = "object-store")]
pub use cloud::CloudBucket;
pub use local::LocalPlace;
pub use objects::ObjectPlace;
pub use open::open;

use crate::current::nothing_published;
use crate::error::Result;
use crate::generation::load_files;
use crate::history::{Change, HistoryEntry};
use crate::{Current, Files, Generation, GenerationId, files};

/// A generation that a place has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: GenerationId,
    /// When it was last written, by the place's clock; compare with [`Place::now`] alone.
    pub modified: SystemTime,
    /// Whether its manifest is there, which is written last. What is not whole was left by a writer that died, or is being
    /// written.
    pub is_whole: bool,
}

/// What a writer that died left beside the generations: it is none, and never becomes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its name, in the folder of the generations.
    pub name: String,
    /// When it was last written, as [`Listed::modified`].
    pub modified: SystemTime,
}

/// What a look at `CURRENT` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It is the one that the caller knows.
    Unchanged,
    /// There is none: nothing was published.
    Absent,
    /// This.
    Found {
        /// Its content.
        current: Current,
        /// What tells this version of it from others, for the next look; `None` where the place has no such thing.
        tag: Option<Tag>,
    },
}

/// A place where generations lie. Every call blocks until it is done, with a bound on time where there is a network, and on
/// the bytes it takes.
///
/// What all places hold to: the files of a generation are there before `CURRENT` names it; `CURRENT` changes whole, and
/// with an expected sequence only from that one; files that are read were checked whole.
pub trait Place: fmt::Debug + Send + Sync {
    /// The place as [`open`] takes it.
    fn name(&self) -> String;

    /// Reads `CURRENT`, unless it still is the version of `known`.
    ///
    /// # Errors
    /// [`Error::Syntax`](crate::Error::Syntax) when it is not one; what the place refuses.
    fn look(&self, known: Option<&Tag>) -> Result<Look>;

    /// Its generations, sorted by id.
    ///
    /// # Errors
    /// What the place refuses; more than can be listed.
    fn generations(&self) -> Result<Vec<Listed>>;

    /// The bytes of a generation's files, its signatures among them, checked whole.
    ///
    /// # Errors
    /// As [`load_generation`](crate::load_generation), and what the place refuses.
    fn read_files(&self, id: &GenerationId) -> Result<Files>;

    /// Checks files and writes them as a generation; what is there already is written once, and gets the signatures that it lacks.
    ///
    /// # Errors
    /// As [`add_generation`](crate::add_generation), and what the place refuses.
    fn add_files(&self, files: &Files) -> Result<GenerationId>;

    /// Removes a generation that does not serve, whether it is whole or not.
    ///
    /// # Errors
    /// [`Error::Layout`](crate::Error::Layout) when it serves; what the place refuses.
    fn remove(&self, id: &GenerationId) -> Result<()>;

    /// What writers left that died, sorted by name; what living ones are at is among it. An object store has none: there a
    /// generation without its manifest is what a dead writer left.
    ///
    /// # Errors
    /// What the place refuses.
    fn leftovers(&self) -> Result<Vec<Leftover>> {
        Ok(Vec::new())
    }

    /// Removes what a writer left. A writer that still was at it fails, and leaves no half of a generation.
    ///
    /// # Errors
    /// What the place refuses. What is gone already is no error.
    fn remove_leftover(&self, _leftover: &Leftover) -> Result<()> {
        Ok(())
    }

    /// Makes a generation the one that serves, after checking it whole, and records the change. With `expected_sequence`
    /// only if `CURRENT` still has it; 0 stands for a place without `CURRENT`.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) when the sequence differs, as [`Place::read_files`], and what the place
    /// refuses. When a network fails in the middle it may be unknown whether `CURRENT` changed; the error says so.
    fn set_current(
        &self,
        id: &GenerationId,
        expected_sequence: Option<u64>,
        change: &Change,
    ) -> Result<Current>;

    /// The entries of the last changes, newest first; a change without an entry is left out.
    ///
    /// # Errors
    /// As [`read_history`](crate::read_history), and what the place refuses.
    fn history(&self, last: usize) -> Result<Vec<HistoryEntry>>;

    /// The time by the clock that [`Listed::modified`] is of: a small file is written, and what the place says of it is
    /// read back.
    ///
    /// # Errors
    /// What the place refuses.
    fn now(&self) -> Result<SystemTime>;

    /// `CURRENT`.
    ///
    /// # Errors
    /// As [`Place::look`].
    fn find_current(&self) -> Result<Option<Current>> {
        match self.look(None)? {
            Look::Found { current, .. } => Ok(Some(current)),
            Look::Absent | Look::Unchanged => Ok(None),
        }
    }

    /// `CURRENT`, which must be there.
    ///
    /// # Errors
    /// As [`Place::look`], and [`Error::Layout`](crate::Error::Layout) where nothing was published.
    fn current(&self) -> Result<Current> {
        self.find_current()?.ok_or_else(|| nothing_published(&self.path_of(files::CURRENT)))
    }

    /// A generation, checked whole.
    ///
    /// # Errors
    /// As [`Place::read_files`].
    fn load(&self, id: &GenerationId) -> Result<Generation> {
        let path = self.path_of(&format!("{}/{id}", files::GENERATIONS));
        load_files(&path, Some(id), &self.read_files(id)?)
    }

    /// Something in the place as errors name it.
    fn path_of(&self, below: &str) -> PathBuf {
        Path::new(&self.name()).join(below)
    }
}
