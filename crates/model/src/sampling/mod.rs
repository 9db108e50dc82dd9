//! How the next token is chosen from a row of logits.
//!
//! Fixed order: logit bias and penalties, temperature, top-k, top-p, min-p, draw. Each sequence has one
//! seeded generator, so a neighbour cannot shift it.

mod params;

pub use params::SamplingParams;
