//! Matrices in whatever form they are kept, and what is done with them.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};

use super::weights::{Weight, WeightSource};
use crate::error::Result;
use crate::kernels;

impl Weight {
    /// Float types in a GGUF's clothes are dense: their blocks are single numbers.
    pub(super) fn without_float_blocks(self) -> Result<Self> {
        match self {
            Self::Quantized(weight) => match weight.dtype() {
                GgmlDType::F32 => Ok(Self::Dense(weight.dequantize(&weight.device())?)),
                dtype @ (GgmlDType::F16 | GgmlDType::BF16) => {
                    let dtype = if dtype == GgmlDType::F16 { DType::F16 } else { DType::BF16 };
                    // Exact: each value came from this type.
                    let dense = weight.dequantize(&weight.device())?.to_dtype(dtype)?;
                    Ok(Self::Dense(dense))
                }
                _ => Ok(Self::Quantized(weight)),
            },
            dense @ Self::Dense(_) => Ok(dense),
        }
    }
}

/// `x @ weight^T + bias`.
#[derive(Debug)]
pub(super) struct Linear {
    /// `[out_features, in_features]`.
    weight: Weight,
    /// `[out_features]`, f32.
    bias: Option<Tensor>,
}

impl Linear {
    /// Wraps a matrix that is shared, as a tied `lm_head` is.
    pub(super) fn new(weight: Weight) -> Self {
        Self { weight, bias: None }
    }

    /// Takes `{name}.weight`, and `{name}.bias` if `with_bias`.
    pub(super) fn load(
        source: &mut dyn WeightSource,
        name: &str,
        (out_features, in_features): (usize, usize),
        bias: Bias,
    ) -> Result<Self> {
        let weight = source.matrix(&format!("{name}.weight"), out_features, in_features)?;
        let bias = match bias {
            Bias::None => None,
            Bias::Vector => Some(source.vector(&format!("{name}.bias"), out_features)?),
        };
        Ok(Self { weight: weight.without_float_blocks()?, bias })
    }

    /// # Shapes
    /// - `x`: `[total_tokens, in_features]`, f32
    /// - returns: `[total_tokens, out_features]`, f32
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = match &self.weight {
            Weight::Dense(weight) => kernels::matmul_dense(x, weight)?,
            Weight::Quantized(weight) => kernels::matmul_quantized(x, weight)?,
        };
        match &self.bias {
            Some(bias) => Ok(product.broadcast_add(bias)?),
            None => Ok(product),
        }
    }
}

/// Whether a [`Linear`] adds a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// It does not.
    None,
    /// `[out_features]`.
    Vector,
}

/// The table of token embeddings.
#[derive(Debug)]
pub(super) struct Embedding {
    /// `[vocab_size, hidden_size]`.
    weight: Weight,
}

impl Embedding {
    pub(super) fn new(weight: Weight) -> Self {
        Self { weight }
    }

    /// The rows of `token_ids`, and no others, as f32.
    ///
    /// # Shapes
    /// - `token_ids`: `[total_tokens]`, u32
    /// - returns: `[total_tokens, hidden_size]`, f32
    pub(super) fn forward(&self, token_ids: &Tensor) -> Result<Tensor> {
        const VOCAB_DIM: usize = 0;
        match &self.weight {
            Weight::Dense(weight) => {
                // f32: the residual stream is f32.
                Ok(weight.index_select(token_ids, VOCAB_DIM)?.to_dtype(DType::F32)?)
            }
            Weight::Quantized(weight) => Ok(quantized_rows(weight, token_ids)?),
        }
    }
}

/// Dequantises the rows asked for, `[total_tokens, hidden_size]`.
fn quantized_rows(weight: &Arc<QTensor>, token_ids: &Tensor) -> candle_core::Result<Tensor> {
    weight.embedding(token_ids)
}
