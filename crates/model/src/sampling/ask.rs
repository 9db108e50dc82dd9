//! What a forward pass is asked of a row of logits, and what it answers.
//!
//! Where nothing changes a row before the choice, the pass can choose, and a token leaves the device in place of a row. The
//! number that a draw needs is taken from the sequence's generator before the pass, so the pass keeps no state.

use super::{Filter, draw};
use crate::kernels;

/// What is wanted of one row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ask {
    /// The row itself.
    Logits,
    /// The most likely token, the lowest id among equals.
    Greedy,
    /// A token drawn from all.
    Draw {
        /// Logits are divided by it; above 0.
        temperature: f32,
        /// Uniform in 0..1; decides the draw.
        unit: f64,
    },
    /// A token drawn from those that a filter keeps.
    Filtered {
        /// As of [`Self::Draw`].
        temperature: f32,
        /// As of [`Self::Draw`].
        unit: f64,
        /// Not one that keeps all.
        filter: Filter,
    },
}

/// What a row gave. [`Self::Logits`] answers [`Ask::Logits`], [`Self::Token`] the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer<'a> {
    /// `[vocab_size]`, raw.
    Logits(&'a [f32]),
    /// The token that was asked for.
    Token {
        /// Means nothing where `is_finite` is false.
        id: u32,
        /// Whether all logits of the row are finite.
        is_finite: bool,
    },
}

/// Answers from a row on the host. A device's own choice must be this one wherever its logits are the same.
///
/// # Shapes
/// - `logits`: `[vocab_size]`, raw
#[must_use]
pub fn decide(ask: Ask, logits: &[f32]) -> Answer<'_> {
    match ask {
        Ask::Logits => Answer::Logits(logits),
        Ask::Greedy => token(logits, |largest| draw::argmax(logits, largest)),
        Ask::Draw { temperature, unit } => {
            token(logits, |largest| draw::draw(logits, largest, temperature, unit))
        }
        Ask::Filtered { temperature, unit, filter } => token(logits, |largest| {
            draw::draw_filtered(logits, largest, (temperature, unit), filter)
        }),
    }
}

/// The token chosen with the largest logit at hand, if all are finite.
fn token(logits: &[f32], choose: impl FnOnce(f32) -> u32) -> Answer<'_> {
    let (largest, is_finite) = kernels::largest(logits);
    let id = if is_finite { choose(largest) } else { 0 };
    Answer::Token { id, is_finite }
}

/// What a forward pass found: an answer an ask, in the order of the asks.
#[derive(Debug)]
pub(crate) struct StepOutput {
    /// `[num_rows, vocab_size]`, with at least the rows that were asked for.
    logits: Vec<f32>,
    vocab_size: usize,
    found: Vec<Found>,
}

/// An [`Answer`], with the number of the row in place of the row.
#[derive(Debug)]
enum Found {
    Row(usize),
    Token { id: u32, is_finite: bool },
}

impl StepOutput {
    /// Answers all asks from their rows on the host.
    ///
    /// # Shapes
    /// - `logits`: `[num_asks, vocab_size]`
    pub(crate) fn of_rows(asks: &[Ask], logits: Vec<f32>, vocab_size: usize) -> Self {
        let rows = logits.chunks_exact(vocab_size).zip(asks).enumerate();
        let found = rows.map(|(row, (logits, &ask))| match decide(ask, logits) {
            Answer::Logits(_) => Found::Row(row),
            Answer::Token { id, is_finite } => Found::Token { id, is_finite },
        });
        Self { found: found.collect(), logits, vocab_size }
    }

    /// Answers that a device gave: tokens, in the order of the asks that are no [`Ask::Logits`], and the rows of those that are.
    ///
    /// # Shapes
    /// - `logits`: `[asks for logits, vocab_size]`
    pub(crate) fn of_device(
        asks: &[Ask],
        logits: Vec<f32>,
        vocab_size: usize,
        tokens: impl Iterator<Item = (u32, bool)>,
    ) -> Self {
        let (mut tokens, mut rows) = (tokens, 0..);
        let found = asks.iter().filter_map(|ask| match ask {
            Ask::Logits => rows.next().map(Found::Row),
            Ask::Greedy | Ask::Draw { .. } | Ask::Filtered { .. } => {
                tokens.next().map(|(id, is_finite)| Found::Token { id, is_finite })
            }
        });
        Self { found: found.collect(), logits, vocab_size }
    }

    /// Where every ask was [`Ask::Logits`]: `[num_asks, vocab_size]`.
    pub(crate) fn into_rows(self) -> Vec<f32> {
        self.logits
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = Answer<'_>> {
        self.found.iter().map(|found| match *found {
            Found::Row(row) => {
                Answer::Logits(&self.logits[row * self.vocab_size..][..self.vocab_size])
            }
            Found::Token { id, is_finite } => Answer::Token { id, is_finite },
        })
    }
}
