//! One step's input: the tokens of all running sequences side by side, without padding.

use std::fmt::Display;
use std::ops::Range;

use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::kv_cache::KvCache;

/// The rows of one forward pass. Sequence i owns rows `cu_seqlens[i]..cu_seqlens[i + 1]`, be it a
/// whole prompt, a chunk of one or a single decode step; a row's key and value are written to the
/// cache and the row attends to every earlier position of its sequence, which the cache must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedBatch {
    /// `[total_tokens]`, ids below `vocab_size`.
    pub token_ids: Vec<u32>,
    /// `[total_tokens]`: index of each row in its sequence, consecutive within a sequence.
    pub positions: Vec<usize>,
    /// `[num_seqs + 1]`: 0, then the end row of each sequence; no sequence is empty.
    pub cu_seqlens: Vec<usize>,
    /// `[num_seqs]`: the cache blocks of each sequence in order of position, enough for its last
    /// row. Position p lives in block `block_tables[i][p / block_size]`.
    pub block_tables: Vec<Vec<u32>>,
    /// Rows whose logits are wanted, in the order wanted.
    pub logit_rows: Vec<usize>,
}

impl PackedBatch {
    /// Number of rows.
    #[must_use]
    pub fn total_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Checks the batch against model and cache and resolves where each row's key and value go.
    pub(crate) fn layout(&self, config: &LlamaConfig, cache: &KvCache) -> Result<BatchLayout<'_>> {
        let total_tokens = self.total_tokens();
        let num_seqs = self.block_tables.len();
        if total_tokens == 0 || self.positions.len() != total_tokens {
            return Err(bad(format!(
                "{total_tokens} token ids and {} positions; expected the same number, at least 1",
                self.positions.len()
            )));
        }
        let bounds_fit = self.cu_seqlens.len() == num_seqs + 1
            && self.cu_seqlens.first() == Some(&0)
            && self.cu_seqlens.last() == Some(&total_tokens)
            && self.cu_seqlens.is_sorted_by(|a, b| a < b);
        if !bounds_fit {
            return Err(bad(format!(
                "cu_seqlens {:?} do not divide {total_tokens} rows among {num_seqs} sequences",
                self.cu_seqlens
            )));
        }
        if let Some(id) = self.token_ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(bad(format!(
                "token id {id} is not below the vocabulary's size {}",
                config.vocab_size
            )));
        }
        if let Some(row) = self.logit_rows.iter().find(|&&row| row >= total_tokens) {
            return Err(bad(format!("logits asked of row {row} of {total_tokens}")));
        }
        let mut layout = BatchLayout {
            cache_rows: Vec::with_capacity(total_tokens),
            seqs: Vec::with_capacity(num_seqs),
            block_size: cache.block_size(),
        };
        for (bounds, block_table) in self.cu_seqlens.windows(2).zip(&self.block_tables) {
            let rows = bounds[0]..bounds[1];
            self.place_sequence(rows.clone(), block_table, config, cache, &mut layout.cache_rows)?;
            layout.seqs.push(SeqSpan {
                first_position: self.positions[rows.start],
                rows,
                block_table,
            });
        }
        let mut written = layout.cache_rows.clone();
        written.sort_unstable();
        if let Some(pair) = written.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad(format!(
                "two rows of one step would be written to cache row {}",
                pair[0]
            )));
        }
        Ok(layout)
    }

    /// Appends the cache row of each of one sequence's rows.
    fn place_sequence(
        &self,
        rows: Range<usize>,
        block_table: &[u32],
        config: &LlamaConfig,
        cache: &KvCache,
        cache_rows: &mut Vec<usize>,
    ) -> Result<()> {
        let first = self.positions[rows.start];
        for (offset, &position) in self.positions[rows].iter().enumerate() {
            if position != first + offset {
                return Err(bad(format!(
                    "a sequence's positions are not consecutive: {position} where {} was expected",
                    first + offset
                )));
            }
            if position >= config.max_position_embeddings {
                return Err(bad(format!(
                    "position {position} is outside the model's context of {} tokens",
                    config.max_position_embeddings
                )));
            }
            let Some(&block) = block_table.get(position / cache.block_size()) else {
                return Err(bad(format!(
                    "a block table of {} blocks of {} tokens does not reach position {position}",
                    block_table.len(),
                    cache.block_size()
                )));
            };
            if block as usize >= cache.num_blocks() {
                return Err(bad(format!(
                    "cache block {block} is not below the pool's {}",
                    cache.num_blocks()
                )));
            }
            cache_rows.push(block as usize * cache.block_size() + position % cache.block_size());
        }
        Ok(())
    }
}

fn bad(reason: impl Display) -> Error {
    Error::Request(format!("packed batch: {reason}"))
}

/// A checked batch, as the attention needs it.
#[derive(Debug, Clone)]
pub(crate) struct BatchLayout<'a> {
    /// `[total_tokens]`: the row of the cache pool that takes each row's key and value.
    pub(crate) cache_rows: Vec<usize>,
    /// The sequences, in row order.
    pub(crate) seqs: Vec<SeqSpan<'a>>,
    /// Tokens a cache block.
    pub(crate) block_size: usize,
}

/// One sequence's share of a batch.
#[derive(Debug, Clone)]
pub(crate) struct SeqSpan<'a> {
    /// Its rows.
    pub(crate) rows: Range<usize>,
    /// Position of its first row.
    pub(crate) first_position: usize,
    /// Its cache blocks in order of position.
    pub(crate) block_table: &'a [u32],
}

#[cfg(test)]
impl SeqSpan<'_> {
    /// The pool row that holds `position`.
    pub(crate) fn cache_row(&self, position: usize, block_size: usize) -> usize {
        self.block_table[position / block_size] as usize * block_size + position % block_size
    }
}
