//! Which tokens may be drawn: top-k, top-p and min-p, in this order.
//!
//! Candidates are kept in ascending order of their ids, so that a draw walks the same list whichever
//! filters are on.

use std::cmp::Ordering;

use super::draw::CHUNK;

/// Which tokens may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filter {
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of the most likely whose share of what top-k left reaches this, in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the most likely one's probability, in 0..=1; 0 keeps all.
    pub min_p: f32,
}

impl Filter {
    /// Whether any token may be drawn, however unlikely.
    pub(super) fn keeps_all(self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    /// What may be drawn, in ascending order of ids.
    pub(super) fn kept(self, weights: &[f32]) -> Vec<Candidate> {
        let mut candidates = candidates(weights);
        keep_top_k(&mut candidates, self.top_k);
        keep_top_p(&mut candidates, self.top_p);
        keep_min_p(&mut candidates, self.min_p);
        candidates
    }
}

/// A token that may be drawn, with its share of the probability; weights need not sum to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token_id: u32,
    pub(super) weight: f32,
}

/// Tokens that weigh anything.
fn candidates(weights: &[f32]) -> Vec<Candidate> {
    let all = (0_u32..).zip(weights).map(|(token_id, &weight)| Candidate { token_id, weight });
    all.filter(|candidate| candidate.weight > 0.0).collect()
}

/// Most likely first, the lower id first among equals.
fn by_weight(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token_id.cmp(&b.token_id))
}

fn by_id(candidates: &mut [Candidate]) {
    candidates.sort_unstable_by_key(|candidate| candidate.token_id);
}

/// Keeps the `top_k` most likely; 0 keeps all.
fn keep_top_k(candidates: &mut Vec<Candidate>, top_k: usize) {
    if top_k == 0 || top_k >= candidates.len() {
        return;
    }
    candidates.select_nth_unstable_by(top_k - 1, by_weight);
    candidates.truncate(top_k);
    by_id(candidates);
}

/// Keeps the smallest set of the most likely whose share of what is left reaches `top_p`, at least one.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let sum = |chunk: &[Candidate]| {
        chunk.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>()
    };
    // In the order of sums of a draw.
    let total: f64 = candidates.chunks(CHUNK).map(sum).sum();
    let wanted = f64::from(top_p) * total;
    // All that weigh less than this weigh less than what may be left out, even together: they need no sorting.
    // Half of it, so that no rounding matters.
    let least = 0.5 * (total - wanted) / candidates.len() as f64;
    candidates.retain(|candidate| f64::from(candidate.weight) >= least);
    candidates.sort_unstable_by(by_weight);
    let mut reached = 0.0;
    let mut num_kept = 0;
    for candidate in candidates.iter() {
        reached += f64::from(candidate.weight);
        num_kept += 1;
        if reached >= wanted {
            break;
        }
    }
    candidates.truncate(num_kept);
    by_id(candidates);
}

/// Keeps those with at least `min_p` of the most likely one's probability; 0 keeps all.
fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p <= 0.0 {
        return;
    }
    let largest = candidates.iter().map(|candidate| candidate.weight).fold(0.0, f32::max);
    candidates.retain(|candidate| candidate.weight >= min_p * largest);
}
