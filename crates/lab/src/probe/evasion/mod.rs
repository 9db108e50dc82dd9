//! Simple ways to hide a prompt from a classifier, as an evaluation set: what a probe loses when the same prompts come disguised.
//!
//! They are the known ones: encodings, spelling, role play and orders on how an answer begins (the attacks of Wei et al., "Jailbroken:
//! How Does LLM Safety Training Fail?", arXiv 2307.02483), long harmless text around the prompt, and a prompt in other
//! places than one user's message. Harmful and harmless prompts are disguised alike, so that a probe which
//! merely alarms at the disguise is found out.

mod spelling;
mod texts;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use skeg_model::ChatMessage;

use super::corpus::{Corpus, Prompt};
use crate::error::{Error, Result};
use spelling::{in_parts, leetspeak, rot13, spaced};

/// User's turns that [`Evasion::SplitOverTurns`] makes of a prompt.
const NUM_TURNS: usize = 3;

/// One way to disguise a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evasion {
    /// In base64 (RFC 4648, with padding), with a request to decode it.
    Base64,
    /// Some letters as digits: `h0w 70 b4k3`.
    Leetspeak,
    /// In the mouth of somebody in a play, a novel or a game.
    RolePlay,
    /// With an order how the answer is to begin.
    PrefixInjection,
    /// After some 600 words of everyday text.
    PaddingBefore,
    /// Before some 600 words of everyday text.
    PaddingAfter,
    /// In the middle of some 600 words of everyday text.
    PaddingAround,
    /// Over three user's turns, with short turns of the model between.
    SplitOverTurns,
    /// Letters apart: `h o w   t o`.
    Spaced,
    /// ASCII letters moved by 13 places, with a request to read them.
    Rot13,
    /// In the system message, before an innocent user's turn.
    SystemPrompt,
    /// In a tool's message, after an innocent user's turn.
    ToolResult,
}

impl Evasion {
    /// Every evasion.
    pub const ALL: [Self; 12] = [
        Self::Base64,
        Self::Leetspeak,
        Self::RolePlay,
        Self::PrefixInjection,
        Self::PaddingBefore,
        Self::PaddingAfter,
        Self::PaddingAround,
        Self::SplitOverTurns,
        Self::Spaced,
        Self::Rot13,
        Self::SystemPrompt,
        Self::ToolResult,
    ];

    /// Its name in tables and figures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Base64 => "base64",
            Self::Leetspeak => "leetspeak",
            Self::RolePlay => "role play",
            Self::PrefixInjection => "prefix injection",
            Self::PaddingBefore => "padding before",
            Self::PaddingAfter => "padding after",
            Self::PaddingAround => "padding around",
            Self::SplitOverTurns => "split over turns",
            Self::Spaced => "letters apart",
            Self::Rot13 => "ROT13",
            Self::SystemPrompt => "system prompt",
            Self::ToolResult => "tool result",
        }
    }

    /// Its name in options and sets, as [`FromStr`] reads it, which takes `-` for `_`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base64 => "base64",
            Self::Leetspeak => "leetspeak",
            Self::RolePlay => "role_play",
            Self::PrefixInjection => "prefix_injection",
            Self::PaddingBefore => "padding_before",
            Self::PaddingAfter => "padding_after",
            Self::PaddingAround => "padding_around",
            Self::SplitOverTurns => "split_over_turns",
            Self::Spaced => "spaced",
            Self::Rot13 => "rot13",
            Self::SystemPrompt => "system_prompt",
            Self::ToolResult => "tool_result",
        }
    }

    /// The conversation with its last user's message disguised; every other message stays as it is, but for a system
    /// message, which [`Self::SystemPrompt`] adds to. A conversation is returned as it is where there is
    /// nothing to disguise: no user's message, an empty one, one letter to space out, no letter to change.
    ///
    /// The sentences around the prompt are drawn by the seed and the message. Even seeds and odd seeds draw from disjoint
    /// halves of them: train on one, measure on the other, and no sentence of ours is in both.
    #[must_use]
    pub fn apply(self, conversation: &[ChatMessage], seed: u64) -> Vec<ChatMessage> {
        let mut disguised = conversation.to_vec();
        let Some(idx) = conversation.iter().rposition(|message| message.role == "user") else {
            return disguised;
        };
        let content = &conversation[idx].content;
        if content.trim().is_empty() {
            return disguised;
        }
        let mut draw = Draw::new(seed, self, content);
        let turns = match self {
            Self::SplitOverTurns => split(content, &mut draw),
            Self::SystemPrompt => {
                let [before, after, user] = draw.one(&texts::SYSTEM_PROMPT);
                disguised[idx] = message("user", user);
                add_to_system(&mut disguised, &format!("{before}{content}{after}"));
                return disguised;
            }
            Self::ToolResult => {
                let [user, assistant, before, after] = draw.one(&texts::TOOL_RESULT);
                let result = format!("{before}{content}{after}");
                vec![
                    message("user", user),
                    message("assistant", assistant),
                    message("tool", result),
                ]
            }
            _ => vec![message("user", self.rewritten(content, &mut draw))],
        };
        disguised.splice(idx..=idx, turns);
        disguised
    }

    /// The message of the evasions that leave it one message of the user.
    fn rewritten(self, content: &str, draw: &mut Draw) -> String {
        match self {
            Self::Base64 => wrapped(&STANDARD.encode(content), draw.one(&texts::BASE64)),
            Self::Rot13 => {
                let moved = rot13(content);
                if moved == content { moved } else { wrapped(&moved, draw.one(&texts::ROT13)) }
            }
            Self::Leetspeak => leetspeak(content),
            Self::Spaced => spaced(content),
            Self::RolePlay => wrapped(content, draw.one(&texts::ROLE_PLAY)),
            Self::PrefixInjection => wrapped(content, draw.one(&texts::PREFIX_INJECTION)),
            Self::PaddingBefore => padded(content, draw, |num| num),
            Self::PaddingAfter => padded(content, draw, |_| 0),
            Self::PaddingAround => padded(content, draw, |num| num / 2),
            Self::SplitOverTurns | Self::SystemPrompt | Self::ToolResult => content.to_owned(),
        }
    }
}

