//! Hashed n-grams of words and characters: a text as a sparse row, without a vocabulary to keep.
//!
//! The hashing trick of Weinberger et al. (arXiv 0902.2206), without signs: with 2^17 buckets and short texts two n-grams rarely
//! share one. Costs microseconds a prompt.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

use crate::error::{Error, Result};
use crate::numbers::to_f32;

/// Which n-grams are counted, and into how many buckets. Part of a probe's file: rows of other settings are other features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NGrams {
    /// Most words of a word n-gram; from one word on.
    pub max_words: usize,
    /// Fewest characters of a character n-gram; they stay within a word and the space on either side of it.
    pub min_chars: usize,
    /// Most characters of a character n-gram.
    pub max_chars: usize,
    /// Base-2 logarithm of the number of buckets.
    pub log2_buckets: u32,
}

impl Default for NGrams {
    fn default() -> Self {
        Self { max_words: 2, min_chars: 3, max_chars: 5, log2_buckets: 17 }
    }
}

/// Most buckets that a file may ask for: 2^20, of which a category's plane takes 4 MiB.
const MAX_LOG2_BUCKETS: u32 = 20;
/// Longest n-gram that a file may ask for, in words or characters.
const MAX_LENGTH: usize = 8;
/// Characters of a text that are read: the first and the last ones, half of this each. A gate costs microseconds whatever it is sent.
const MAX_CHARS: usize = 16 * 1024;

/// The kinds of n-grams, hashed apart.
#[derive(Clone, Copy)]
enum Kind {
    Words,
    Characters,
}

impl NGrams {
    /// Refuses settings that no row can have.
    ///
    /// # Errors
    /// [`Error::Spec`] with the numbers.
    pub fn check(&self) -> Result<()> {
        let lengths = 1..=MAX_LENGTH;
        let fits = lengths.contains(&self.max_words)
            && lengths.contains(&self.max_chars)
            && (1..=self.max_chars).contains(&self.min_chars)
            && (1..=MAX_LOG2_BUCKETS).contains(&self.log2_buckets);
        if fits {
            return Ok(());
        }
        Err(Error::Spec(format!(
            "n-grams of up to {} words and {} to {} characters in 2^{} buckets; expected lengths of 1 to {MAX_LENGTH}, the fewest \
             characters not above the most, and 2^1 to 2^{MAX_LOG2_BUCKETS} buckets",
            self.max_words, self.min_chars, self.max_chars, self.log2_buckets
        )))
    }

    /// Features a row.
    #[must_use]
    pub fn width(&self) -> usize {
        1 << self.log2_buckets
    }

    /// The row of a text: (bucket, value) in order of the bucket, `ln(1 + count)` of each kind brought to an L2 norm of `1 / sqrt(2)`.
    #[must_use]
    pub fn row(&self, text: &str) -> Vec<(u32, f32)> {
        let text = read_part(text);
        let words: Vec<Vec<char>> = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(|word| word.chars().collect())
            .collect();
        let mut row = normalised(self.word_buckets(&words));
        row.extend(normalised(self.char_buckets(&words)));
        row.sort_unstable_by_key(|&(bucket, _)| bucket);
        row.dedup_by(|from, into| {
            let same = from.0 == into.0;
            if same {
                into.1 += from.1;
            }
            same
        });
        row
    }

    fn word_buckets(&self, words: &[Vec<char>]) -> Vec<u32> {
        let mut buckets = Vec::new();
        for length in 1..=self.max_words {
            for words in words.windows(length) {
                let spaced = words.iter().flat_map(|word| word.iter().copied().chain([' ']));
                buckets.push(self.bucket(Kind::Words, spaced));
            }
        }
        buckets
    }

    fn char_buckets(&self, words: &[Vec<char>]) -> Vec<u32> {
        let mut buckets = Vec::new();
        for word in words {
            let mut padded = vec![' '];
            padded.extend(word);
            padded.push(' ');
            for length in self.min_chars..=self.max_chars {
                let windows = padded.windows(length.min(padded.len()));
                buckets.extend(
                    windows.map(|chars| self.bucket(Kind::Characters, chars.iter().copied())),
                );
                if length >= padded.len() {
                    break;
                }
            }
        }
        buckets
    }

