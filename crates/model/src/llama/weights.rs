//! Where a model's weights come from, whatever the file: names as in a Hugging Face checkpoint, rows in
//! its order (a GGUF's permuted q and k rows are put back by the source).

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::quantized::QTensor;

use crate::error::Result;

/// One matrix, `[rows, cols]`, as its file has it.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    /// Contiguous, f32, f16 or bf16, on the host.
    Dense(Tensor),
    /// Quantised blocks along `cols`, on the host.
    Quantized(Arc<QTensor>),
}

/// A reader of one checkpoint. Each tensor is asked for once, so it may be read, converted and let go
/// of one by one.
pub(crate) trait WeightSource {
    /// The matrix `name`, for example `model.layers.3.self_attn.q_proj.weight`.
    ///
    /// # Errors
    /// [`crate::Error::Weight`] when it is missing or not `[rows, cols]`.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight>;

    /// The vector `name` (norm weights, biases), `[len]`, f32, on the host.
    ///
    /// # Errors
    /// [`crate::Error::Weight`] when it is missing or not `[len]`.
    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor>;
}
