//! A GGUF file's metadata as a model configuration.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::config_fields::ConfigFields;
use super::hf_config::check_dimensions;
use crate::config::{Architecture, LlamaConfig, RopeScaling};
use crate::error::{Error, Result};

/// Metadata under the architecture's prefix that change the arithmetic in a way that is not implemented.
const UNSUPPORTED: [&str; 8] = [
    "expert_count",
    "attention.sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "attention.scale",
];
/// Llama 3.1's published RoPE rule; its GGUF files carry the resulting factors and not the rule.
const LLAMA3_LOW_FREQ_FACTOR: f64 = 1.0;
const LLAMA3_HIGH_FREQ_FACTOR: f64 = 4.0;
const LLAMA3_ORIGINAL_CONTEXT: usize = 8192;
/// Largest relative distance between stored and computed factors; they are stored as f32.
const FACTOR_TOLERANCE: f64 = 1e-4;

/// What the tensors say beside the metadata.
#[derive(Debug)]
pub(super) struct TensorFacts {
    /// Rows of the embedding.
    pub(super) vocab_size: usize,
    /// Whether there is an output matrix of its own.
    pub(super) has_output: bool,
    /// `rope_freqs.weight`, `[head_dim / 2]`, where the file has it.
    pub(super) rope_factors: Option<Vec<f32>>,
}

/// Reads the configuration; anything asked for that is not implemented is an error naming the field.
pub(super) fn config_from_metadata(
    path: &Path,
    metadata: &HashMap<String, Value>,
    facts: &TensorFacts,
) -> Result<LlamaConfig> {
    let (architecture, prefix) = architecture(path, metadata)?;
    let fields = Fields { path, metadata, prefix };
    fields.refuse_unsupported()?;
    let hidden_size = fields.count("embedding_length")?;
    let num_attention_heads = fields.count("attention.head_count")?;
    let head_dim =
        fields.optional_count("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
    for field in ["attention.value_length", "rope.dimension_count"] {
        if let Some(found) = fields.optional_count(field)?.filter(|&found| found != head_dim) {
            return Err(fields.error(
                field,
                format!(
                    "is {found} where head_dim is {head_dim}; other widths are not implemented"
                ),
            ));
        }
    }
    let rope_theta = fields.number("rope.freq_base")?.unwrap_or(10_000.0);
    let config = LlamaConfig {
        architecture,
        hidden_size,
        intermediate_size: fields.count("feed_forward_length")?,
        num_hidden_layers: fields.count("block_count")?,
        num_attention_heads,
        num_key_value_heads: fields
            .optional_count("attention.head_count_kv")?
            .unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: facts.vocab_size,
        rms_norm_eps: fields
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| fields.error("attention.layer_norm_rms_epsilon", "is missing"))?,
        rope_theta,
        rope_scaling: fields.rope_scaling(rope_theta, facts.rope_factors.as_deref())?,
        max_position_embeddings: fields.count("context_length")?,
        tie_word_embeddings: !facts.has_output,
        attention_bias: architecture == Architecture::Qwen2,
    };
    check_dimensions(path, &config)?;
    Ok(config)
}

fn architecture<'a>(
    path: &Path,
    metadata: &'a HashMap<String, Value>,
) -> Result<(Architecture, &'a str)> {
    let named = match metadata.get("general.architecture") {
        Some(Value::String(name)) => Some(name.as_str()),
        _ => None,
    };
    match named {
        Some(name @ "llama") => Ok((Architecture::Llama, name)),
        Some(name @ "qwen2") => Ok((Architecture::Qwen2, name)),
        found => Err(Error::Config {
            path: path.to_owned(),
            field: "general.architecture".to_owned(),
            reason: format!(
                "is {}; implemented are \"llama\" and \"qwen2\"",
                found.unwrap_or("missing")
            ),
        }),
    }
}

struct Fields<'a> {
    path: &'a Path,
    metadata: &'a HashMap<String, Value>,
    prefix: &'a str,
}

