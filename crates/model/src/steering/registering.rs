//! A registration under way.

use super::{SlotLease, SteeringVector};

/// Vectors on their way into the tables: slots are theirs, and rows are written vector by vector, so that an engine can make
/// steps in between. Dropping it gives the slots back.
#[derive(Debug)]
pub struct Registering {
    vectors: Vec<SteeringVector>,
    /// Of the vectors, how many are written.
    num_written: usize,
    lease: SlotLease,
}

impl Registering {
    /// Of vectors and a slot for each.
    pub(super) fn new(vectors: Vec<SteeringVector>, lease: SlotLease) -> Self {
        Self { vectors, num_written: 0, lease }
    }

    /// One that has nothing left to write.
    #[must_use]
    pub fn done(lease: SlotLease) -> Self {
        Self::new(Vec::new(), lease)
    }

    /// The next vector, and its slot.
    pub(super) fn next(&mut self) -> Option<(u32, &SteeringVector)> {
        let vector = self.vectors.get(self.num_written)?;
        let slot = *self.lease.slots().get(self.num_written)?;
        self.num_written += 1;
        Some((slot, vector))
    }

    /// Whether every vector is written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.num_written == self.vectors.len()
    }

    /// The slots, to be handed out when the rows are where the model reads them.
    #[must_use]
    pub fn lease(&self) -> &SlotLease {
        &self.lease
    }
}
