//! `config.json` of a Hugging Face checkpoint.

use std::path::Path;

use serde_json::{Map, Value};

use super::config_fields::ConfigFields;
use crate::config::{Architecture, LlamaConfig, RopeScaling};
use crate::error::{Error, Result};

/// Fields that change the arithmetic in a way that is not implemented, with the values that mean "not
/// used". Absent and null always mean that.
const UNSUPPORTED: [(&str, &[&str]); 16] = [
    ("mlp_bias", &["false"]),
    ("sliding_window", &[]),
    ("use_sliding_window", &["false"]),
    ("quantization_config", &[]),
    ("pretraining_tp", &["1"]),
    ("partial_rotary_factor", &["1.0", "1"]),
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("logit_scale", &["1.0", "1"]),
    ("embedding_multiplier", &["1.0", "1"]),
    ("residual_multiplier", &["1.0", "1"]),
    ("attention_multiplier", &[]),
    ("logits_scaling", &["1.0", "1"]),
    ("num_local_experts", &["0", "1"]),
    ("num_experts", &["0", "1"]),
    ("is_encoder_decoder", &["false"]),
];

/// Reads the configuration; anything asked for that is not implemented is an error naming the field.
pub(crate) fn config_from_json(path: &Path, json: &Value) -> Result<LlamaConfig> {
    let Some(object) = json.as_object() else {
        return Err(Error::BadFile {
            path: path.to_owned(),
            reason: "is not a JSON object".into(),
        });
    };
    let fields = Fields { path, object };
    let architecture = fields.architecture()?;
    fields.refuse_unsupported(architecture)?;
    let hidden_size = fields.count("hidden_size")?;
    let num_attention_heads = fields.count("num_attention_heads")?;
    let head_dim = match fields.optional_count("head_dim")? {
        Some(head_dim) => head_dim,
        None => hidden_size / num_attention_heads,
    };
    let config = LlamaConfig {
        architecture,
        hidden_size,
        intermediate_size: fields.count("intermediate_size")?,
        num_hidden_layers: fields.count("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: fields
            .optional_count("num_key_value_heads")?
            .unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: fields.count("vocab_size")?,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: fields.rope_theta()?,
        rope_scaling: fields.rope_scaling()?,
        max_position_embeddings: fields.count("max_position_embeddings")?,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: architecture == Architecture::Qwen2,
    };
    check_dimensions(path, &config)?;
    Ok(config)
}

/// What must hold between dimensions, whatever file they come from.
pub(super) fn check_dimensions(path: &Path, config: &LlamaConfig) -> Result<()> {
    let fail = |field: &str, reason: String| {
        Err(Error::Config { path: path.to_owned(), field: field.to_owned(), reason })
    };
    if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
        return fail(
            "num_key_value_heads",
            format!(
                "{} does not divide num_attention_heads = {}",
                config.num_key_value_heads, config.num_attention_heads
            ),
        );
    }
    if config.head_dim == 0 || !config.head_dim.is_multiple_of(2) {
        return fail("head_dim", format!("{}; RoPE needs an even number above 0", config.head_dim));
    }
    if config.num_attention_heads.checked_mul(config.head_dim).is_none() {
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        return fail("num_attention_heads", format!("{heads} of {head_dim} elements are too many"));
    }
    if !(config.rms_norm_eps.is_finite() && config.rms_norm_eps > 0.0) {
        return fail("rms_norm_eps", format!("{}; expected a number above 0", config.rms_norm_eps));
    }
    if !(config.rope_theta.is_finite() && config.rope_theta > 1.0) {
        return fail("rope_theta", format!("{}; expected a number above 1", config.rope_theta));
    }
    Ok(())
}

struct Fields<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl ConfigFields for Fields<'_> {
    type Value = Value;

    fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::Config { path: self.path.to_owned(), field: field.to_owned(), reason: reason.into() }
    }

    fn shown(value: &Value) -> String {
        value.to_string()
    }

    fn whole(value: &Value) -> Option<u64> {
        value.as_u64()
    }

    fn real(value: &Value) -> Option<f64> {
        value.as_f64()
    }
}

impl Fields<'_> {
    fn flag(&self, field: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let flag = value.as_bool();
        flag.map(Some)
            .ok_or_else(|| self.error(field, format!("is {value}; expected true or false")))
    }

    fn architecture(&self) -> Result<Architecture> {
        let named = self.get("model_type").and_then(Value::as_str);
        match named {
            Some("llama") => Ok(Architecture::Llama),
            Some("qwen2") => Ok(Architecture::Qwen2),
            found => Err(self.error(
                "model_type",
                format!(
                    "is {}; implemented are \"llama\" and \"qwen2\"",
                    found.unwrap_or("missing")
                ),
            )),
        }
    }

    fn refuse_unsupported(&self, architecture: Architecture) -> Result<()> {
        for (field, unused) in UNSUPPORTED {
            // qwen2 checkpoints state a window that `use_sliding_window = false` turns off.
            let turned_off = field == "sliding_window"
                && architecture == Architecture::Qwen2
                && self.flag("use_sliding_window")? != Some(true);
            if let Some(value) = self.get(field).filter(|_| !turned_off)
                && !unused.contains(&value.to_string().as_str())
            {
                return Err(self.error(field, format!("is {value}, which is not implemented")));
            }
        }
        if let Some(act) = self.get("hidden_act").and_then(Value::as_str)
            && act != "silu"
        {
            return Err(self.error("hidden_act", format!("is \"{act}\"; implemented is \"silu\"")));
        }
        // Llama's `attention_bias` also puts a bias on o_proj, which is not implemented.
        if architecture == Architecture::Llama && self.flag("attention_bias")? == Some(true) {
            return Err(self.error("attention_bias", "is true, which is not implemented for llama"));
        }
        Ok(())
    }

    /// `rope_theta`, at the top or (transformers 5) among the rope parameters.
    fn rope_theta(&self) -> Result<f64> {
        let nested = self.rope_object().and_then(|rope| rope.get("rope_theta"));
        match nested.and_then(Value::as_f64) {
            Some(theta) => Ok(theta),
            None => Ok(self.number("rope_theta")?.unwrap_or(10_000.0)),
        }
    }

    fn rope_object(&self) -> Option<&Map<String, Value>> {
        self.get("rope_scaling").or_else(|| self.get("rope_parameters")).and_then(Value::as_object)
    }

    fn rope_scaling(&self) -> Result<RopeScaling> {
        let Some(object) = self.rope_object() else { return Ok(RopeScaling::Default) };
        let rope = Fields { path: self.path, object };
        let named = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str);
        let need = |field: &str| {
            rope.number(field)?.filter(|number| number.is_finite() && *number > 0.0).ok_or_else(
                || rope.error(&format!("rope_scaling.{field}"), "is missing or not above 0"),
            )
        };
        match named {
            Some("default") => Ok(RopeScaling::Default),
            Some("linear") => Ok(RopeScaling::Linear { factor: need("factor")? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: rope.count("original_max_position_embeddings")?,
            }),
            other => Err(self.error(
                "rope_scaling.rope_type",
                format!(
                    "is {}; implemented are \"default\", \"linear\" and \"llama3\"",
                    other.unwrap_or("missing")
                ),
            )),
        }
    }
}
