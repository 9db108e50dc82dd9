//! A loaded model that several users share: the engine that answers and whoever scores the answers.

use std::sync::Arc;

use skeg_model::{ChatTemplate, Llama, LoadedModel, ModelIdentity, Tokenizer};

use crate::error::Result;
use crate::extract::{PromptForm, messages_token_ids};

/// A model; cloning shares it.
#[derive(Debug, Clone)]
pub struct SharedModel {
    /// The forward pass.
    pub llama: Arc<Llama>,
    /// What makes tokens of texts.
    pub text_side: Arc<TextSide>,
    /// What vectors are bound to.
    pub identity: ModelIdentity,
}

/// What makes tokens of texts, and texts of tokens.
#[derive(Debug)]
pub struct TextSide {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Messages to text; `None` for models without one.
    pub chat_template: Option<ChatTemplate>,
    /// Ids that end an answer.
    pub stop_token_ids: Vec<u32>,
}

impl From<LoadedModel> for SharedModel {
    fn from(model: LoadedModel) -> Self {
        let LoadedModel { llama, tokenizer, chat_template, stop_token_ids, identity } = model;
        let text_side = Arc::new(TextSide { tokenizer, chat_template, stop_token_ids });
        Self { llama: Arc::new(llama), text_side, identity }
    }
}

impl TextSide {
    /// A prompt, after a system message where there is one, as the model is served it: in its chat template, or plain
    /// where it has none.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when the text cannot be rendered or tokenised.
    pub fn prompt_token_ids(&self, system: Option<&str>, prompt: &str) -> Result<Vec<u32>> {
        let template = self.chat_template.as_ref();
        let form = if template.is_some() { PromptForm::ChatTemplate } else { PromptForm::Raw };
        messages_token_ids((&self.tokenizer, template), form, system, prompt)
    }
}
