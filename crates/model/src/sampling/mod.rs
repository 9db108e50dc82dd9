//! How the next token is chosen from a row of logits.
//!
//! Fixed order: logit bias; repetition, frequency and presence penalties; stop tokens masked until
//! `min_new_tokens`; temperature; top-k; top-p over what top-k left; min-p; draw. At temperature 0 the
//! most likely token is taken after the masks. Each sequence has one seeded generator and draws from
//! candidates in ascending order of ids, so neither a neighbour nor a filter's inner order can shift it.
//!
//! A sampler says before a forward pass what it asks of its row ([`Ask`]) and takes the answer after it: a token where
//! neither bias, penalties nor masks change the row, and otherwise the row.

mod ask;
mod draw;
mod filter;
mod logprobs;
mod params;
mod sampler;
#[cfg(test)]
mod tests;

pub(crate) use ask::StepOutput;
pub use ask::{Answer, Ask, decide};
pub use filter::Filter;
pub use params::SamplingParams;
pub use sampler::{Sampled, Sampler};