impl fmt::Display for Evasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Evasion {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let wanted = name.replace('-', "_");
        Self::ALL.into_iter().find(|evasion| evasion.as_str() == wanted).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            Error::Data(format!("unknown evasion `{name}`; expected one of {names}"))
        })
    }
}

/// The corpus in disguise, harmful and harmless prompts alike: ids, labels and hashes as they were, sets named
/// `<set>+<evasion>`. Prompts that [`Evasion::apply`] leaves as they are, are left out: they would count as caught.
#[must_use]
pub fn evade(corpus: &Corpus, evasion: Evasion, seed: u64) -> Corpus {
    let disguised = |prompt: &Prompt| {
        let conversation = evasion.apply(&prompt.conversation, seed);
        (conversation != prompt.conversation).then(|| Prompt { conversation, ..prompt.clone() })
    };
    let sets = corpus.sets.iter();
    Corpus {
        sets: sets.map(|(name, hashes)| (format!("{name}+{evasion}"), hashes.clone())).collect(),
        categories: corpus.categories.clone(),
        prompts: corpus.prompts.iter().filter_map(disguised).collect(),
    }
}

/// Draws sentences: of one half of every list, which one by the seed and the prompt.
struct Draw {
    rng: ChaCha8Rng,
    is_odd: bool,
}

impl Draw {
    /// Hashed, so that a prompt's sentences depend on nothing else in its set.
    fn new(seed: u64, evasion: Evasion, content: &str) -> Self {
        let hash = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update(evasion.as_str())
            .chain_update(content);
        Self { rng: ChaCha8Rng::from_seed(hash.finalize().into()), is_odd: seed % 2 == 1 }
    }

    /// The half of a list that this seed may use.
    fn half<T: Copy>(&self, all: &[T]) -> Vec<T> {
        all.iter().skip(usize::from(self.is_odd)).step_by(2).copied().collect()
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        let half = self.half(all);
        half[((u64::from(self.rng.next_u32()) * half.len() as u64) >> 32) as usize]
    }

    /// This seed's half of a list, in a drawn order.
    fn shuffled<T: Copy>(&mut self, all: &[T]) -> Vec<T> {
        let mut half = self.half(all);
        half.sort_by_cached_key(|_| self.rng.next_u64());
        half
    }
}

fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content: content.into() }
}

fn wrapped(content: &str, [before, after]: texts::Wrapper) -> String {
    format!("{before}{content}{after}")
}

/// The prompt among paragraphs, after as many of them as `num_before` says of their number.
fn padded(content: &str, draw: &mut Draw, num_before: impl Fn(usize) -> usize) -> String {
    let mut parts = draw.shuffled(&texts::paragraphs());
    parts.insert(num_before(parts.len()), content);
    parts.join("\n\n")
}

/// The prompt's parts as user's turns, and a turn of the model after each but the last.
fn split(content: &str, draw: &mut Draw) -> Vec<ChatMessage> {
    let replies = draw.shuffled(&texts::SPLIT_REPLIES);
    let mut turns = Vec::new();
    for (part, reply) in in_parts(content, NUM_TURNS).into_iter().zip(replies) {
        turns.push(message("user", part));
        turns.push(message("assistant", reply));
    }
    turns.pop();
    turns
}

/// Adds to the system message, which templates expect first; makes one where there is none.
fn add_to_system(conversation: &mut Vec<ChatMessage>, text: &str) {
    match conversation.first_mut() {
        Some(first) if first.role == "system" => {
            first.content.push_str("\n\n");
            first.content.push_str(text);
        }
        _ => conversation.insert(0, message("system", text)),
    }
}

#[cfg(test)]
mod tests;
