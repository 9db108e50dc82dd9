//! The vector store's words in the model's types: the two crates do not know each other.

use skeg_model::steering::{Operator, Positions, Site};
use skeg_vector_store as store;

/// Where vectors act.
#[must_use]
pub fn site(site: store::Site) -> Site {
    match site {
        store::Site::AttnOut => Site::AttnOut,
        store::Site::ResidPost => Site::ResidPost,
    }
}

/// What is done with them there.
#[must_use]
pub fn operator(operator: store::Operator) -> Operator {
    match operator {
        store::Operator::Add => Operator::Add,
        store::Operator::AddNormRestored => Operator::AddNormRestored,
        store::Operator::ProjectOut => Operator::ProjectOut,
    }
}

/// On which tokens.
#[must_use]
pub fn positions(positions: store::Positions) -> Positions {
    match positions {
        store::Positions::All => Positions::All,
        store::Positions::Prompt => Positions::Prompt,
        store::Positions::Generation => Positions::Generation,
    }
}