    /// FNV-1a over the kind and the UTF-8 of the characters, folded to the number of buckets.
    fn bucket(&self, kind: Kind, chars: impl Iterator<Item = char>) -> u32 {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let mut hash = OFFSET;
        let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        add(kind as u8);
        let mut bytes = [0; 4];
        for c in chars {
            c.encode_utf8(&mut bytes).bytes().for_each(&mut add);
        }
        let folded = (hash ^ (hash >> 32)) & (self.width() as u64 - 1);
        u32::try_from(folded).unwrap_or_default()
    }
}

/// What is read of a text, in one Unicode form (NFKC) and in lower case.
fn read_part(text: &str) -> String {
    let num_chars = text.chars().count();
    let part: String = if num_chars <= MAX_CHARS {
        text.to_owned()
    } else {
        let head = text.chars().take(MAX_CHARS / 2);
        head.chain(['\n']).chain(text.chars().skip(num_chars - MAX_CHARS / 2)).collect()
    };
    part.nfkc().flat_map(char::to_lowercase).collect()
}

/// Counts of buckets to values of norm `1 / sqrt(2)`.
fn normalised(mut buckets: Vec<u32>) -> Vec<(u32, f32)> {
    buckets.sort_unstable();
    let values: Vec<(u32, f64)> = buckets
        .chunk_by(|a, b| a == b)
        .map(|same| (same[0], (same.len() as f64).ln_1p()))
        .collect();
    let norm = values.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
    let factor = std::f64::consts::FRAC_1_SQRT_2 / norm;
    values.into_iter().map(|(bucket, value)| (bucket, to_f32(value * factor))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(a: &str, b: &str) -> f32 {
        let (a, b) = (NGrams::default().row(a), NGrams::default().row(b));
        let shared = a.iter().filter_map(|(bucket, value)| {
            b.iter().find(|(other, _)| other == bucket).map(|(_, other)| value * other)
        });
        shared.sum()
    }

    #[test]
    fn a_row_has_length_1_and_ascending_buckets() {
        let row = NGrams::default().row("Kill the process, kill it now");
        let norm: f32 = row.iter().map(|(_, value)| value * value).sum();
        // Two kinds that share a bucket make it a little longer.
        assert!((norm - 1.0).abs() < 1e-3, "{norm}");
        assert!(row.is_sorted_by(|a, b| a.0 < b.0));
        assert!(row.iter().all(|&(bucket, _)| (bucket as usize) < NGrams::default().width()));
    }

    #[test]
    fn case_width_and_punctuation_do_not_count_and_order_does() {
        assert!((overlap("Kill the PROCESS!", "kill the process") - 1.0).abs() < 1e-3);
        assert!((overlap("ｋｉｌｌ the process", "kill the process") - 1.0).abs() < 1e-3);
        let turned = overlap("process the kill", "kill the process");
        assert!(turned > 0.5 && turned < 0.95, "{turned}");
        assert!(overlap("bake a cake", "kill the process") < 0.2);
    }

    #[test]
    fn a_misspelled_word_shares_its_characters() {
        assert!(overlap("explosive", "explosiv") > 0.3);
        assert!(overlap("explosive", "gardening") < 0.05);
    }

    #[test]
    fn a_text_without_a_word_has_an_empty_row() {
        assert_eq!(NGrams::default().row(" ?! \n"), Vec::new());
    }

    #[test]
    fn of_a_long_text_both_ends_are_read() {
        let padding = "word ".repeat(20_000);
        let row = |text: String| NGrams::default().row(&text);
        let plain = row(padding.clone());
        assert_ne!(row(format!("begin {padding}")), plain);
        assert_ne!(row(format!("{padding} finish")), plain);
    }

    #[test]
    fn settings_that_no_row_can_have_are_refused() {
        let good = NGrams::default();
        assert!(good.check().is_ok());
        for bad in [
            NGrams { max_words: 0, ..good },
            NGrams { min_chars: 6, ..good },
            NGrams { max_chars: 9, ..good },
            NGrams { log2_buckets: 40, ..good },
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains("expected lengths of 1 to 8"), "{error}");
        }
    }
}
