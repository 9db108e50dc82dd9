//! Matrix products.

use super::dot;
use super::memory::{Memory, bad};
use crate::error::Result;
use crate::gpu::args::MatmulArgs;
use crate::gpu::memory::MatrixForm;

/// [`MatmulArgs`], of dense weights: [`super::HostOps`] keeps no others.
pub(super) fn matmul(memory: &mut Memory, args: &MatmulArgs, weight: MatrixForm) -> Result<()> {
    let MatrixForm::Dense(element) = weight else {
        return Err(bad(format!("a product with {weight:?}; the host keeps dense matrices alone")));
    };
    let (rows, in_features) = (args.rows as usize, args.in_features as usize);
    let (out_features, out_stride) = (args.out_features as usize, args.out_stride as usize);
    if in_features == 0 || out_features > out_stride {
        return Err(bad(format!(
            "a product of {in_features} to {out_features} features in rows of {out_stride}"
        )));
    }
    let bias = match args.bias.is_some() {
        true => memory.read::<f32>(args.bias, 0, out_features)?,
        false => vec![0.0; out_features],
    };
    let x = memory.read_floats(element, args.x, 0, rows * in_features)?;
    for (column, bias) in bias.into_iter().enumerate() {
        let weight = memory.read_floats(element, args.weight, column * in_features, in_features)?;
        for (row, x) in x.chunks_exact(in_features).enumerate() {
            memory.write(args.out, row * out_stride + column, &[dot(x, &weight) + bias])?;
        }
    }
    Ok(())
}
