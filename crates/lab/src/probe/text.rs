//! The text members' half of a verdict: a conversation's scores, off the engine's thread.
//!
//! A conversation is scored message by message and as a whole, and the part that is found most harmful counts: so harm that
//! is spread over turns, that a harmless follow-up comes after, or that stands in a tool's result is seen. System messages and the
//! model's own answers are read with the whole alone, because they name what is forbidden and quote what was asked.

use skeg_model::ChatMessage;

use super::member::Input;
use super::verdict::Scores;
use super::{Member, Probe};
use crate::error::{Error, Result};
use crate::judge::Embed;
use crate::progress::NoProgress;

/// One conversation's scores by the text members of a probe.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextScores {
    /// One a member; `None` for a member that reads no text.
    by_member: Vec<Option<Scores>>,
}

impl TextScores {
    pub(super) fn of_member(&self, idx: usize) -> Result<&Scores> {
        self.by_member.get(idx).and_then(Option::as_ref).ok_or_else(|| {
            Error::Data(format!("no text scores of member {idx}; score the conversation first"))
        })
    }
}

/// Messages that are scored alone, from the end of the conversation on: a bound on what one request costs.
const MAX_PARTS: usize = 16;

/// The parts of a conversation that are scored: the user's and tools' messages, and the whole if that is more.
#[must_use]
pub(crate) fn parts(messages: &[ChatMessage]) -> Vec<String> {
    let alone = |message: &&ChatMessage| matches!(message.role.as_str(), "user" | "tool");
    let mut parts: Vec<String> = messages
        .iter()
        .rev()
        .filter(alone)
        .map(|message| message.content.clone())
        .take(MAX_PARTS)
        .collect();
    if messages.len() > 1 || parts.is_empty() {
        parts.push(whole(messages));
    }
    parts
}

/// The contents of all messages, a line break between them.
pub(super) fn whole(messages: &[ChatMessage]) -> String {
    let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    contents.join("\n")
}

impl Probe {
    /// The text members' scores of a conversation; `embedder` where [`Probe::embedder`] names one.
    ///
    /// # Errors
    /// [`Error::Data`] when the embedder is missing or another one; what the embedder returns.
    pub fn text_scores(
        &self,
        messages: &[ChatMessage],
        embedder: Option<&dyn Embed>,
    ) -> Result<TextScores> {
        let parts = parts(messages);
        let by_member = self.members.iter().map(|member| match &member.input {
            Input::Activations { .. } => Ok(None),
            Input::NGrams(ngrams) => {
                let scores = parts.iter().map(|part| member.planes.score_sparse(&ngrams.row(part)));
                Ok(most_harmful(scores))
            }
            Input::Embedding { embedder: id, .. } => embedded(member, id, &parts, embedder),
        });
        Ok(TextScores { by_member: by_member.collect::<Result<_>>()? })
    }
}

fn embedded(
    member: &Member,
    id: &str,
    parts: &[String],
    embedder: Option<&dyn Embed>,
) -> Result<Option<Scores>> {
    let embedder = embedder.filter(|embedder| embedder.id() == id).ok_or_else(|| {
        let found = embedder.map_or("none", Embed::id);
        Error::Data(format!(
            "the probe was trained with embedder {id}, and there is {found}; give it the folder of that embedder"
        ))
    })?;
    let texts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let embeddings = embedder.embed(&texts, &mut NoProgress)?;
    Ok(most_harmful(embeddings.iter().map(|row| member.planes.score(row))))
}

fn most_harmful(scores: impl Iterator<Item = Scores>) -> Option<Scores> {
    scores.max_by(|a, b| a.harm.total_cmp(&b.harm))
}
