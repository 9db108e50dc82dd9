//! Which tokens may be drawn: top-k, top-p and min-p, in this order.
//!
//! Candidates are kept in ascending order of their ids, so that a draw walks the same list whichever
//! filters are on.

use std::cmp::Ordering;

/// A token that may be drawn, with its share of the probability; weights need not sum to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token_id: u32,
    pub(super) weight: f64,
}

/// Softmax of `logits / temperature` without the division by the sum: the most likely token weighs 1.
/// Tokens at minus infinity are left out.
pub(super) fn probabilities(logits: &[f32], temperature: f32) -> Vec<Candidate> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (0_u32..)
        .zip(logits)
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(token_id, &logit)| {
            let weight = ((f64::from(logit) - f64::from(largest)) / f64::from(temperature)).exp();
            Candidate { token_id, weight }
        })
        .collect()
}

/// Most likely first, the lower id first among equals.
fn by_weight(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token_id.cmp(&b.token_id))
}

fn by_id(candidates: &mut [Candidate]) {
    candidates.sort_unstable_by_key(|candidate| candidate.token_id);
}

/// Keeps the `top_k` most likely; 0 keeps all.
pub(super) fn keep_top_k(candidates: &mut Vec<Candidate>, top_k: usize) {
    if top_k == 0 || top_k >= candidates.len() {
        return;
    }
    candidates.select_nth_unstable_by(top_k - 1, by_weight);
    candidates.truncate(top_k);
    by_id(candidates);
}

/// Keeps the smallest set of the most likely whose share of what is left reaches `top_p`, at least one.
pub(super) fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    candidates.sort_unstable_by(by_weight);
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let wanted = f64::from(top_p) * total;
    let mut reached = 0.0;
    let mut num_kept = 0;
    for candidate in candidates.iter() {
        reached += candidate.weight;
        num_kept += 1;
        if reached >= wanted {
            break;
        }
    }
    candidates.truncate(num_kept);
    by_id(candidates);
}

/// Keeps those with at least `min_p` of the most likely one's probability; 0 keeps all.
pub(super) fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p <= 0.0 {
        return;
    }
    let largest = candidates.iter().map(|candidate| candidate.weight).fold(0.0, f64::max);
    candidates.retain(|candidate| candidate.weight >= f64::from(min_p) * largest);
}
