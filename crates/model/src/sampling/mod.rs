//! How the next token is chosen from a row of logits.
//!
//! Fixed order: logit bias; repetition, frequency and presence penalties; stop tokens masked until
//! `min_new_tokens`; temperature; top-k; top-p over what top-k left; min-p; draw. At temperature 0 the
//! most likely token is taken after the masks. Each sequence has one seeded generator and draws from
//! candidates in ascending order of ids, so neither a neighbour nor a filter's inner order can shift it.

mod filter;
mod logprobs;
mod params;
mod sampler;
#[cfg(test)]
mod tests;

pub use params::SamplingParams;
pub use sampler::{Sampled, Sampler};
