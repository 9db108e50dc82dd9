//! What an extraction keeps of the inputs it has seen.

use super::encode::{EncodedInput, Side};
use super::run::LayerExtraction;
use super::variant::Variant;
use crate::numbers::{dot, to_f32};

/// Takes one input after another and says what they amount to.
pub(crate) trait Statistics {
    /// Inputs added so far, in the order of the run.
    fn num_done(&self) -> usize;

    /// Adds one input. `rows` holds, for each layer, the input's chosen rows: `[rows, hidden_size]`.
    fn add(&mut self, input: &EncodedInput, means: &[RowMean]);

    /// Inputs of one side.
    fn num_inputs(&self, category_idx: usize, side: Side) -> u64;

    /// The vector of each layer of one category, as the variant makes it.
    fn layers_of(&self, category_idx: usize, variant: &Variant) -> Vec<LayerExtraction>;

    /// All numbers, little-endian, in a fixed order.
    fn to_bytes(&self) -> Vec<u8>;

    /// Takes the numbers of [`Self::to_bytes`] of statistics of the same run; false, and nothing changed, when they
    /// are of another shape.
    fn restore(&mut self, bytes: &[u8]) -> bool;
}

/// The mean of an input's rows at one layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowMean {
    /// `[hidden_size]`.
    pub(crate) mean: Vec<f64>,
    /// Mean of the rows' norms.
    pub(crate) norm: f64,
}

impl RowMean {
    /// Of `rows`: `[rows, hidden_size]`, at least one.
    pub(crate) fn of(rows: &[f32], hidden_size: usize) -> Self {
        let num_rows = (rows.len() / hidden_size) as f64;
        let mut mean = vec![0.0_f64; hidden_size];
        let mut norms = 0.0;
        for row in rows.chunks_exact(hidden_size) {
            let mut square = 0.0;
            for (mean, &value) in mean.iter_mut().zip(row) {
                *mean += f64::from(value);
                square += f64::from(value) * f64::from(value);
            }
            norms += square.sqrt();
        }
        mean.iter_mut().for_each(|value| *value /= num_rows);
        Self { mean, norm: norms / num_rows }
    }
}

/// A layer's vector with its sizes.
pub(crate) fn layer_extraction(
    layer: usize,
    vector: Vec<f64>,
    activation_norm: f64,
    split_half_cosine: Option<f64>,
) -> LayerExtraction {
    let norm = dot(&vector, &vector).sqrt();
    LayerExtraction {
        layer,
        vector: vector.into_iter().map(to_f32).collect(),
        norm,
        activation_norm,
        relative_norm: norm / activation_norm,
        split_half_cosine,
        num_kept: None,
    }
}

/// Numbers of `N` bytes each.
pub(crate) fn read_words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.chunks_exact(N).filter_map(|word| word.try_into().ok())
}