impl ConfigFields for Fields<'_> {
    type Value = Value;

    fn get(&self, field: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{field}", self.prefix))
    }

    fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::Config {
            path: self.path.to_owned(),
            field: format!("{}.{field}", self.prefix),
            reason: reason.into(),
        }
    }

    fn shown(value: &Value) -> String {
        format!("{value:?}")
    }

    fn whole(value: &Value) -> Option<u64> {
        match value {
            // Some writers use signed numbers for counts.
            Value::I32(number) => u64::try_from(*number).ok(),
            Value::I64(number) => u64::try_from(*number).ok(),
            other => other.to_u64().ok(),
        }
    }

    /// GGUF stores f32; its shortest decimal is what `config.json` says.
    fn real(value: &Value) -> Option<f64> {
        match value {
            Value::F32(number) => number.to_string().parse().ok(),
            Value::F64(number) => Some(*number),
            _ => None,
        }
    }
}

impl Fields<'_> {
    fn refuse_unsupported(&self) -> Result<()> {
        for field in UNSUPPORTED {
            let unused = match self.get(field) {
                None => true,
                Some(value) => value.to_u64().is_ok_and(|number| number == 0),
            };
            if !unused {
                return Err(self.error(field, "is set, which is not implemented"));
            }
        }
        Ok(())
    }

    fn rope_scaling(&self, rope_theta: f64, factors: Option<&[f32]>) -> Result<RopeScaling> {
        if let Some(factors) = factors {
            return llama3_from_factors(rope_theta, factors).ok_or_else(|| Error::Weight {
                path: self.path.to_owned(),
                tensor: "rope_freqs.weight".to_owned(),
                reason: "holds factors that are not Llama 3.1's rule; others are not implemented"
                    .to_owned(),
            });
        }
        match self.get("rope.scaling.type") {
            None => Ok(RopeScaling::Default),
            Some(Value::String(kind)) if kind == "none" => Ok(RopeScaling::Default),
            Some(Value::String(kind)) if kind == "linear" => {
                let factor = self.number("rope.scaling.factor")?.filter(|&factor| factor >= 1.0);
                factor
                    .map(|factor| RopeScaling::Linear { factor })
                    .ok_or_else(|| self.error("rope.scaling.factor", "is missing or below 1"))
            }
            Some(other) => Err(self.error(
                "rope.scaling.type",
                format!("is {other:?}; implemented are \"none\" and \"linear\""),
            )),
        }
    }
}

/// The rule of Llama 3.1 that gives `factors`, if it is that rule.
fn llama3_from_factors(rope_theta: f64, factors: &[f32]) -> Option<RopeScaling> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let half = factors.len();
    let fits = factors.iter().enumerate().all(|(idx, &stored)| {
        let expected = llama3_factor(rope_theta, idx, half, factor);
        (f64::from(stored) - expected).abs() <= FACTOR_TOLERANCE * expected
    });
    fits.then_some(RopeScaling::Llama3 {
        factor,
        low_freq_factor: LLAMA3_LOW_FREQ_FACTOR,
        high_freq_factor: LLAMA3_HIGH_FREQ_FACTOR,
        original_max_position_embeddings: LLAMA3_ORIGINAL_CONTEXT,
    })
}

/// What the frequency of pair `idx` of `half` is divided by (transformers' `_compute_llama3_parameters`).
#[expect(clippy::cast_precision_loss, reason = "indices and contexts are far below 2^52")]
fn llama3_factor(rope_theta: f64, idx: usize, half: usize, factor: f64) -> f64 {
    let original = LLAMA3_ORIGINAL_CONTEXT as f64;
    let wavelength = std::f64::consts::TAU * rope_theta.powf(idx as f64 / half as f64);
    if wavelength < original / LLAMA3_HIGH_FREQ_FACTOR {
        1.0
    } else if wavelength > original / LLAMA3_LOW_FREQ_FACTOR {
        factor
    } else {
        let smooth = (original / wavelength - LLAMA3_LOW_FREQ_FACTOR)
            / (LLAMA3_HIGH_FREQ_FACTOR - LLAMA3_LOW_FREQ_FACTOR);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_1_is_recognised_by_its_factors_and_nothing_else_is() {
        #[expect(clippy::cast_possible_truncation, reason = "as the files store them")]
        let factors: Vec<f32> =
            (0..64).map(|idx| llama3_factor(500_000.0, idx, 64, 8.0) as f32).collect();
        let found = llama3_from_factors(500_000.0, &factors);
        assert!(
            matches!(found, Some(RopeScaling::Llama3 { factor, .. }) if (factor - 8.0).abs() < 1e-6)
        );
        let mut other = factors;
        other[40] *= 1.1;
        assert_eq!(llama3_from_factors(500_000.0, &other), None);
    }
}
