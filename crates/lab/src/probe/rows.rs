//! What a member reads of each conversation, as rows of features.

use skeg_model::steering::Site;
use skeg_model::{ChatMessage, LoadedModel};

use super::corpus::Corpus;
use super::member::{Input, PromptRow};
use super::ngrams::NGrams;
use super::text::whole;
use crate::error::{Error, Result};
use crate::extract::{
    ActivationSpec, EncodedInput, PromptForm, RunOptions, Side, TokenMode, activations_encoded,
};
use crate::judge::{Embed, FeatureRows};
use crate::logistic::{self, Fit, Plane, SparseRows};
use crate::progress::Progress;

/// Rows of features of one input, one a conversation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rows {
    /// `[n, width]`.
    Dense(FeatureRows),
    /// Those that are not 0.
    Sparse(SparseRows),
}

impl Rows {
    /// Some of the rows, in this order.
    pub(super) fn select(&self, row_idxs: &[usize]) -> Self {
        match self {
            Self::Dense(rows) => Self::Dense(rows.select(row_idxs)),
            Self::Sparse(SparseRows { rows, width }) => Self::Sparse(SparseRows {
                rows: row_idxs.iter().map(|&idx| rows[idx].clone()).collect(),
                width: *width,
            }),
        }
    }
}

impl logistic::Rows for Rows {
    fn len(&self) -> usize {
        match self {
            Self::Dense(rows) => logistic::Rows::len(rows),
            Self::Sparse(rows) => logistic::Rows::len(rows),
        }
    }

    fn planes(&self, fit: &Fit<'_>) -> Vec<Plane> {
        match self {
            Self::Dense(rows) => rows.planes(fit),
            Self::Sparse(rows) => rows.planes(fit),
        }
    }
}

/// A kind of member, before it is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// The model's activations at these layers.
    Activations {
        /// Where in a block.
        site: Site,
        /// Blocks from 0, ascending.
        layers: Vec<usize>,
    },
    /// Hashed n-grams of the text.
    NGrams(NGrams),
    /// Embeddings of the text.
    Embedding,
}

/// What rows are made with.
#[derive(Clone, Copy, Default)]
pub struct Sources<'a> {
    /// The model whose activations are read, loaded as it is served.
    pub model: Option<&'a LoadedModel>,
    /// The embedder.
    pub embedder: Option<&'a dyn Embed>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("has_model", &self.model.is_some()).finish_non_exhaustive()
    }
}

/// The rows of a corpus and the input that they are of. The whole text of a conversation is one row; see [`super::text`] for how a
/// request is scored.
///
/// # Errors
/// [`Error::Spec`] when model or embedder is missing, or the model has no such layer; what they return.
pub(crate) fn rows(
    corpus: &Corpus,
    reads: &Reads,
    sources: Sources<'_>,
    progress: &mut dyn Progress,
) -> Result<(Input, Rows)> {
    let conversations = corpus.prompts.iter().map(|prompt| prompt.conversation.as_slice());
    match reads {
        Reads::NGrams(ngrams) => {
            ngrams.check()?;
            let rows = conversations.map(|messages| ngrams.row(&whole(messages))).collect();
            let rows = SparseRows { rows, width: ngrams.width() };
            Ok((Input::NGrams(*ngrams), Rows::Sparse(rows)))
        }
        Reads::Embedding => {
            let embedder = sources.embedder.ok_or_else(|| missing("an embedder"))?;
            let texts: Vec<String> = conversations.map(whole).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let values = embedder.embed(&texts, progress)?;
            let width = embedder.width();
            let values = values.iter().flat_map(|row| row.iter().copied()).collect();
            let input = Input::Embedding { embedder: embedder.id().to_owned(), width };
            Ok((input, Rows::Dense(FeatureRows::new(values, width))))
        }
        Reads::Activations { site, layers } => {
            let model = sources.model.ok_or_else(|| missing("a model"))?;
            let conversations: Vec<&[ChatMessage]> = conversations.collect();
            let rows = activation_rows(model, &conversations, (*site, layers), progress)?;
            let input = Input::Activations {
                site: *site,
                layers: layers.clone(),
                hidden_size: model.llama.config().hidden_size,
                row: PromptRow::Last,
            };
            Ok((input, Rows::Dense(rows)))
        }
    }
}

fn missing(what: &str) -> Error {
    Error::Spec(format!("a member of the probe reads what {what} gives, and there is none"))
}

/// Row P-1 of each rendered conversation at these layers, `[n, num_layers * hidden_size]`, by the kernels that serve.
///
/// # Errors
/// [`Error::Spec`] when a conversation is longer than the context or the model has no template, [`Error::Model`] when a
/// pass fails.
pub(crate) fn activation_rows(
    model: &LoadedModel,
    conversations: &[&[ChatMessage]],
    (site, layers): (Site, &[usize]),
    progress: &mut dyn Progress,
) -> Result<FeatureRows> {
    let template = model.chat_template.as_ref().ok_or_else(|| {
        Error::Spec("the model has no chat template, so it has no last row of a prompt".to_owned())
    })?;
    let max_tokens = model.llama.config().max_position_embeddings;
    let encode = |(idx, messages): (usize, &&[ChatMessage])| {
        let token_ids = model.tokenizer.encode(&template.render(messages, true)?, false)?;
        if token_ids.len() > max_tokens {
            return Err(Error::Spec(format!(
                "conversation {idx} has {} tokens; the model's context is {max_tokens}",
                token_ids.len()
            )));
        }
        let place = (0, Side::Unsafe, idx);
        EncodedInput::new(place, &token_ids, &[], TokenMode::Last)
            .ok_or_else(|| Error::Spec(format!("conversation {idx} has no token")))
    };
    let inputs = conversations.iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
    let spec = ActivationSpec {
        site,
        layers: layers.to_vec(),
        tokens: TokenMode::Last,
        prompt_form: PromptForm::ChatTemplate,
    };
    let options = RunOptions::default();
    let read = activations_encoded(&model.llama, &inputs, &spec, &options, progress)?;
    let width = read.layers.len() * read.hidden_size;
    Ok(FeatureRows::new(read.values, width))
}
