//! What a file says of its vectors beside the numbers: words, the same in every format.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skeg_vector_store::{Operator, Orientation, Site, Strength};

use super::Parsed;

/// Longest text that a card or a message quotes.
const MAX_TEXT_BYTES: usize = 256;

/// What a file declares. All of it may be absent; what is there must be known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Declared {
    /// Where the vectors act.
    pub site: Option<Site>,
    /// What is done with them.
    pub operator: Option<Operator>,
    /// Which difference they are.
    pub orientation: Option<Orientation>,
    /// The kind of model, llama.cpp's and repeng's `controlvector.model_hint`.
    pub model_hint: Option<String>,
    /// The model's architecture, as a generation binds it.
    pub architecture_id: Option<String>,
    /// The model's weights, as a generation binds them.
    pub weights_id: Option<String>,
    /// The strengths that the maker's policy has, by vector. They are told, never applied.
    pub strengths: BTreeMap<String, DeclaredStrength>,
}

/// A policy's strengths for one vector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DeclaredStrength {
    /// Used where a request says nothing.
    pub default: f32,
    /// The least.
    pub floor: f32,
    /// The most.
    pub ceiling: f32,
}

impl From<Strength> for DeclaredStrength {
    fn from(strength: Strength) -> Self {
        let Strength { default, floor, ceiling } = strength;
        Self { default, floor, ceiling }
    }
}

impl Declared {
    /// As texts by key: `site`, `operator`, `orientation`, `model_hint`, `architecture_id`, `weights_id`, and `strengths` as JSON.
    pub(super) fn to_texts(&self) -> Parsed<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        let mut put = |key: &str, text: Option<String>| {
            texts.extend(text.map(|text| (key.to_owned(), text)));
        };
        put("site", self.site.map(|site| site.to_string()));
        put("operator", self.operator.map(|operator| operator.to_string()));
        put("orientation", self.orientation.map(|orientation| word_of(orientation).to_owned()));
        put("model_hint", self.model_hint.clone());
        put("architecture_id", self.architecture_id.clone());
        put("weights_id", self.weights_id.clone());
        if !self.strengths.is_empty() {
            let json = serde_json::to_string(&self.strengths);
            put("strengths", Some(json.map_err(|error| format!("strengths: {error}"))?));
        }
        Ok(texts)
    }

    /// Keys of others are passed over.
    pub(super) fn from_texts<'a>(
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Parsed<Self> {
        let mut declared = Self::default();
        for (key, text) in texts {
            if ["model_hint", "architecture_id", "weights_id"].contains(&key)
                && text.len() > MAX_TEXT_BYTES
            {
                return Err(format!("metadata `{key}` is longer than {MAX_TEXT_BYTES} bytes"));
            }
            match key {
                "site" => declared.site = Some(known(key, text, "attn_out or resid_post")?),
                "operator" => {
                    let expected = "add, add_norm_restored or project_out";
                    declared.operator = Some(known(key, text, expected)?);
                }
                "orientation" => {
                    let expected = "safe_minus_unsafe or reversed";
                    declared.orientation = Some(known(key, text, expected)?);
                }
                "model_hint" => declared.model_hint = Some(text.to_owned()),
                "architecture_id" => declared.architecture_id = Some(text.to_owned()),
                "weights_id" => declared.weights_id = Some(text.to_owned()),
                "strengths" => {
                    let strengths = serde_json::from_str(text);
                    declared.strengths = strengths.map_err(|error| {
                        format!("metadata `strengths`: {error}; expected a JSON object by vector")
                    })?;
                }
                _ => {}
            }
        }
        Ok(declared)
    }
}

/// A word that this program knows; another would be done wrongly.
fn known<T: DeserializeOwned>(key: &str, text: &str, expected: &str) -> Parsed<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        let found: String = text.chars().take(64).collect();
        format!(
            "metadata `{key}` is {found:?}; expected {expected}, all that this program can apply"
        )
    })
}

/// The word that files use.
pub(super) fn word_of(orientation: Orientation) -> &'static str {
    match orientation {
        Orientation::SafeMinusUnsafe => "safe_minus_unsafe",
        Orientation::Reversed => "reversed",
    }
}
