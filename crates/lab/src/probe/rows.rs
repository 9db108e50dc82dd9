//! What a member reads of each conversation, as rows of features.

use skeg_model::engine::PromptActivations;
use skeg_model::steering::Site;
use skeg_model::{ChatMessage, LoadedModel};

use super::activation::{self, ActivationInput};
use super::corpus::Corpus;
use super::member::{Input, PromptRow};
use super::ngrams::NGrams;
use super::row_cache::{RowCache, Wanted, rows_of};
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
        /// Which row of the prompt.
        row: PromptRow,
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
    /// Where the model's rows are kept.
    pub cache: Option<&'a RowCache>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("has_model", &self.model.is_some()).finish_non_exhaustive()
    }
}

/// The rows of a corpus for each member, and the input that they are of; the model reads each conversation once. The whole text of
/// a conversation is one row; see [`super::text`] for how a request is scored.
///
/// # Errors
/// [`Error::Spec`] when model or embedder is missing, or the model has no such layer; what they return.
pub(crate) fn rows(
    corpus: &Corpus,
    members: &[Reads],
    sources: Sources<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<(Input, Rows)>> {
    let conversations = corpus.prompts.iter().map(|prompt| prompt.conversation.as_slice());
    let conversations: Vec<&[ChatMessage]> = conversations.collect();
    let inputs = members.iter().map(|reads| input(reads, sources));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    activation::check(inputs.iter())?;
    let activations = match (activation::union(inputs.iter()), sources.model) {
        (Some(asked), Some(model)) => Some((
            activation_rows((model, sources.cache), &conversations, &asked, progress)?,
            asked,
        )),
        _ => None,
    };
    let rows_of = |input: Input| {
        let rows = match (&input, &activations) {
            (Input::NGrams(ngrams), _) => {
                let rows = conversations.iter().map(|messages| ngrams.row(&whole(messages)));
                Rows::Sparse(SparseRows { rows: rows.collect(), width: ngrams.width() })
            }
            (Input::Embedding { width, .. }, _) => {
                let embedder = sources.embedder.ok_or_else(|| missing("an embedder"))?;
                let texts: Vec<String> = conversations.iter().map(|one| whole(one)).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let values = embedder.embed(&texts, progress)?;
                let values = values.iter().flat_map(|row| row.iter().copied()).collect();
                Rows::Dense(FeatureRows::new(values, *width))
            }
            (Input::Activations { row, layers, .. }, Some((read, asked))) => {
                let picked =
                    (0..conversations.len()).map(|idx| asked.pick(*row, layers, read.of(idx)));
                let values = picked.collect::<Result<Vec<_>>>()?.concat();
                Rows::Dense(FeatureRows::new(values, input.width()))
            }
            (Input::Activations { .. }, None) => return Err(missing("a model")),
        };
        Ok((input, rows))
    };
    inputs.into_iter().map(rows_of).collect()
}

/// What a kind of member reads with these sources.
fn input(reads: &Reads, sources: Sources<'_>) -> Result<Input> {
    match reads {
        Reads::NGrams(ngrams) => {
            ngrams.check()?;
            Ok(Input::NGrams(*ngrams))
        }
        Reads::Embedding => {
            let embedder = sources.embedder.ok_or_else(|| missing("an embedder"))?;
            Ok(Input::Embedding { embedder: embedder.id().to_owned(), width: embedder.width() })
        }
        Reads::Activations { site, layers, row } => {
            let model = sources.model.ok_or_else(|| missing("a model"))?;
            let prefix_token_ids = match row {
                PromptRow::Last => Vec::new(),
                PromptRow::Mean => prefix_token_ids(model)?,
            };
            Ok(Input::Activations {
                site: *site,
                layers: layers.clone(),
                hidden_size: model.llama.config().hidden_size,
                row: *row,
                prefix_token_ids,
            })
        }
    }
}

fn missing(what: &str) -> Error {
    Error::Spec(format!("a member of the probe reads what {what} gives, and there is none"))
}

/// The ids that rendered prompts of one user message begin with, whatever the message.
fn prefix_token_ids(model: &LoadedModel) -> Result<Vec<u32>> {
    // Different in their first character and in class, so that no tokenizer joins both with what stands before.
    let [one, other] = ["Apples", "42"].map(|content| {
        let message = ChatMessage { role: "user".to_owned(), content: content.to_owned() };
        prompt_token_ids(model, &[message])
    });
    let (one, other) = (one?, other?);
    let common = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    Ok(one[..common].to_vec())
}

/// A conversation as the model is served it.
fn prompt_token_ids(model: &LoadedModel, messages: &[ChatMessage]) -> Result<Vec<u32>> {
    let template = model.chat_template.as_ref().ok_or_else(|| {
        Error::Spec("the model has no chat template, so it has no rows of a prompt".to_owned())
    })?;
    Ok(model.tokenizer.encode(&template.render(messages, true)?, false)?)
}

/// What a probe reads of some conversations.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ActivationRows {
    /// `[n, num_layers * hidden_size]`, empty where it is not read.
    last: FeatureRows,
    /// The same of the mean.
    mean: FeatureRows,
}

