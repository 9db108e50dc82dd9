//! Matrices in whatever form they are kept, and what is done with them.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};

use super::weights::{Weight, WeightSource};
use crate::error::Result;
use crate::kernels::{self, Cpu, PackedMatrix};

/// A matrix, `[rows, cols]`, as the CPU keeps it.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// In the kernels' own form.
    Packed(Arc<PackedMatrix>),
    /// Blocks of a type that they do not take, as the file has them.
    Quantized(Arc<QTensor>),
}

impl Weight {
    /// The form in which the CPU keeps a matrix: types that the packed kernels take are packed, and the file's form is let go.
    pub(super) fn into_kept(self) -> Result<Kept> {
        Ok(match self.without_single_number_blocks()? {
            Self::Dense(weight) => Kept::Packed(Arc::new(PackedMatrix::pack_dense(&weight)?)),
            Self::Quantized(weight) if PackedMatrix::takes(weight.dtype()) => {
                Kept::Packed(Arc::new(PackedMatrix::pack(&weight)?))
            }
            Self::Quantized(weight) => Kept::Quantized(weight),
        })
    }

    /// Float types in a GGUF's clothes are dense: their blocks are single numbers.
    pub(crate) fn without_single_number_blocks(self) -> Result<Self> {
        let Self::Quantized(weight) = self else { return Ok(self) };
        match weight.dtype() {
            GgmlDType::F32 => Ok(Self::Dense(weight.dequantize(&weight.device())?)),
            dtype @ (GgmlDType::F16 | GgmlDType::BF16) => {
                let dtype = if dtype == GgmlDType::F16 { DType::F16 } else { DType::BF16 };
                // Exact: each value came from this type.
                let dense = weight.dequantize(&weight.device())?.to_dtype(dtype)?;
                Ok(Self::Dense(dense))
            }
            _ => Ok(Self::Quantized(weight)),
        }
    }
}

/// `x @ weight^T + bias`.
#[derive(Debug)]
pub(super) struct Linear {
    /// `[out_features, in_features]`.
    weight: Kept,
    /// `[out_features]`, f32.
    bias: Option<Tensor>,
}

impl Linear {
    /// Wraps a matrix that is shared, as a tied `lm_head` is.
    pub(super) fn new(weight: Kept) -> Self {
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
        Ok(Self { weight: weight.into_kept()?, bias })
    }

    /// # Shapes
    /// - `x`: `[total_tokens, in_features]`, f32
    /// - returns: `[total_tokens, out_features]`, f32
    pub(super) fn forward(&self, cpu: &Cpu, x: &Tensor) -> Result<Tensor> {
        let product = match &self.weight {
            Kept::Quantized(weight) => kernels::matmul_quantized(cpu, x, weight)?,
            Kept::Packed(weight) => kernels::matmul_packed(cpu, x, weight)?,
        };
        match &self.bias {
            Some(bias) => Ok(product.broadcast_add(bias)?),
            None => Ok(product),
        }
    }
}

impl Linear {
    /// `silu(gate(x)) * up(x)` (arXiv 2002.05202).
    ///
    /// # Shapes
    /// - `x`: `[total_tokens, hidden_size]`, f32
    /// - returns: `[total_tokens, intermediate_size]`, f32
    pub(super) fn swiglu(cpu: &Cpu, gate: &Self, up: &Self, x: &Tensor) -> Result<Tensor> {
        if let (Kept::Packed(gate), Kept::Packed(up)) = (&gate.weight, &up.weight)
            && gate.has_form_of(up)
        {
            return kernels::swiglu_packed(cpu, x, gate, up);
        }
        kernels::swiglu(cpu, &gate.forward(cpu, x)?, &up.forward(cpu, x)?)
    }
}

/// Several [`Linear`]s of the same input, their outputs side by side: one product where their weights can be
/// put into one matrix.
#[derive(Debug)]
pub(super) struct Stacked {
    parts: Vec<Linear>,
}

impl Stacked {
    /// Puts the weights together if they are packed alike.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when the biases cannot be joined.
    pub(super) fn new(parts: Vec<Linear>) -> Result<Self> {
        const COLUMN_DIM: usize = 0;
        let packed: Option<Vec<&PackedMatrix>> = parts
            .iter()
            .map(|part| match &part.weight {
                Kept::Packed(weight) => Some(weight.as_ref()),
                Kept::Quantized(_) => None,
            })
            .collect();
        let Some(weight) = packed.and_then(|packed| PackedMatrix::stack(&packed)) else {
            return Ok(Self { parts });
        };
        let biases: Option<Vec<&Tensor>> = parts.iter().map(|part| part.bias.as_ref()).collect();
        // All or none: a block's projections are biased alike.
        let bias = biases.map(|biases| Tensor::cat(&biases, COLUMN_DIM)).transpose()?;
        Ok(Self { parts: vec![Linear { weight: Kept::Packed(Arc::new(weight)), bias }] })
    }

    /// # Shapes
    /// - `x`: `[total_tokens, in_features]`, f32
    /// - returns: `[total_tokens, sum of out_features]`, f32, contiguous
    pub(super) fn forward(&self, cpu: &Cpu, x: &Tensor) -> Result<Tensor> {
        const COLUMN_DIM: usize = 1;
        if let [part] = self.parts.as_slice() {
            return part.forward(cpu, x);
        }
        let outs =
            self.parts.iter().map(|part| part.forward(cpu, x)).collect::<Result<Vec<_>>>()?;
        // contiguous: rows are rotated and read whole.
        Ok(Tensor::cat(&outs, COLUMN_DIM)?.contiguous()?) // [total_tokens, sum of out_features]
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
    weight: Kept,
}

impl Embedding {
    pub(super) fn new(weight: Kept) -> Self {
        Self { weight }
    }

    /// The rows of `token_ids`, and no others, as f32.
    ///
    /// # Shapes
    /// - `token_ids`: `[total_tokens]`, u32
    /// - returns: `[total_tokens, hidden_size]`, f32
    pub(super) fn forward(&self, token_ids: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Kept::Quantized(weight) => Ok(quantized_rows(weight, token_ids)?),
            Kept::Packed(weight) => Ok(kernels::packed_rows(token_ids, weight)?),
        }
    }
}

/// Dequantises the rows asked for, `[total_tokens, hidden_size]`.
fn quantized_rows(weight: &Arc<QTensor>, token_ids: &Tensor) -> candle_core::Result<Tensor> {
    weight.embedding(token_ids)
}
