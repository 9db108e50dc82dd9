//! The running sums of an extraction, and what they amount to.

use super::derive::keep_largest;
use super::encode::{EncodedInput, Side};
use super::run::LayerExtraction;
use super::statistics::{RowMean, Statistics, layer_extraction, read_words};
use super::variant::Variant;
use crate::numbers::cosine;

/// Halves of a side (even and odd inputs) and sides of a category.
const HALVES: usize = 2;
const SIDES: usize = 2;

/// Sums over inputs of their mean activations, apart for category, side, half and layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sums {
    layers: Vec<usize>,
    hidden_size: usize,
    num_done: usize,
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

    /// Mean of the safe side minus mean of the unsafe side, over the given halves, of which only the `top_k` largest
    /// coordinates are kept; `None` when a side has no input there.
    fn difference(
        &self,
        (category_idx, layer_idx): (usize, usize),
        halves: &[usize],
        top_k: Option<usize>,
    ) -> Option<Vec<f64>> {
        let safe = self.mean(category_idx, Side::Safe, layer_idx, halves)?;
        let not_safe = self.mean(category_idx, Side::Unsafe, layer_idx, halves)?;
        let mut difference: Vec<f64> =
            safe.iter().zip(&not_safe).map(|(safe, not_safe)| safe - not_safe).collect();
        if let Some(top_k) = top_k {
            keep_largest(&mut difference, top_k);
        }
        Some(difference)
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
}

impl Statistics for Sums {
    fn num_done(&self) -> usize {
        self.num_done
    }

    fn add(&mut self, input: &EncodedInput, means: &[RowMean]) {
        let group = group_idx(input.category_idx, input.side, input.idx % HALVES);
        let num_layers = self.layers.len();
        self.counts[group] += 1;
        self.num_done += 1;
        for (layer_idx, RowMean { mean, norm }) in means.iter().enumerate() {
            let start = (group * num_layers + layer_idx) * self.hidden_size;
            let sums = &mut self.activations[start..start + self.hidden_size];
            for (sum, mean) in sums.iter_mut().zip(mean) {
                *sum += mean;
            }
            self.row_norms[input.category_idx * num_layers + layer_idx] += *norm;
        }
    }

    fn num_inputs(&self, category_idx: usize, side: Side) -> u64 {
        (0..HALVES).map(|half| self.counts[group_idx(category_idx, side, half)]).sum()
    }

    fn layers_of(&self, category_idx: usize, variant: &Variant) -> Vec<LayerExtraction> {
        let num_inputs =
            self.num_inputs(category_idx, Side::Safe) + self.num_inputs(category_idx, Side::Unsafe);
        (0..self.layers.len())
            .map(|layer_idx| {
                let place = (category_idx, layer_idx);
                let vector = |halves: &[usize]| self.difference(place, halves, variant.top_k);
                let split_half_cosine = match (vector(&[0]), vector(&[1])) {
                    (Some(even), Some(odd)) => cosine(&even, &odd),
                    (None, _) | (_, None) => None,
                };
                let row_norms = self.row_norms[category_idx * self.layers.len() + layer_idx];
                layer_extraction(
                    self.layers[layer_idx],
                    vector(&[0, 1]).unwrap_or_default(),
                    row_norms / num_inputs as f64,
                    split_half_cosine,
                )
            })
            .collect()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.num_done as u64).to_le_bytes().to_vec();
        bytes.extend(self.counts.iter().flat_map(|count| count.to_le_bytes()));
        let floats = self.activations.iter().chain(&self.row_norms);
        bytes.extend(floats.flat_map(|value| value.to_le_bytes()));
        bytes
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        const WORD: usize = size_of::<u64>();
        let num_words = 1 + self.counts.len() + self.activations.len() + self.row_norms.len();
        let words: Vec<[u8; WORD]> = read_words(bytes).collect();
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
        sums.add(&input, &[RowMean::of(&[0.1; 6], 3), RowMean::of(&[0.7; 6], 3)]);
        let mut restored = Sums::new(2, &[0, 4], 3);
        assert!(restored.restore(&sums.to_bytes()));
        assert_eq!(restored, sums);
        assert!(!Sums::new(1, &[0, 4], 3).restore(&sums.to_bytes()));
        assert!(!restored.restore(&sums.to_bytes()[1..]));
    }
}