impl ActivationRows {
    /// Those of one conversation.
    pub(super) fn of(&self, idx: usize) -> PromptActivations<'_> {
        PromptActivations { last: row_of(&self.last, idx), mean: row_of(&self.mean, idx) }
    }
}

/// A row, empty where there are none.
fn row_of(rows: &FeatureRows, idx: usize) -> &[f32] {
    if rows.is_empty() { &[] } else { rows.row(idx) }
}

/// What is read of each rendered conversation in one pass, by the kernels that serve. Rows that the cache has are not computed.
///
/// # Errors
/// [`Error::Spec`] when a conversation is longer than the context or the model has no template, [`Error::Model`] when a
/// pass fails.
pub(crate) fn activation_rows(
    (model, cache): (&LoadedModel, Option<&RowCache>),
    conversations: &[&[ChatMessage]],
    asked: &ActivationInput,
    progress: &mut dyn Progress,
) -> Result<ActivationRows> {
    let max_tokens = model.llama.config().max_position_embeddings;
    let mut inputs = Vec::new();
    for (idx, messages) in conversations.iter().enumerate() {
        let token_ids = prompt_token_ids(model, messages)?;
        if token_ids.len() > max_tokens {
            return Err(Error::Spec(format!(
                "conversation {idx} has {} tokens; the model's context is {max_tokens}",
                token_ids.len()
            )));
        }
        let last = EncodedInput::new((0, Side::Unsafe, idx), &token_ids, &[], TokenMode::Last)
            .ok_or_else(|| Error::Spec(format!("conversation {idx} has no token")))?;
        let mean = asked
            .mean_from(&token_ids)
            .map(|from| EncodedInput { rows: from..token_ids.len(), ..last.clone() });
        // Side by side, so that one pass computes both.
        inputs.extend(asked.last.then_some(last));
        inputs.extend(mean);
    }
    let spec = ActivationSpec {
        site: asked.site,
        layers: asked.layers.clone(),
        tokens: TokenMode::Last,
        prompt_form: PromptForm::ChatTemplate,
    };
    let options = RunOptions::default();
    let num_reads = usize::from(asked.last) + usize::from(asked.mean_without.is_some());
    let width = asked.layers.len() * model.llama.config().hidden_size;
    let wanted = Wanted {
        what: "prompts",
        num: conversations.len(),
        width: num_reads * width,
        num_steps: num_reads,
    };
    let of = |idx: usize| &inputs[idx * num_reads..(idx + 1) * num_reads];
    let key = |cache: &RowCache, idx: usize| row_key(cache, model, asked, &of(idx)[0].token_ids);
    let mut compute = |idxs: &[usize], progress: &mut dyn Progress| {
        let inputs: Vec<EncodedInput> = idxs.iter().flat_map(|&idx| of(idx)).cloned().collect();
        let read = activations_encoded(&model.llama, &inputs, &spec, &options, progress)?;
        Ok(read.values)
    };
    let values = rows_of(cache, wanted, &key, &mut compute, progress)?;
    let (last, mean) = match (asked.last, asked.mean_without.is_some()) {
        (true, true) => values.chunks_exact(2 * width).map(|pair| pair.split_at(width)).unzip(),
        (true, false) => (vec![values.as_slice()], Vec::new()),
        (false, _) => (Vec::new(), vec![values.as_slice()]),
    };
    let rows = |values: Vec<&[f32]>| FeatureRows::new(values.concat(), width);
    Ok(ActivationRows { last: rows(last), mean: rows(mean) })
}

/// What decides a conversation's rows: the weights, the kernels and the device, what is read, and the tokens.
fn row_key(
    cache: &RowCache,
    model: &LoadedModel,
    asked: &ActivationInput,
    token_ids: &[u32],
) -> String {
    let device = model.llama.device().location();
    let kernels = format!("{device:?} {:?}", model.llama.cpu_kernels());
    let asked = format!("{asked:?}");
    let token_ids: Vec<u8> = token_ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    cache.key([
        b"activations".as_slice(),
        model.identity.architecture_id.as_bytes(),
        model.identity.weights_id.as_bytes(),
        kernels.as_bytes(),
        asked.as_bytes(),
        &token_ids,
    ])
}
