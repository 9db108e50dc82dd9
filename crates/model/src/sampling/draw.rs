//! One token from a row: the most likely, or one drawn with a number that is given.

use super::filter::Filter;
use crate::kernels;

/// Weights whose sum is made on its own: one after the other would wait for each addition.
pub(super) const CHUNK: usize = 64;

/// The id of the largest logit, the lowest among equals.
pub(super) fn argmax(logits: &[f32], largest: f32) -> u32 {
    let best = (0_u32..).zip(logits).find(|(_, logit)| **logit >= largest);
    best.map_or(0, |(id, _)| id)
}

/// The id that `unit`, in 0..1, draws from the softmax of all logits over a temperature above 0.
pub(super) fn draw(logits: &[f32], largest: f32, temperature: f32, unit: f64) -> u32 {
    let weights = kernels::weights(logits, largest, temperature);
    let drawn = draw_from(&weights, unit).and_then(|idx| u32::try_from(idx).ok());
    drawn.unwrap_or_else(|| argmax(logits, largest))
}

/// As [`draw`], from the tokens that a filter keeps, walked in ascending order of their ids.
pub(super) fn draw_filtered(
    logits: &[f32],
    largest: f32,
    (temperature, unit): (f32, f64),
    filter: Filter,
) -> u32 {
    let kept = filter.kept(&kernels::weights(logits, largest, temperature));
    let weights: Vec<f32> = kept.iter().map(|candidate| candidate.weight).collect();
    let drawn = draw_from(&weights, unit).map(|idx| kept[idx].token_id);
    drawn.unwrap_or_else(|| argmax(logits, largest))
}

/// The index that `unit`, in 0..1, draws with these weights; `None` where nothing weighs anything.
fn draw_from(weights: &[f32], unit: f64) -> Option<usize> {
    let sum = |chunk: &[f32]| chunk.iter().map(|weight| f64::from(*weight)).sum::<f64>();
    let sums: Vec<f64> = weights.chunks(CHUNK).map(sum).collect();
    let mut rest = unit * sums.iter().sum::<f64>();
    let mut chunk = 0;
    while chunk + 1 < sums.len() && rest >= sums[chunk] {
        rest -= sums[chunk];
        chunk += 1;
    }
    let end = weights.len().min((chunk + 1) * CHUNK);
    let within = (chunk * CHUNK..end).find(|&idx| {
        rest -= f64::from(weights[idx]);
        rest < 0.0
    });
    // Rounding may leave a crumb behind the last one that weighs anything.
    within.or_else(|| weights[..end].iter().rposition(|weight| *weight > 0.0))
}
