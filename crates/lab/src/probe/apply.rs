//! A probe's verdicts on a corpus, as a server would give them.

use skeg_model::ChatMessage;

use super::corpus::Corpus;
use super::rows::{Sources, activation_rows};
use super::{Probe, Verdict};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// One verdict a prompt, in order.
///
/// # Errors
/// [`Error::Spec`] when the model that the probe reads is missing; what scoring and the model's passes return.
pub fn verdicts(
    probe: &Probe,
    corpus: &Corpus,
    sources: Sources<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<Verdict>> {
    let conversations: Vec<&[ChatMessage]> =
        corpus.prompts.iter().map(|prompt| prompt.conversation.as_slice()).collect();
    let activations = match probe.activation_input() {
        None => None,
        Some(input) => {
            let model = sources.model.ok_or_else(|| {
                Error::Spec("the probe reads the model's activations; give the model".to_owned())
            })?;
            Some(activation_rows((model, sources.cache), &conversations, &input, progress)?)
        }
    };
    let verdict = |(idx, messages): (usize, &&[ChatMessage])| {
        let text = probe.text_scores(messages, sources.embedder)?;
        probe.verdict(&text, activations.as_ref().map(|rows| rows.of(idx)))
    };
    conversations.iter().enumerate().map(verdict).collect()
}
