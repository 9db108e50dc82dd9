//! The activations of every input, for variants that look at single differences.

use super::derive::{Sides, derive};
use super::encode::{EncodedInput, Side};
use super::run::LayerExtraction;
use super::spec::ExtractSpec;
use super::statistics::{RowMean, Statistics, layer_extraction, read_words};
use super::variant::Variant;
use crate::numbers::{cosine, to_f32};

/// Mean activations input by input: 4 bytes for each input, layer and dimension (550 inputs, 12 layers of 576
/// dimensions: 15 MB).
#[derive(Debug, Clone)]
pub(crate) struct Kept<'a> {
    spec: &'a ExtractSpec,
    hidden_size: usize,
    /// Category and side of each input of the run, in its order.
    places: Vec<(usize, Side)>,
    num_done: usize,
    /// `[inputs, num_layers, hidden_size]`, as many inputs as are done.
    activations: Vec<f32>,
    /// `[inputs, num_layers]`: the mean norm of their rows.
    row_norms: Vec<f64>,
}

impl<'a> Kept<'a> {
    pub(crate) fn new(spec: &'a ExtractSpec, inputs: &[EncodedInput], hidden_size: usize) -> Self {
        let places = inputs.iter().map(|input| (input.category_idx, input.side)).collect();
        let (activations, row_norms) = (Vec::new(), Vec::new());
        Self { spec, hidden_size, places, num_done: 0, activations, row_norms }
    }

    /// `[inputs, num_layers, hidden_size]`, of the inputs that are done.
    pub(super) fn into_activations(self) -> Vec<f32> {
        self.activations
    }

    /// Inputs of one side that are done, by their index in the run.
    fn inputs_of(&self, category_idx: usize, side: Side) -> Vec<usize> {
        let done = self.places[..self.num_done].iter().enumerate();
        done.filter_map(|(idx, place)| (*place == (category_idx, side)).then_some(idx)).collect()
    }

    /// Both sides at one layer, of the inputs that `chosen` takes by their index on their side.
    fn sides(
        &self,
        category_idx: usize,
        layer_idx: usize,
        chosen: impl Fn(usize) -> bool,
    ) -> Sides<'_> {
        let num_layers = self.spec.layers.len();
        let rows = |side| -> Vec<&[f32]> {
            let inputs = self.inputs_of(category_idx, side).into_iter().enumerate();
            let chosen = inputs.filter_map(|(idx, input)| chosen(idx).then_some(input));
            let start = |input| (input * num_layers + layer_idx) * self.hidden_size;
            chosen.map(|input| &self.activations[start(input)..][..self.hidden_size]).collect()
        };
        Sides { safe: rows(Side::Safe), not_safe: rows(Side::Unsafe) }
    }
}

impl Statistics for Kept<'_> {
    fn num_done(&self) -> usize {
        self.num_done
    }

    fn add(&mut self, _input: &EncodedInput, means: &[RowMean]) {
        for RowMean { mean, norm } in means {
            self.activations.extend(mean.iter().copied().map(to_f32));
            self.row_norms.push(*norm);
        }
        self.num_done += 1;
    }

    fn num_inputs(&self, category_idx: usize, side: Side) -> u64 {
        self.inputs_of(category_idx, side).len() as u64
    }

    fn layers_of(&self, category_idx: usize, variant: &Variant) -> Vec<LayerExtraction> {
        let num_layers = self.spec.layers.len();
        let inputs =
            [Side::Safe, Side::Unsafe].map(|side| self.inputs_of(category_idx, side)).concat();
        let layers = self.spec.layers.iter().enumerate();
        layers
            .map(|(layer_idx, &layer)| {
                let derived = |chosen: fn(usize) -> bool| {
                    derive(&self.sides(category_idx, layer_idx, chosen), variant)
                };
                let whole = derived(|_| true);
                let halves = (derived(|idx| idx % 2 == 0), derived(|idx| idx % 2 == 1));
                let split_half_cosine = match halves {
                    (Some(even), Some(odd)) => cosine(&even.vector, &odd.vector),
                    (None, _) | (_, None) => None,
                };
                let norms =
                    inputs.iter().map(|input| self.row_norms[input * num_layers + layer_idx]);
                let activation_norm = norms.sum::<f64>() / inputs.len() as f64;
                let (vector, num_kept) =
                    whole.map(|one| (one.vector, one.num_kept)).unwrap_or_default();
                LayerExtraction {
                    num_kept,
                    ..layer_extraction(layer, vector, activation_norm, split_half_cosine)
                }
            })
            .collect()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.num_done as u64).to_le_bytes().to_vec();
        bytes.extend(self.row_norms.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(self.activations.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        const WORD: usize = size_of::<u64>();
        let Some((num_done, rest)) = bytes.split_at_checked(WORD) else { return false };
        let num_done = num_done.try_into().map(u64::from_le_bytes);
        let Some(num_done) = num_done.ok().and_then(|count| usize::try_from(count).ok()) else {
            return false;
        };
        if num_done > self.places.len() {
            return false;
        }
        let num_norms = num_done * self.spec.layers.len();
        let Some((norms, activations)) = rest.split_at_checked(num_norms * WORD) else {
            return false;
        };
        if activations.len() != num_norms * self.hidden_size * size_of::<f32>() {
            return false;
        }
        self.num_done = num_done;
        self.row_norms = read_words(norms).map(f64::from_le_bytes).collect();
        self.activations = read_words(activations).map(f32::from_le_bytes).collect();
        true
    }
}
