//! The same operations of candle's: what the kernels are held against.

use candle_core::{D, DType, Tensor};

use super::steer::SteerRow;
use crate::error::Result;
use crate::steering::Operator;

/// The axis rows and slots lie along.
const ROW_DIM: usize = 0;
/// The axis a row's values lie along.
const HIDDEN_DIM: usize = 1;

/// `x @ weight^T`, its products of the weight's type.
pub(super) fn matmul(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let product = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?; // [total_tokens, out_features]
    Ok(product.to_dtype(DType::F32)?)
}

/// [`super::rms_norm`].
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?; // [total_tokens, 1]
    let normed = x.broadcast_div(&(mean_square + eps)?.sqrt()?)?;
    Ok(normed.broadcast_mul(weight)?)
}

/// [`super::elementwise::rope_in_place`], into another tensor.
pub(super) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (total_tokens, width) = x.dims2()?;
    let (_, half) = cos.dims2()?;
    let heads = x.reshape((total_tokens, width / (2 * half), 2 * half))?; // [total_tokens, num_heads, head_dim]
    let first = heads.narrow(D::Minus1, 0, half)?; // [total_tokens, num_heads, head_dim / 2]
    let second = heads.narrow(D::Minus1, half, half)?; // [total_tokens, num_heads, head_dim / 2]
    let cos = cos.unsqueeze(1)?; // [total_tokens, 1, head_dim / 2]
    let sin = sin.unsqueeze(1)?; // [total_tokens, 1, head_dim / 2]
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    let rotated = Tensor::cat(&[rotated_first, rotated_second], D::Minus1)?; // [total_tokens, num_heads, head_dim]
    Ok(rotated.reshape((total_tokens, width))?) // [total_tokens, num_heads * head_dim]
}

/// [`super::swiglu`].
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok((gate.to_dtype(DType::F32)?.silu()? * up)?)
}

/// [`super::steer`], without the norms.
pub(super) fn steer(h: &Tensor, table: &Tensor, rows: &[SteerRow]) -> Result<()> {
    for operator in [Operator::Add, Operator::AddNormRestored, Operator::ProjectOut] {
        let chosen: Vec<&SteerRow> = rows.iter().filter(|row| row.operator == operator).collect();
        if chosen.is_empty() {
            continue;
        }
        let device = h.device();
        let index = |of: fn(&SteerRow) -> usize| -> Result<Tensor> {
            let values = chosen
                .iter()
                .map(|row| u32::try_from(of(row)))
                .collect::<Result<Vec<u32>, _>>()
                .map_err(candle_core::Error::wrap)?;
            Ok(Tensor::from_vec(values, chosen.len(), device)?)
        };
        let row_ids = index(|row| row.row)?;
        let before = h.index_select(&row_ids, ROW_DIM)?; // [rows, hidden_size]
        let v = table.index_select(&index(|row| row.slot)?, ROW_DIM)?; // [rows, hidden_size]
        let strength: Vec<f32> = chosen.iter().map(|row| row.strength).collect();
        let strength = Tensor::from_vec(strength, (chosen.len(), 1), device)?;
        let norm = |x: &Tensor| x.sqr()?.sum_keepdim(HIDDEN_DIM)?.sqrt(); // [rows, 1]
        let after = match operator {
            Operator::Add => (&before + v.broadcast_mul(&strength)?)?,
            Operator::AddNormRestored => {
                let sum = (&before + v.broadcast_mul(&strength)?)?;
                let floor = f64::from(f32::MIN_POSITIVE);
                sum.broadcast_mul(&norm(&before)?.div(&norm(&sum)?.maximum(floor)?)?)?
            }
            Operator::ProjectOut => {
                let along = (&before * &v)?.sum_keepdim(HIDDEN_DIM)?; // [rows, 1]
                let square = v.sqr()?.sum_keepdim(HIDDEN_DIM)?; // [rows, 1]
                let floor = f64::from(f32::MIN_POSITIVE);
                let factor = ((along / square.maximum(floor)?)? * strength)?;
                (&before - v.broadcast_mul(&factor)?)?
            }
        };
        let places = row_ids.unsqueeze(HIDDEN_DIM)?.broadcast_as(after.shape())?.contiguous()?;
        h.scatter_set(&places, &after, ROW_DIM)?;
    }
    Ok(())
}
