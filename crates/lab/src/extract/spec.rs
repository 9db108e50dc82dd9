//! What is extracted: two sides a category, a site, layers, and which tokens count.

use std::fmt;
use std::str::FromStr;

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skeg_model::steering::Site;
use skeg_vector_store::Category;

use super::variant::{Pairing, Variant};
use crate::error::{Error, Result};

/// Which tokens of an input its mean is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenMode {
    /// Prompt, template included, and response.
    All,
    /// The prompt, template included.
    Prompt,
    /// The response; every input must have one.
    Response,
    /// The last token of the input alone: of the response, or of the rendered prompt if there is none.
    Last,
}

impl fmt::Display for TokenMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Prompt => "prompt",
            Self::Response => "response",
            Self::Last => "last",
        })
    }
}

impl FromStr for TokenMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "all" => Ok(Self::All),
            "prompt" => Ok(Self::Prompt),
            "response" => Ok(Self::Response),
            "last" => Ok(Self::Last),
            _ => Err(Error::Spec(format!(
                "token mode `{name}`; expected all, prompt, response or last"
            ))),
        }
    }
}

/// What the model is shown of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptForm {
    /// One user message in the model's chat template, ready for an answer: as it is served.
    #[default]
    ChatTemplate,
    /// The text with the tokenizer's own special tokens (base models).
    Raw,
}

/// One input: a prompt, and a response to it in the `prompt+response` form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Names the input in errors.
    pub id: String,
    /// The prompt as a user writes it.
    pub prompt: String,
    /// What the assistant answers.
    pub response: Option<String>,
}

impl Text {
    /// An input of the `prompts` form.
    #[must_use]
    pub fn prompt(id: &str, prompt: &str) -> Self {
        Self { id: id.to_owned(), prompt: prompt.to_owned(), response: None }
    }

    /// An input of the `prompt+response` form.
    #[must_use]
    pub fn with_response(id: &str, prompt: &str, response: &str) -> Self {
        Self { response: Some(response.to_owned()), ..Self::prompt(id, prompt) }
    }
}

/// The two sides of one category. They need not be of one length or share prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoryInputs {
    /// The category.
    pub category: Category,
    /// Harmful prompts, unsafe responses, or compliant openings.
    pub unsafe_side: Vec<Text>,
    /// Harmless prompts, safe responses, or safe answers.
    pub safe_side: Vec<Text>,
}

/// A whole extraction.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractSpec {
    /// Where in a block activations are read.
    pub site: Site,
    /// Blocks from 0, ascending, each once.
    pub layers: Vec<usize>,
    /// Which tokens count.
    pub tokens: TokenMode,
    /// Only this many tokens of each response are shown and counted; `None` = all. Whether an answer declines
    /// is decided in its first words: what follows adds its topic to the vector.
    pub max_response_tokens: Option<usize>,
    /// How a prompt is shown to the model.
    pub prompt_form: PromptForm,
    /// How inputs become a vector.
    pub variant: Variant,
    /// The categories, each once.
    pub categories: Vec<CategoryInputs>,
    /// Lower-case hex SHA-256 of the data files the inputs are from, for provenance.
    pub data_sha256: Vec<String>,
}

impl ExtractSpec {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// [`Error::Spec`] naming the category or layer that does not fit.
    pub fn check(&self) -> Result<()> {
        if self.categories.is_empty() {
            return Err(Error::Spec("there is no category to extract".to_owned()));
        }
        if self.layers.is_empty() || !self.layers.is_sorted_by(|a, b| a < b) {
            return Err(Error::Spec(format!(
                "layers {:?}; expected at least one, ascending, each once",
                self.layers
            )));
        }
        if self.max_response_tokens == Some(0) {
            return Err(Error::Spec("max_response_tokens is 0; expected at least 1".to_owned()));
        }
        self.variant.check(None)?;
        for (idx, inputs) in self.categories.iter().enumerate() {
            self.check_category(idx, inputs)?;
        }
        Ok(())
    }

    fn check_category(&self, idx: usize, inputs: &CategoryInputs) -> Result<()> {
        let category = &inputs.category;
        if self.categories[..idx].iter().any(|earlier| earlier.category == *category) {
            return Err(Error::Spec(format!("category `{category}` is there twice")));
        }
        let (num_safe, num_unsafe) = (inputs.safe_side.len(), inputs.unsafe_side.len());
        if self.variant.pairing == Pairing::Matched && num_safe != num_unsafe {
            return Err(Error::Spec(format!(
                "category `{category}` has {num_safe} safe and {num_unsafe} unsafe inputs; matched pairs \
                 need equally many"
            )));
        }
        for (side, texts) in [("unsafe", &inputs.unsafe_side), ("safe", &inputs.safe_side)] {
            if texts.is_empty() {
                return Err(Error::Spec(format!(
                    "category `{category}` has no input on its {side} side"
                )));
            }
            if let Some(text) = texts.iter().find(|text| {
                self.tokens == TokenMode::Response
                    && text.response.as_ref().is_none_or(String::is_empty)
            }) {
                return Err(Error::Spec(format!(
                    "category `{category}`: `{}` on the {side} side has no response, and the token \
                     mode is `response`; use `prompt`, `last` or `all`",
                    text.id
                )));
            }
        }
        Ok(())
    }

    /// Lower-case hex SHA-256 over every text of every side, in order: changes with any text.
    #[must_use]
    pub fn inputs_sha256(&self) -> String {
        let mut hasher = Sha256::new();
        // Each part carries its length, so that no two different inputs give the same bytes.
        let mut feed = |part: &str| {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        for inputs in &self.categories {
            feed(inputs.category.as_str());
            for (side, texts) in [("unsafe", &inputs.unsafe_side), ("safe", &inputs.safe_side)] {
                feed(side);
                for text in texts {
                    feed(&text.prompt);
                    feed(if text.response.is_some() { "response" } else { "prompt" });
                    feed(text.response.as_deref().unwrap_or_default());
                }
            }
        }
        encode_string(&hasher.finalize())
    }
}
