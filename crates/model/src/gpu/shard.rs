//! A rank's part of a model, split as Megatron splits it (Shoeybi et al. 2019, arXiv 1909.08053, section 3): the first matrix of
//! attention and MLP by its outputs, the second by its inputs, so that one sum over the ranks follows each of the two.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Tensor};

use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::llama::Weight;

/// The axis of a matrix that its output features lie along.
const ROW_DIM: usize = 0;
/// The axis of a matrix that its input features lie along.
const COLUMN_DIM: usize = 1;

/// Which part of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shard {
    /// Below `num_ranks`.
    pub(super) rank: usize,
    pub(super) num_ranks: usize,
}

impl Shard {
    /// What the pass of every rank is over: its share of key and value heads with their query heads, and of the MLP's width. All
    /// else is whole.
    ///
    /// # Errors
    /// [`Error::Device`] when they do not divide.
    pub(super) fn config(config: &LlamaConfig, num_ranks: usize) -> Result<LlamaConfig> {
        let (kv_heads, width) = (config.num_key_value_heads, config.intermediate_size);
        let divides = |ranks: usize| kv_heads.is_multiple_of(ranks) && width.is_multiple_of(ranks);
        if num_ranks == 0 || !divides(num_ranks) {
            let possible: Vec<String> = (1..=kv_heads)
                .filter(|&ranks| divides(ranks))
                .map(|ranks| ranks.to_string())
                .collect();
            return Err(refused(
                num_ranks,
                format!(
                    "the model's {kv_heads} key and value heads and its MLP's width of {width} do not divide evenly; expected \
                     one of {} ranks",
                    possible.join(", ")
                ),
            ));
        }
        Ok(LlamaConfig {
            // Whole groups: the query heads of a key head stay with it.
            num_attention_heads: config.num_attention_heads / num_ranks,
            num_key_value_heads: kv_heads / num_ranks,
            intermediate_size: width / num_ranks,
            ..config.clone()
        })
    }

    /// The rank's rows of a matrix: `[rows / num_ranks, cols]`.
    ///
    /// # Errors
    /// [`Error::Device`] when they do not divide.
    pub(super) fn rows(self, weight: &Weight) -> Result<Weight> {
        self.part(weight, ROW_DIM)
    }

    /// The rank's columns of a matrix: `[rows, cols / num_ranks]`.
    ///
    /// # Errors
    /// [`Error::Device`] when they, or their quantised blocks, do not divide.
    pub(super) fn columns(self, weight: &Weight) -> Result<Weight> {
        self.part(weight, COLUMN_DIM)
    }

    /// The rank's part of a vector.
    ///
    /// # Errors
    /// [`Error::Device`] when it does not divide.
    pub(super) fn values(self, vector: &Tensor) -> Result<Tensor> {
        self.numbers(vector, ROW_DIM)
    }

    fn part(self, weight: &Weight, dim: usize) -> Result<Weight> {
        if self.num_ranks == 1 {
            return Ok(weight.clone());
        }
        match weight {
            Weight::Dense(numbers) => Ok(Weight::Dense(self.numbers(numbers, dim)?)),
            Weight::Quantized(blocks) => Ok(Weight::Quantized(Arc::new(self.blocks(blocks, dim)?))),
        }
    }

    fn numbers(self, numbers: &Tensor, dim: usize) -> Result<Tensor> {
        let range = self.range(numbers.dim(dim)?, "numbers")?;
        Ok(numbers.narrow(dim, range.start, range.len())?.contiguous()?)
    }

