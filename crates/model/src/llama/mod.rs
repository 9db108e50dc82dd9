//! The forward pass over a packed batch.

mod weights;

pub(crate) use weights::{Weight, WeightSource};
