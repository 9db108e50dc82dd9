//! Which prompts and answers a training set has, by short hashes: enough to find them again in a test set, no text.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Exchange;
use crate::data::normalised;

/// The prompts and the answers of a training set, each by the first 8 bytes of a SHA-256.
///
/// A prompt is hashed in its normalised form: NFKC, case folded, words one space apart. An answer is hashed as prompt, line feed and
/// answer, both normalised, so that no other pair gives the same text. Written as two strings of 16 lower-case hex digits a
/// hash, in order and with nothing between. Two texts share a hash by chance once in 2^64 pairs. Who has a text
/// can tell whether it is among the hashes; nobody can read a text out of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct RowHashes {
    prompts: BTreeSet<u64>,
    answers: BTreeSet<u64>,
}

/// The written form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    prompts: String,
    answers: String,
}

const NUM_DIGITS: usize = 16;

impl RowHashes {
    /// The hashes of these rows.
    #[must_use]
    pub fn of<'a>(rows: impl IntoIterator<Item = Exchange<'a>>) -> Self {
        let mut hashes = Self::default();
        for row in rows {
            let [prompt, answer] = hashes_of(row);
            hashes.prompts.insert(prompt);
            hashes.answers.insert(answer);
        }
        hashes
    }

    /// Whether a row has this prompt.
    #[must_use]
    pub fn has_prompt(&self, prompt: &str) -> bool {
        self.prompts.contains(&hash(&normalised(prompt)))
    }

    /// Whether a row has this prompt, and whether one has it with this answer.
    pub(super) fn has(&self, row: Exchange<'_>) -> [bool; 2] {
        let [prompt, answer] = hashes_of(row);
        [self.prompts.contains(&prompt), self.answers.contains(&answer)]
    }

    /// Takes in the rows of another set.
    pub(super) fn extend(&mut self, other: &Self) {
        self.prompts.extend(&other.prompts);
        self.answers.extend(&other.answers);
    }
}

/// The hash of the prompt, and that of prompt and answer.
fn hashes_of(row: Exchange<'_>) -> [u64; 2] {
    let prompt = normalised(row.prompt);
    // A normalised text has no line feed.
    let answer = format!("{prompt}\n{}", normalised(row.response));
    [hash(&prompt), hash(&answer)]
}

fn hash(text: &str) -> u64 {
    Sha256::digest(text).iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte))
}

impl From<RowHashes> for Written {
    fn from(hashes: RowHashes) -> Self {
        let text =
            |hashes: &BTreeSet<u64>| hashes.iter().map(|hash| format!("{hash:016x}")).collect();
        Self { prompts: text(&hashes.prompts), answers: text(&hashes.answers) }
    }
}

impl TryFrom<Written> for RowHashes {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        Ok(Self { prompts: read(&written.prompts)?, answers: read(&written.answers)? })
    }
}

/// # Errors
/// What was expected.
fn read(text: &str) -> Result<BTreeSet<u64>, String> {
    let bad = || format!("hashes of rows are {NUM_DIGITS} hex digits each, with nothing between");
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(NUM_DIGITS)
    {
        return Err(bad());
    }
    let starts = (0..text.len()).step_by(NUM_DIGITS);
    starts
        .map(|start| {
            let digits = text.get(start..start + NUM_DIGITS).ok_or_else(bad)?;
            u64::from_str_radix(digits, 16).map_err(|_| bad())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(prompt: &'a str, response: &'a str) -> Exchange<'a> {
        Exchange { prompt, response }
    }

    #[test]
    fn rows_are_found_however_they_are_written_and_others_are_not() {
        let hashes = RowHashes::of([row("One  thing", "Yes"), row("two", "no")]);
        assert!(hashes.has_prompt("one thing ") && !hashes.has_prompt("one"));
        assert_eq!(hashes.has(row("ONE THING", "yes\n")), [true, true]);
        assert_eq!(hashes.has(row("one thing", "no")), [true, false]);
        assert_eq!(hashes.has(row("three", "yes")), [false, false]);
        // The end of the prompt counts.
        assert_eq!(RowHashes::of([row("a", "b c")]).has(row("a b", "c")), [false, false]);
    }

    /// `printf 'one thing' | sha256sum`, and the same for `'two'`, `'one thing\nyes'` and `'two\nno'`: 16 digits of each.
    #[test]
    fn the_written_form_is_sixteen_digits_a_row_in_order_and_is_read_again() {
        let rows = [row("two", "no"), row("One thing", "yes"), row("one thing", "YES")];
        let hashes = RowHashes::of(rows);
        let json = serde_json::to_value(&hashes).unwrap();
        let expected = serde_json::json!({
            "prompts": "3fc4ccfe745870e251deed3d045f45a6",
            "answers": "7c8e74164cdf6b28a3ca62d88612f017",
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<RowHashes>(json).unwrap(), hashes);
    }

    #[test]
    fn what_is_no_list_of_hashes_is_refused() {
        for prompts in ["0123", "+123456789abcdef", "0123456789abcdeg", "é123456789abcde"] {
            let json = serde_json::json!({ "prompts": prompts, "answers": "" });
            let error = serde_json::from_value::<RowHashes>(json).unwrap_err().to_string();
            assert!(error.contains("16 hex digits each"), "{error}");
        }
    }
}
