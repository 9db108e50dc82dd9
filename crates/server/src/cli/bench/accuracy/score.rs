//! A model over windows of a text: how likely it found each token, and what it would have said.

use anyhow::Context as _;
use skeg_model::{Hooks, KvCache, KvCacheDtype, Llama, PackedBatch};

/// Tokens a cache block.
const BLOCK_SIZE: usize = 32;

/// A model with room for one sequence.
pub(super) struct Scorer<'m> {
    llama: &'m Llama,
    cache: KvCache,
}

impl<'m> Scorer<'m> {
    /// Room for `num_tokens`.
    pub(super) fn new(
        llama: &'m Llama,
        num_tokens: usize,
        kv_cache_dtype: KvCacheDtype,
    ) -> anyhow::Result<Self> {
        let num_blocks = num_tokens.div_ceil(BLOCK_SIZE);
        let cache = KvCache::new(llama, num_blocks, BLOCK_SIZE, kv_cache_dtype)?;
        Ok(Self { llama, cache })
    }

    /// Log-probabilities of the whole vocabulary after each row from `first_logit_row` on, `[rows, vocab_size]`; the
    /// tokens stand at positions `first_position..`.
    fn forward(
        &mut self,
        token_ids: &[u32],
        first_position: usize,
        first_logit_row: usize,
    ) -> anyhow::Result<Vec<LogProbs>> {
        let num_blocks = u32::try_from(self.cache.num_blocks())?;
        let batch = PackedBatch {
            token_ids: token_ids.to_vec(),
            positions: (first_position..first_position + token_ids.len()).collect(),
            cu_seqlens: vec![0, token_ids.len()],
            block_tables: vec![(0..num_blocks).collect()],
            logit_rows: (first_logit_row..token_ids.len()).collect(),
        };
        let logits = self.llama.forward(&batch, &mut self.cache, &mut Hooks::none())?;
        #[expect(clippy::disallowed_methods, reason = "scores are made on the host")]
        let rows = logits.to_vec2::<f32>()?;
        Ok(rows.into_iter().map(LogProbs::new).collect())
    }

    /// The distributions of the second half of a window, as llama.cpp scores one: row i is what the model expects
    /// after the token at `window.len() / 2 + i`, for all tokens but the last.
    pub(super) fn second_half(&mut self, window: &[u32]) -> anyhow::Result<Vec<LogProbs>> {
        let known = &window[..window.len() - 1];
        self.forward(known, 0, window.len() / 2)
    }

    /// The most likely continuation, `num_tokens` long, with the log-probability of each token.
    pub(super) fn greedy(
        &mut self,
        prompt: &[u32],
        num_tokens: usize,
    ) -> anyhow::Result<Vec<(u32, f64)>> {
        let mut answer = Vec::with_capacity(num_tokens);
        let mut next = self.forward(prompt, 0, prompt.len() - 1)?;
        while let Some(row) = next.first() {
            let token = row.most_likely().context("a model without a vocabulary")?;
            answer.push((token, row.of(token)));
            if answer.len() == num_tokens {
                break;
            }
            next = self.forward(&[token], prompt.len() + answer.len() - 1, 0)?;
        }
        Ok(answer)
    }

    /// Log-probabilities of a given continuation, token by token.
    pub(super) fn of_continuation(
        &mut self,
        prompt: &[u32],
        continuation: &[u32],
    ) -> anyhow::Result<Vec<f64>> {
        let known = [prompt, &continuation[..continuation.len() - 1]].concat();
        let rows = self.forward(&known, 0, prompt.len() - 1)?;
        Ok(rows.iter().zip(continuation).map(|(row, token)| row.of(*token)).collect())
    }
}

/// Log-softmax of one row of logits; the sum is made once.
#[derive(Debug)]
pub(super) struct LogProbs {
    logits: Vec<f32>,
    log_sum: f64,
}

impl LogProbs {
    pub(super) fn new(logits: Vec<f32>) -> Self {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        Self { logits, log_sum: largest + sum.ln() }
    }

    /// Of one token, in nats.
    pub(super) fn of(&self, token: u32) -> f64 {
        f64::from(self.logits[token as usize]) - self.log_sum
    }

    pub(super) fn most_likely(&self) -> Option<u32> {
        let best =
            (0_u32..).zip(&self.logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        best.map(|(token, _)| token)
    }

    /// Kullback-Leibler divergence of `other` from this, `sum p (ln p - ln q)`, in nats.
    pub(super) fn divergence(&self, other: &Self) -> f64 {
        let pairs = self.logits.iter().zip(&other.logits);
        pairs
            .map(|(&p, &q)| {
                let (p, q) = (f64::from(p) - self.log_sum, f64::from(q) - other.log_sum);
                p.exp() * (p - q)
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use skeg_model::testing::{RandomWeights, random_llama, tiny_config};

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let probs = [0.5_f32, 0.3, 0.2];
        let row = LogProbs::new(probs.iter().map(|p| p.ln() + 7.0).collect());
        for (token, p) in (0_u32..).zip(probs) {
            assert!((row.of(token) - f64::from(p).ln()).abs() < 1e-6);
        }
        assert_eq!(row.most_likely(), Some(0));
        assert!(row.divergence(&row).abs() < 1e-9);
        let even = LogProbs::new(vec![0.0; 3]);
        let expected: f64 = probs.iter().map(|&p| f64::from(p) * (f64::from(p) * 3.0).ln()).sum();
        assert!((row.divergence(&even) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_greedy_answer_is_what_its_own_scores_say() {
        let llama = random_llama(tiny_config(), 1, RandomWeights::Dense(DType::F32)).unwrap();
        let mut scorer = Scorer::new(&llama, 40, KvCacheDtype::F32).unwrap();
        let prompt = [5, 9, 100, 3];
        let answer = scorer.greedy(&prompt, 12).unwrap();
        let (tokens, expected): (Vec<u32>, Vec<f64>) = answer.into_iter().unzip();
        assert_eq!(tokens.len(), 12);
        assert_eq!(scorer.of_continuation(&prompt, &tokens).unwrap(), expected);
        let window = [&prompt[..], &tokens[..]].concat();
        let rows = scorer.second_half(&window).unwrap();
        assert_eq!(rows.len(), 16 - 8 - 1);
        assert_eq!(rows[0].of(window[9]).to_bits(), expected[9 - 4].to_bits());
    }
}
