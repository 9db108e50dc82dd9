//! Matrix product with a dense weight, on devices other than the CPU: there [`super::packed`] does it.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// `x @ weight^T`.
///
/// # Shapes
/// - `x`: `[total_tokens, in_features]`, f32
/// - `weight`: `[out_features, in_features]`, f32, f16 or bf16
/// - returns: `[total_tokens, out_features]`, f32
///
/// # Dtype and device
/// Products are of the weight's type.
pub(crate) fn matmul_dense(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let product = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?; // [total_tokens, out_features]
    // f32: the residual stream is f32.
    Ok(product.to_dtype(DType::F32)?)
}
