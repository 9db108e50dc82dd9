//! A model with a cache of its own, stepped by hand: no scheduler, no sampling.
//!
//! A decode step at one position writes the same rows of the cache each time, so it can be repeated on the
//! same context as often as wanted.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use skeg_model::{Hooks, KvCache, KvCacheDtype, Llama, PackedBatch};

use super::draw::Draw;

/// Tokens a cache block, as the engine has by default.
const BLOCK_SIZE: usize = 32;

/// The model and the cache of up to `num_seqs` sequences.
#[derive(Debug)]
pub(super) struct Rig<'m> {
    llama: &'m Llama,
    cache: KvCache,
    /// Blocks of one sequence; sequence i owns blocks `i * blocks_per_seq..`.
    blocks_per_seq: usize,
    draw: Draw,
}

impl<'m> Rig<'m> {
    /// Room for `num_seqs` sequences of `seq_len` tokens each.
    pub(super) fn new(
        llama: &'m Llama,
        num_seqs: usize,
        seq_len: usize,
        kv_cache_dtype: KvCacheDtype,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let blocks_per_seq = seq_len.div_ceil(BLOCK_SIZE).max(1);
        let num_blocks = num_seqs.max(1) * blocks_per_seq;
        let cache = KvCache::new(llama, num_blocks, BLOCK_SIZE, kv_cache_dtype)?;
        Ok(Self { llama, cache, blocks_per_seq, draw: Draw::new(seed) })
    }

    /// The next `num_rows` rows, from `position` on, of each of the sequences, with tokens drawn anew;
    /// logits of each sequence's last row.
    pub(super) fn batch(
        &mut self,
        seqs: Range<usize>,
        position: usize,
        num_rows: usize,
    ) -> anyhow::Result<PackedBatch> {
        let vocab_size = u32::try_from(self.llama.config().vocab_size)?;
        let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
        for seq_idx in seqs {
            batch.token_ids.extend((0..num_rows).map(|_| self.draw.below(vocab_size)));
            batch.positions.extend(position..position + num_rows);
            batch.cu_seqlens.push(batch.token_ids.len());
            let first_block = seq_idx * self.blocks_per_seq;
            let blocks = (first_block..first_block + self.blocks_per_seq).map(u32::try_from);
            batch.block_tables.push(blocks.collect::<Result<_, _>>()?);
            batch.logit_rows.push(batch.token_ids.len() - 1);
        }
        Ok(batch)
    }

    /// One forward pass, to the end of the device's work.
    pub(super) fn forward(
        &mut self,
        batch: &PackedBatch,
        hooks: &mut Hooks<'_>,
    ) -> anyhow::Result<()> {
        self.llama.forward(batch, &mut self.cache, hooks)?;
        self.llama.device().synchronize().context("waiting for the device")
    }

    /// How long a pass without hooks takes.
    pub(super) fn time(&mut self, batch: &PackedBatch) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.forward(batch, &mut Hooks::none())?;
        Ok(started.elapsed())
    }

    /// Runs the first `num_tokens` tokens of one sequence after the other, in chunks of at
    /// least 1, and says how long the passes took.
    pub(super) fn prefill(
        &mut self,
        seqs: Range<usize>,
        num_tokens: usize,
        chunk: usize,
    ) -> anyhow::Result<Duration> {
        let mut elapsed = Duration::ZERO;
        for seq_idx in seqs {
            for position in (0..num_tokens).step_by(chunk) {
                let num_rows = chunk.min(num_tokens - position);
                let mut batch = self.batch(seq_idx..seq_idx + 1, position, num_rows)?;
                if position + num_rows < num_tokens {
                    batch.logit_rows.clear();
                }
                elapsed += self.time(&batch)?;
            }
        }
        Ok(elapsed)
    }
}
