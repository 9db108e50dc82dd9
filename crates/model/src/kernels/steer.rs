//! Steering of single rows in place.

use candle_core::Tensor;

use crate::error::Result;
use crate::steering::Operator;

/// One row to steer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SteerRow {
    pub(crate) row: usize,
    pub(crate) slot: usize,
    pub(crate) strength: f32,
    pub(crate) operator: Operator,
}

pub(crate) fn steer(_h: &Tensor, _table: &Tensor, _rows: &[SteerRow]) -> Result<Option<Vec<f32>>> {
    Ok(None)
}
