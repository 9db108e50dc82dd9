//! Angles of the rotary embedding (arXiv 2104.09864).

use std::f64::consts::PI;

use candle_core::{Device, Tensor};

use crate::config::{LlamaConfig, RopeScaling};
use crate::error::Result;

/// The frequency of each pair of a head's elements.
#[derive(Debug)]
pub(crate) struct Rope {
    /// `[head_dim / 2]`, radians a token.
    frequencies: Vec<f64>,
}

/// The angles' cosines and sines for the rows of one step.
#[derive(Debug)]
pub(super) struct RopeRows {
    /// `[total_tokens, head_dim / 2]`, f32.
    pub(super) cos: Tensor,
    /// `[total_tokens, head_dim / 2]`, f32.
    pub(super) sin: Tensor,
}

impl Rope {
    pub(crate) fn new(config: &LlamaConfig) -> Self {
        let frequencies = (0..config.head_dim / 2)
            .map(|pair| {
                let exponent = 2.0 * pair as f64 / config.head_dim as f64;
                scaled(config.rope_theta.powf(-exponent), config.rope_scaling)
            })
            .collect();
        Self { frequencies }
    }

    /// Computes angles in f64 and rounds their cosines and sines once, for any position.
    pub(super) fn rows(&self, positions: &[usize], device: &Device) -> Result<RopeRows> {
        let (cos, sin) = positions.iter().flat_map(|&position| self.at(position)).unzip();
        let shape = (positions.len(), self.frequencies.len());
        Ok(RopeRows {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }

    /// `[num_positions][head_dim / 2]`: the cosine and sine of each angle, for a device that looks them up.
    pub(crate) fn table(&self, num_positions: usize) -> Vec<[f32; 2]> {
        (0..num_positions).flat_map(|position| self.at(position)).map(<[f32; 2]>::from).collect()
    }

    /// Cosine and sine of each angle of a position.
    fn at(&self, position: usize) -> impl Iterator<Item = (f32, f32)> + '_ {
        self.frequencies.iter().map(move |frequency| {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            (to_f32(cos), to_f32(sin))
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounds once, from a value in -1..=1")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

/// A frequency after `rope_scaling`.
///
/// Source of the llama3 rule: huggingface/transformers, `modeling_rope_utils.py`,
/// `_compute_llama3_parameters`.
fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let context = original_max_position_embeddings as f64;
            let wavelength = 2.0 * PI / frequency;
            if wavelength < context / high_freq_factor {
                frequency
            } else if wavelength > context / low_freq_factor {
                frequency / factor
            } else {
                let smooth =
                    (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny_config;

    fn frequencies(rope_scaling: RopeScaling) -> Vec<f64> {
        let config =
            LlamaConfig { head_dim: 128, rope_theta: 500_000.0, rope_scaling, ..tiny_config() };
        Rope::new(&config).frequencies
    }

    const PYTHON: [(usize, f64); 8] = [
        (0, 1.000000000000),
        (28, 1.000000000000),
        (29, 0.828168411837),
        (31, 0.493507122732),
        (33, 0.271425477073),
        (34, 0.190210743641),
        (35, 0.125000000000),
        (63, 0.125000000000),
    ];

    #[test]
    fn llama3_keeps_high_frequencies_divides_low_ones_and_ramps_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let scaled = frequencies(scaling);
        let plain = frequencies(RopeScaling::Default);
        for (pair, (scaled, plain)) in scaled.iter().zip(&plain).enumerate() {
            let turns = 8192.0 * plain / (2.0 * PI);
            let expected = if turns > 4.0 {
                *plain
            } else if turns < 1.0 {
                plain / 8.0
            } else {
                // Linear in the number of turns within the first context: 1/8 at 1 turn, 1 at 4.
                plain * (0.125 + 0.875 * (turns - 1.0) / 3.0)
            };
            assert!((scaled / expected - 1.0).abs() < 1e-12, "pair {pair}: {scaled}, {expected}");
        }
        // Rule of Llama 3.1 with its own numbers: `(pair, factor)` from a separate computation with
        // transformers' formula in Python.
        for (pair, factor) in PYTHON {
            assert!((scaled[pair] / plain[pair] / factor - 1.0).abs() < 1e-9, "pair {pair}");
        }
    }

    #[test]
    fn linear_divides_every_frequency() {
        let scaled = frequencies(RopeScaling::Linear { factor: 4.0 });
        for (scaled, plain) in scaled.iter().zip(frequencies(RopeScaling::Default)) {
            assert!((scaled * 4.0 / plain - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_position_beyond_any_table_is_computed() {
        let rows = Rope::new(&tiny_config()).rows(&[1_000_000], &Device::Cpu).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test looks at values")]
        let cos = rows.cos.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((f64::from(cos[0]) - 1_000_000_f64.cos()).abs() < 1e-7);
    }
}
