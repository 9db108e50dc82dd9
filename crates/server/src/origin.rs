//! Where a server's generations come from: the folder that it serves from, or a place of which that folder is a copy.
//!
//! Changes are made where the generations come from, so that every replica sees them, and then followed here at once.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use skeg_vector_store::place::{LocalPlace, Place};
use skeg_vector_store::{Error, GenerationId, Mirror, Reload, Store};

/// The source of a server's generations.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The folder itself.
    Folder(LocalPlace),
    /// A place that the folder follows.
    Followed(Arc<Mirror>),
}

impl Origin {
    /// The folder that [`Store`](skeg_vector_store::Store) is opened on.
    #[must_use]
    pub fn root(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.root(),
            Self::Followed(mirror) => mirror.root(),
        }
    }

    /// Where `CURRENT` is changed.
    #[must_use]
    pub fn place(&self) -> &dyn Place {
        match self {
            Self::Folder(folder) => folder,
            Self::Followed(mirror) => mirror.place(),
        }
    }

    /// Makes sure that the folder has a generation of the place, sound and for the model.
    ///
    /// # Errors
    /// As [`Mirror::bring`].
    pub fn bring(&self, id: &GenerationId) -> Result<(), Error> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Followed(mirror) => mirror.bring(id),
        }
    }

    /// Makes what `CURRENT` names the live generation of the store that was opened on the folder. Where a place is followed, its
    /// mirror must lead the store ([`Mirror::lead`]).
    ///
    /// # Errors
    /// As [`Store::reload`] and [`Mirror::sync`]. The last good generation stays live.
    pub fn reload<T>(&self, store: &Store<T>) -> Result<Reload, Error> {
        let Self::Followed(mirror) = self else { return store.reload() };
        let from = store.current().generation.id.clone();
        mirror.sync()?;
        let to = store.current().generation.id.clone();
        Ok(if from == to { Reload::Unchanged } else { Reload::Swapped { from, to } })
    }

    /// What the state says of it.
    pub(crate) fn shown(&self) -> Value {
        match self {
            Self::Folder(folder) => json!({"place": folder.name()}),
            Self::Followed(mirror) => json!({
                "place": mirror.place().name(),
                "copy": mirror.root(),
                "follows": mirror.follows(),
                "faults": mirror.faults(),
                "last_fault": mirror.last_fault(),
            }),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => f.write_str(&folder.name()),
            Self::Followed(mirror) => {
                write!(f, "{}, copied to {}", mirror.place().name(), mirror.root().display())
            }
        }
    }
}
