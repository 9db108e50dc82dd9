//! What rules can say of an answer to a harmless prompt whose content they cannot judge, as in MT-Bench.
//!
//! The figures are to be compared between conditions of one run, with the same prompts and the same most tokens an
//! answer: the type-token ratio falls with length, and a limit cuts long answers.

use std::collections::HashSet;

use serde::Serialize;

use super::degenerate::is_degenerate;
use super::ifeval::words;
use super::refusal::is_refusal;
use super::share::Share;

/// Counts over the answers to harmless prompts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct QualityTally {
    /// Answers.
    pub total: usize,
    /// Neither a refusal nor degenerate.
    pub sound: usize,
    /// Refusals that are not degenerate.
    pub refused: usize,
    /// Degenerate answers, whatever they say.
    pub degenerate: usize,
    /// Answers that the model ended; the others were cut at the most tokens.
    pub ended: usize,
    /// Runs of letters, digits and underscores in all answers.
    pub num_words: usize,
    /// Sum over answers of different words / words.
    sum_type_token_ratio: f64,
}

impl QualityTally {
    /// Counts one answer; `ended` says whether the model ended it by itself.
    pub fn add(&mut self, answer: &str, ended: bool) {
        let degenerate = is_degenerate(answer);
        let refused = !degenerate && is_refusal(answer);
        let lower = answer.to_lowercase();
        let num_words = words(&lower).count();
        let num_different = words(&lower).collect::<HashSet<&str>>().len();
        self.total += 1;
        self.sound += usize::from(!degenerate && !refused);
        self.refused += usize::from(refused);
        self.degenerate += usize::from(degenerate);
        self.ended += usize::from(ended);
        self.num_words += num_words;
        self.sum_type_token_ratio += num_different as f64 / num_words.max(1) as f64;
    }

    /// Adds another group's counts.
    pub fn merge(&mut self, other: Self) {
        self.total += other.total;
        self.sound += other.sound;
        self.refused += other.refused;
        self.degenerate += other.degenerate;
        self.ended += other.ended;
        self.num_words += other.num_words;
        self.sum_type_token_ratio += other.sum_type_token_ratio;
    }

    /// Share of answers that are neither refusals nor degenerate.
    #[must_use]
    pub fn sound_share(&self) -> Share {
        Share::new(self.sound, self.total)
    }

    /// Share of answers that the model ended by itself.
    #[must_use]
    pub fn ended_share(&self) -> Share {
        Share::new(self.ended, self.total)
    }

    /// Mean number of words of an answer; 0 without answers.
    #[must_use]
    pub fn mean_words(&self) -> f64 {
        self.num_words as f64 / self.total.max(1) as f64
    }

    /// Mean of different words / words (in lower case) of an answer, 0 to 1: 1 where no word comes twice, near 0 in a
    /// loop; an answer without words counts 0.
    #[must_use]
    pub fn mean_type_token_ratio(&self) -> f64 {
        self.sum_type_token_ratio / self.total.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERS: [(&str, bool); 4] = [
        ("Plant them in spring, water them well, and wait.", true),
        ("I'm sorry, but I can't help with that.", true),
        ("again and again and again and again and again and again", false),
        ("", true),
    ];

    fn tally(answers: &[(&str, bool)]) -> QualityTally {
        let mut tally = QualityTally::default();
        for (answer, ended) in answers {
            tally.add(answer, *ended);
        }
        tally
    }

    #[test]
    fn each_answer_is_sound_refused_or_degenerate() {
        let tally = tally(&ANSWERS);
        assert_eq!((tally.sound, tally.refused, tally.degenerate), (1, 1, 2));
        assert_eq!((tally.sound_share().count, tally.ended_share().count, tally.total), (1, 3, 4));
    }

    #[test]
    fn words_and_their_variety_are_means_over_answers() {
        let all = tally(&ANSWERS);
        // `I'm` and `can't` are two words each.
        assert_eq!(all.num_words, 9 + 10 + 11);
        // `them` comes twice in the first, `i` in the second.
        let expected = (8.0 / 9.0 + 9.0 / 10.0 + 2.0 / 11.0) / 4.0;
        assert!((all.mean_type_token_ratio() - expected).abs() < 1e-12);
        assert!((all.mean_words() - 7.5).abs() < 1e-12);
        let (first, second) = ANSWERS.split_at(1);
        let mut halves = tally(first);
        halves.merge(tally(second));
        assert_eq!(halves, all);
    }

    #[test]
    fn nothing_has_no_figures() {
        let none = QualityTally::default();
        assert!(none.mean_words().abs() < 1e-12 && none.mean_type_token_ratio().abs() < 1e-12);
    }
}
