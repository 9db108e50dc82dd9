//! The running sums of an extraction, and what they amount to.

use super::encode::{EncodedInput, Side};
use super::run::LayerExtraction;
use crate::numbers::{cosine, to_f32};

/// Halves of a side (even and odd inputs) and sides of a category.
const HALVES: usize = 2;
const SIDES: usize = 2;

/// Sums over inputs of their mean activations, apart for category, side, half and layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sums {
    layers: Vec<usize>,
    hidden_size: usize,
    /// Inputs added so far, in the order of the run.
    pub(crate) num_done: usize,
    /// `[num_categories * SIDES * HALVES]`: inputs.
    counts: Vec<u64>,
    /// `[num_categories * SIDES * HALVES, num_layers, hidden_size]`.
    activations: Vec<f64>,
    /// `[num_categories, num_layers]`: sum over inputs of the mean norm of their rows.
    row_norms: Vec<f64>,
}

impl Sums {
    pub(crate) fn new(num_categories: usize, layers: &[usize], hidden_size: usize) -> Self {
        let num_groups = num_categories * SIDES * HALVES;
        Self {
            layers: layers.to_vec(),
            hidden_size,
            num_done: 0,
            counts: vec![0; num_groups],
            activations: vec![0.0; num_groups * layers.len() * hidden_size],
            row_norms: vec![0.0; num_categories * layers.len()],
        }
    }

    /// Adds one input. `rows` holds, for each layer, the input's chosen rows: `[rows, hidden_size]`.
    pub(crate) fn add(&mut self, input: &EncodedInput, rows: &[&[f32]]) {
        let group = group_idx(input.category_idx, input.side, input.idx % HALVES);
        let num_layers = self.layers.len();
        self.counts[group] += 1;
        self.num_done += 1;
        for (layer_idx, rows) in rows.iter().enumerate() {
            let num_rows = input.rows.len() as f64;
            let mut mean = vec![0.0_f64; self.hidden_size];
            let mut norms = 0.0;
            for row in rows.chunks_exact(self.hidden_size) {
                let mut square = 0.0;
                for (mean, &value) in mean.iter_mut().zip(row) {
                    *mean += f64::from(value);
                    square += f64::from(value) * f64::from(value);
                }
                norms += square.sqrt();
            }
            let start = (group * num_layers + layer_idx) * self.hidden_size;
            let sums = &mut self.activations[start..start + self.hidden_size];
            for (sum, mean) in sums.iter_mut().zip(mean) {
                *sum += mean / num_rows;
            }
            self.row_norms[input.category_idx * num_layers + layer_idx] += norms / num_rows;
        }
    }

    /// Inputs of one side.
    pub(crate) fn num_inputs(&self, category_idx: usize, side: Side) -> u64 {
        (0..HALVES).map(|half| self.counts[group_idx(category_idx, side, half)]).sum()
    }

    /// Eq. 1 for each layer of one category.
    pub(crate) fn layers_of(&self, category_idx: usize) -> Vec<LayerExtraction> {
        let num_inputs =
            self.num_inputs(category_idx, Side::Safe) + self.num_inputs(category_idx, Side::Unsafe);
        (0..self.layers.len())
            .map(|layer_idx| {
                let omega = self.difference(category_idx, layer_idx, &[0, 1]).unwrap_or_default();
                let halves = (
                    self.difference(category_idx, layer_idx, &[0]),
                    self.difference(category_idx, layer_idx, &[1]),
                );
                let split_half_cosine = match halves {
                    (Some(even), Some(odd)) => cosine(&even, &odd),
                    (None, _) | (_, None) => None,
                };
                let norm = omega.iter().map(|value| value * value).sum::<f64>().sqrt();
                let row_norms = self.row_norms[category_idx * self.layers.len() + layer_idx];
                let activation_norm = row_norms / num_inputs as f64;
                LayerExtraction {
                    layer: self.layers[layer_idx],
                    vector: omega.into_iter().map(to_f32).collect(),
                    norm,
                    activation_norm,
                    relative_norm: norm / activation_norm,
                    split_half_cosine,
                }
            })
            .collect()
    }

    /// Mean of the safe side minus mean of the unsafe side, over the given halves; `None` when a
    /// side has no input there.
    fn difference(
        &self,
        category_idx: usize,
        layer_idx: usize,
        halves: &[usize],
    ) -> Option<Vec<f64>> {
        let safe = self.mean(category_idx, Side::Safe, layer_idx, halves)?;
        let not_safe = self.mean(category_idx, Side::Unsafe, layer_idx, halves)?;
        Some(safe.iter().zip(&not_safe).map(|(safe, not_safe)| safe - not_safe).collect())
    }

    fn mean(
        &self,
        category_idx: usize,
        side: Side,
        layer_idx: usize,
        halves: &[usize],
    ) -> Option<Vec<f64>> {
        let mut sum = vec![0.0; self.hidden_size];
        let mut count = 0;
        for &half in halves {
            let group = group_idx(category_idx, side, half);
            count += self.counts[group];
            let start = (group * self.layers.len() + layer_idx) * self.hidden_size;
            for (sum, value) in sum.iter_mut().zip(&self.activations[start..]) {
                *sum += value;
            }
        }
        (count > 0).then(|| sum.into_iter().map(|value| value / count as f64).collect())
    }

    /// All numbers, little-endian, in a fixed order.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.num_done as u64).to_le_bytes().to_vec();
        bytes.extend(self.counts.iter().flat_map(|count| count.to_le_bytes()));
        let floats = self.activations.iter().chain(&self.row_norms);
        bytes.extend(floats.flat_map(|value| value.to_le_bytes()));
        bytes
    }

    /// Takes the numbers of [`Self::to_bytes`] of sums of the same shape; false, and nothing
    /// changed, when they are of another length.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> bool {
        const WORD: usize = size_of::<u64>();
        let num_words = 1 + self.counts.len() + self.activations.len() + self.row_norms.len();
        let words: Vec<[u8; WORD]> =
            bytes.chunks_exact(WORD).filter_map(|word| word.try_into().ok()).collect();
        if words.len() != num_words || bytes.len() != num_words * WORD {
            return false;
        }
        let Ok(num_done) = usize::try_from(u64::from_le_bytes(words[0])) else { return false };
        self.num_done = num_done;
        let (counts, floats) = words[1..].split_at(self.counts.len());
        for (count, word) in self.counts.iter_mut().zip(counts) {
            *count = u64::from_le_bytes(*word);
        }
        let values = self.activations.iter_mut().chain(&mut self.row_norms);
        for (value, word) in values.zip(floats) {
            *value = f64::from_le_bytes(*word);
        }
        true
    }
}

fn group_idx(category_idx: usize, side: Side, half: usize) -> usize {
    let side_idx = match side {
        Side::Unsafe => 0,
        Side::Safe => 1,
    };
    (category_idx * SIDES + side_idx) * HALVES + half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_sums_equal_the_saved_ones_and_others_are_refused() {
        let input = EncodedInput {
            category_idx: 1,
            side: Side::Safe,
            idx: 1,
            token_ids: vec![1, 2],
            rows: 0..2,
        };
        let mut sums = Sums::new(2, &[0, 4], 3);
        sums.add(&input, &[&[0.1; 6], &[0.7; 6]]);
        let mut restored = Sums::new(2, &[0, 4], 3);
        assert!(restored.restore(&sums.to_bytes()));
        assert_eq!(restored, sums);
        assert!(!Sums::new(1, &[0, 4], 3).restore(&sums.to_bytes()));
        assert!(!restored.restore(&sums.to_bytes()[1..]));
    }
}
