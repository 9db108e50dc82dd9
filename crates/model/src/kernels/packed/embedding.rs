//! Rows of a packed table of embeddings.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::super::rows::slice;
use super::PackedMatrix;
use crate::error::Result;

/// The embeddings of `token_ids`, dequantised.
///
/// # Shapes
/// - `token_ids`: `[total_tokens]`, u32
/// - `table`: `[vocab_size, hidden_size]`
/// - returns: `[total_tokens, hidden_size]`, f32
///
/// # Errors
/// [`crate::Error::Tensor`] when an id is outside the table.
pub(crate) fn rows(token_ids: &Tensor, table: &PackedMatrix) -> Result<Tensor> {
    Ok(token_ids.apply_op1_no_bwd(&Rows { table })?)
}

struct Rows<'a> {
    table: &'a PackedMatrix,
}

impl CustomOp1 for Rows<'_> {
    fn name(&self) -> &'static str {
        "skeg-packed-rows"
    }

    fn cpu_fwd(
        &self,
        token_ids: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let token_ids = slice::<u32>(token_ids, layout)?;
        let PackedMatrix { out_features: vocab_size, in_features: hidden_size, .. } = *self.table;
        let mut out = Vec::with_capacity(token_ids.len() * hidden_size);
        for &id in token_ids {
            if id as usize >= vocab_size {
                candle_core::bail!("token id {id} is not below the table's {vocab_size}");
            }
            self.table.column(id as usize, &mut out);
        }
        Ok((CpuStorage::F32(out), (token_ids.len(), hidden_size).into()))
    }
}
