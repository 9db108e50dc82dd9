//! Log-probabilities of a row of raw logits.

use crate::engine::TokenLogprob;
use crate::kernels;

/// Log-softmax of one row; the sum is made once.
#[derive(Debug)]
pub(super) struct Logprobs<'a> {
    logits: &'a [f32],
    /// Natural logarithm of the sum of exponentials.
    log_sum: f64,
}

impl<'a> Logprobs<'a> {
    pub(super) fn new(logits: &'a [f32]) -> Self {
        let (largest, _) = kernels::largest(logits);
        let weights = kernels::weights(logits, largest, 1.0);
        // f64: the sum has as many terms as the vocabulary, most of them tiny.
        let sum: f64 = weights.into_iter().map(f64::from).sum();
        Self { logits, log_sum: f64::from(largest) + sum.ln() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "reported as f32, rounded once")]
    pub(super) fn of(&self, token_id: u32) -> TokenLogprob {
        let logit = f64::from(self.logits[token_id as usize]);
        TokenLogprob { token_id, logprob: (logit - self.log_sum) as f32 }
    }

    /// The `count` most likely, best first, the lower id first among equals.
    pub(super) fn top(&self, count: usize) -> Vec<TokenLogprob> {
        let count = count.min(self.logits.len());
        if count == 0 {
            return Vec::new();
        }
        let mut ids: Vec<u32> = (0_u32..).zip(self.logits).map(|(id, _)| id).collect();
        let order = |a: &u32, b: &u32| {
            self.logits[*b as usize].total_cmp(&self.logits[*a as usize]).then(a.cmp(b))
        };
        ids.select_nth_unstable_by(count - 1, order);
        ids.truncate(count);
        ids.sort_unstable_by(order);
        ids.into_iter().map(|id| self.of(id)).collect()
    }
}
