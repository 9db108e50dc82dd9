//! The repetition measure: whether a text has broken down.
//!
//! A text is degenerate when any of these holds:
//! - it has fewer than three words;
//! - among the last [`LOOP_WINDOW`] words (or all of them, if fewer but at least [`MIN_WORDS`]), more than half of
//!   the three-word sequences have occurred before within that window (loops of any period);
//! - the same one, two or three words stand four times in a row;
//! - more than a third of its characters are neither letters, digits, spaces nor common punctuation.
//!
//! It sees loops and rubble, not fluent nonsense.

use std::collections::HashSet;

/// Words at the end of a text that are looked at for loops: a text that loops does so at its end.
const LOOP_WINDOW: usize = 40;

/// Shorter texts are not judged for loops: few three-word sequences say little.
const MIN_WORDS: usize = 12;

/// The same words this many times in a row are a loop, up to this many words.
const LOOP_TURNS: usize = 4;
const MAX_LOOP_PERIOD: usize = 3;

/// Share of repeated three-word sequences above which a text is degenerate.
const MAX_REPETITION: f64 = 0.5;

/// Share of unusual characters above which a text is degenerate.
const MAX_UNUSUAL: f64 = 1.0 / 3.0;

/// Whether a text has broken down, by the rules at the top of this file.
#[must_use]
pub fn is_degenerate(text: &str) -> bool {
    let words = words(text);
    words.len() < 3
        || word_repetition(text) > MAX_REPETITION
        || (1..=MAX_LOOP_PERIOD).any(|period| has_loop(&words, period))
        || unusual_share(text) > MAX_UNUSUAL
}

/// Share of the three-word sequences at the end of a text that have occurred before there; 0 to 1, and 0 for
/// texts under twelve words.
#[must_use]
pub fn word_repetition(text: &str) -> f64 {
    let words = words(text);
    if words.len() < MIN_WORDS {
        return 0.0;
    }
    let window = &words[words.len().saturating_sub(LOOP_WINDOW)..];
    let trigrams = window.windows(3);
    let total = trigrams.len();
    let distinct: HashSet<&[String]> = trigrams.collect();
    1.0 - distinct.len() as f64 / total as f64
}

/// Whether some `period` words are repeated [`LOOP_TURNS`] times in a row.
fn has_loop(words: &[String], period: usize) -> bool {
    words
        .windows(period * LOOP_TURNS)
        .any(|window| window.chunks(period).all(|turn| turn == &window[..period]))
}

/// Lower-case words without punctuation; a piece without letters or digits counts as it stands.
fn words(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|piece| {
            let bare = piece.trim_matches(|c: char| !c.is_alphanumeric());
            if bare.is_empty() { piece.to_owned() } else { bare.to_lowercase() }
        })
        .collect()
}

fn unusual_share(text: &str) -> f64 {
    let usual = |c: char| {
        c != char::REPLACEMENT_CHARACTER
            && (c.is_alphanumeric() || c.is_whitespace() || ".,;:!?'\"()-*#/\u{2019}".contains(c))
    };
    let total = text.chars().count();
    let unusual = text.chars().filter(|&c| !usual(c)).count();
    unusual as f64 / total.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_rubble_and_nothing_are_degenerate() {
        for text in [
            String::new(),
            "ok".to_owned(),
            "the the the the end of it".to_owned(),
            "I can help you. ".repeat(12),
            "one two three four five six seven ".repeat(6),
            format!(
                "It begins well and goes on for a while, and then: {}",
                "and so on, ".repeat(14)
            ),
            "{}|{}|<<>>|{}|~~ a b c ^^^".to_owned(),
            "\u{fffd}\u{fffd}\u{fffd}\u{fffd} a b c".to_owned(),
        ] {
            assert!(is_degenerate(&text), "{text}");
        }
    }

    #[test]
    fn ordinary_texts_are_not() {
        for text in [
            "I can't help with that.",
            "Here are three steps:\n\n1. **Plan** the day.\n2. Pack a bag.\n3. Go outside and enjoy it.",
            "I can't help with this, because it harms people. I can help with other things, and I can \
             help you find someone to talk to.",
        ] {
            assert!(!is_degenerate(text), "{text}");
        }
    }

    #[test]
    fn repetition_grows_from_0_to_1() {
        let varied = "a b c d e f g h i j k l m n";
        assert!(word_repetition(varied).abs() < 1e-12);
        assert!(word_repetition(&"a b ".repeat(20)) > 0.9);
    }
}