    fn blocks(self, weight: &QTensor, dim: usize) -> Result<QTensor> {
        let (rows, cols) = weight.shape().dims2()?;
        let (block_len, block_bytes) = (weight.dtype().block_size(), weight.dtype().type_size());
        let row_blocks = cols / block_len;
        let bytes = weight.data()?;
        let (bytes, shape) = if dim == ROW_DIM {
            let range = self.range(rows, "rows")?;
            let row_bytes = row_blocks * block_bytes;
            let part = &bytes[range.start * row_bytes..range.end * row_bytes];
            (part.to_vec(), (range.len(), cols))
        } else {
            let what = format!("blocks of {block_len} columns ({:?})", weight.dtype());
            let range = self.range(row_blocks, &what)?;
            let part = range.start * block_bytes..range.end * block_bytes;
            let rows_of_part =
                bytes.chunks_exact(row_blocks * block_bytes).flat_map(|row| &row[part.clone()]);
            (rows_of_part.copied().collect(), (rows, range.len() * block_len))
        };
        let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, weight.dtype())?;
        Ok(QTensor::new(storage, shape)?)
    }

    /// The rank's part of `len` things.
    fn range(self, len: usize, what: &str) -> Result<Range<usize>> {
        if !len.is_multiple_of(self.num_ranks) {
            return Err(refused(
                self.num_ranks,
                format!("{len} {what} do not divide evenly; choose fewer ranks"),
            ));
        }
        let part = len / self.num_ranks;
        Ok(self.rank * part..(self.rank + 1) * part)
    }
}

/// A model that cannot be split so.
fn refused(num_ranks: usize, reason: String) -> Error {
    Error::Device { device: format!("{num_ranks} ranks"), reason }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;

    use super::*;
    use crate::testing::tiny_config;

    fn matrix(rows: usize, cols: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
    }

    fn numbers(weight: Weight) -> Tensor {
        match weight {
            Weight::Dense(numbers) => numbers,
            Weight::Quantized(blocks) => blocks.dequantize(&Device::Cpu).unwrap(),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test looks at values")]
    fn values(tensor: &Tensor) -> Vec<Vec<f32>> {
        tensor.to_vec2().unwrap()
    }

    #[test]
    fn the_parts_of_all_ranks_are_the_matrix() {
        let dense = matrix(8, 128);
        let blocks = QTensor::quantize(&dense, GgmlDType::Q8_0).unwrap();
        for weight in [Weight::Dense(dense), Weight::Quantized(Arc::new(blocks))] {
            let whole = values(&numbers(weight.clone()));
            for num_ranks in [1, 2, 4] {
                let shards = (0..num_ranks).map(|rank| Shard { rank, num_ranks });
                let rows: Vec<Tensor> =
                    shards.clone().map(|shard| numbers(shard.rows(&weight).unwrap())).collect();
                assert_eq!(rows[0].dims(), [8 / num_ranks, 128]);
                assert_eq!(values(&Tensor::cat(&rows, ROW_DIM).unwrap()), whole);
                let columns: Vec<Tensor> =
                    shards.map(|shard| numbers(shard.columns(&weight).unwrap())).collect();
                assert_eq!(columns[0].dims(), [8, 128 / num_ranks]);
                assert_eq!(values(&Tensor::cat(&columns, COLUMN_DIM).unwrap()), whole);
            }
        }
    }

    #[test]
    fn what_does_not_divide_is_refused_with_what_would() {
        let config =
            LlamaConfig { num_attention_heads: 12, num_key_value_heads: 6, ..tiny_config() };
        for num_ranks in [0, 4, 5, 12] {
            let error = Shard::config(&config, num_ranks).unwrap_err().to_string();
            assert!(error.contains(&format!("`{num_ranks} ranks`")), "{error}");
            assert!(
                error.contains("6 key and value heads") && error.contains("1, 2, 3, 6"),
                "{error}"
            );
        }
        let blocks = QTensor::quantize(&matrix(2, 96), GgmlDType::Q8_0).unwrap();
        let weight = Weight::Quantized(Arc::new(blocks));
        let error = Shard { rank: 0, num_ranks: 2 }.columns(&weight).unwrap_err().to_string();
        assert!(error.contains("3 blocks of 32 columns (Q8_0)"), "{error}");
    }

    #[test]
    fn a_rank_has_whole_groups_of_heads() {
        let config =
            LlamaConfig { num_attention_heads: 12, num_key_value_heads: 6, ..tiny_config() };
        let of_rank = Shard::config(&config, 3).unwrap();
        assert_eq!((of_rank.num_attention_heads, of_rank.num_key_value_heads), (4, 2));
        assert_eq!((of_rank.intermediate_size, of_rank.hidden_size), (64, 64));
    }
}
