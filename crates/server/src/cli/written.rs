//! A generation that a command made: written to a store, and live where that was asked for.

use std::path::Path;

use skeg_vector_store::{GenerationId, NewGeneration, read_current, set_current, write_generation};

/// A generation in its store.
pub(super) struct Written<'a> {
    store: &'a Path,
    pub(super) id: GenerationId,
    pub(super) is_live: bool,
}

impl<'a> Written<'a> {
    /// Writes a generation into `store` and makes it live if `publish` says so; the first one always goes live.
    pub(super) fn new(
        store: &'a Path,
        generation: &NewGeneration,
        publish: bool,
    ) -> skeg_vector_store::Result<Self> {
        let id = write_generation(store, generation)?;
        let sequence = read_current(store).ok().map(|current| current.sequence);
        let is_live = sequence.is_none() || publish;
        if is_live {
            set_current(store, &id, sequence)?;
        }
        Ok(Self { store, id, is_live })
    }

    /// What was done, for the person who asked for it.
    pub(super) fn sentence(&self) -> String {
        let live = if self.is_live { "is live" } else { "is not live; --publish makes it so" };
        format!("generation {} in {} {live}", self.id, self.store.display())
    }
}
