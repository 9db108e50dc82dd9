//! The style check: what a classifier that sees form alone makes of a training mixture.
//!
//! A probe can look good because the harmful half of its data is longer, asks more questions or comes from other sets. So a regression
//! on form (length, punctuation, first word, and the set) is fitted and asked about prompts that it did not see. At an AUC of
//! one half form says nothing; what it is above that, a probe may have learned instead of harm.

use serde::Serialize;

use super::corpus::Corpus;
use super::text::whole;
use crate::error::Result;
use crate::judge::{Estimate, FeatureRows, auc};
use crate::logistic::fit_weighted;
use crate::numbers::to_f32;

/// From this AUC on form is worth a warning: an interval around one half does not reach it with some thousand prompts.
const STYLE_WARNING: f64 = 0.6;

/// How well form alone tells harmful from harmless.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StyleCheck {
    /// Over all sets, by form and set.
    pub all: Option<Estimate>,
    /// Over the sets that have both kinds, by form alone.
    pub matched: Option<Estimate>,
}

impl StyleCheck {
    /// Whether form gives harm away within sets that are meant to be matched.
    #[must_use]
    pub fn warns(&self) -> bool {
        self.matched.is_some_and(|auc| auc.value >= STYLE_WARNING)
    }

    /// One line.
    #[must_use]
    pub fn words(&self) -> String {
        let words = |auc: Option<Estimate>| auc.map_or("-".to_owned(), |auc| auc.to_string());
        let verdict = if self.warns() {
            "form gives harm away: match the data better"
        } else {
            "one half is chance"
        };
        format!(
            "style alone, AUC: {} within sets of both kinds, {} over all sets with the set's name ({verdict})",
            words(self.matched),
            words(self.all)
        )
    }
}

const NUM_FOLDS: usize = 5;
const L2: f64 = 0.01;
/// First words are told apart by a hash of so many values.
const FIRST_WORDS: usize = 64;
const NUM_FORM: usize = 10;

/// Measures a corpus.
///
/// # Errors
/// [`crate::Error::Data`] when harmful or harmless prompts are missing.
pub fn style_check(corpus: &Corpus) -> Result<StyleCheck> {
    let has_both = |set_idx: usize| corpus.counts(set_idx).iter().all(|&count| count > 0);
    let both: Vec<bool> = (0..corpus.sets.len()).map(has_both).collect();
    Ok(StyleCheck {
        all: held_out(corpus, &|_| true, true)?,
        matched: held_out(corpus, &|set_idx| both[set_idx], false)?,
    })
}

/// AUC of prompts by regressions that did not see them. Twins lie side by side and fall into one fold.
fn held_out(
    corpus: &Corpus,
    takes: &dyn Fn(usize) -> bool,
    with_set: bool,
) -> Result<Option<Estimate>> {
    let prompts: Vec<_> = corpus.prompts.iter().filter(|prompt| takes(prompt.set_idx)).collect();
    let positives: Vec<bool> = prompts.iter().map(|prompt| prompt.harmful).collect();
    if positives.iter().all(|&positive| positive) || !positives.contains(&true) {
        return Ok(None);
    }
    let width = NUM_FORM + FIRST_WORDS + if with_set { corpus.sets.len() } else { 0 };
    let values = prompts.iter().flat_map(|prompt| {
        let mut row = form(&whole(&prompt.conversation), prompt.conversation.len());
        if with_set {
            row.extend((0..corpus.sets.len()).map(|idx| flag(idx == prompt.set_idx)));
        }
        row
    });
    let rows = FeatureRows::new(values.collect(), width);
    let mut scores = vec![0.0; prompts.len()];
    for fold in 0..NUM_FOLDS {
        let is_in = |idx: &usize| (idx / 2) % NUM_FOLDS == fold;
        let (seen, asked): (Vec<usize>, Vec<usize>) =
            (0..prompts.len()).partition(|idx| !is_in(idx));
        let labels: Vec<bool> = seen.iter().map(|&idx| positives[idx]).collect();
        if asked.is_empty() || labels.iter().all(|&label| label) || !labels.contains(&true) {
            continue;
        }
        let plane = fit_weighted(&rows.select(&seen), &labels, &vec![1.0; seen.len()], L2)?;
        for idx in asked {
            let products = plane.weights.iter().zip(rows.row(idx));
            scores[idx] = products.map(|(w, x)| w * f64::from(*x)).sum::<f64>() + plane.bias;
        }
    }
    Ok(auc(&scores, &positives))
}

/// Form and nothing else: `[NUM_FORM + FIRST_WORDS]`.
fn form(text: &str, num_messages: usize) -> Vec<f32> {
    let count = |of: &dyn Fn(char) -> bool| text.chars().filter(|&c| of(c)).count() as f64;
    let ends_with = |end: char| flag(text.trim_end().ends_with(end));
    let words = text.split_whitespace().count() as f64;
    let mut row = vec![
        to_f32((1.0 + count(&|_| true)).ln()),
        to_f32((1.0 + words).ln()),
        ends_with('?'),
        ends_with('.'),
        ends_with('!'),
        to_f32(count(&|c| c == ',')),
        to_f32(count(&|c| c.is_ascii_digit())),
        to_f32(count(&|c| c == '"' || c == '\'')),
        flag(text.chars().next().is_some_and(char::is_uppercase)),
        to_f32(num_messages as f64),
    ];
    let first: String = text.split_whitespace().next().unwrap_or_default().to_lowercase();
    let hash = first.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte));
    row.extend((0..FIRST_WORDS).map(|idx| flag(idx == hash % FIRST_WORDS)));
    row
}

fn flag(holds: bool) -> f32 {
    if holds { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::corpus::{Corpus, SourceSet};
    use super::*;
    use crate::data::{DataSet, Item};

    fn corpus(sets: &[(&str, Vec<(String, bool)>)]) -> Corpus {
        let set = |(name, texts): &(&str, Vec<(String, bool)>)| {
            let items = texts.iter().enumerate().map(|(idx, (text, harmful))| Item {
                harmful: Some(*harmful),
                ..Item::new(format!("{name}{idx}"), text.clone(), "own")
            });
            SourceSet {
                name: (*name).to_owned(),
                files: vec![DataSet::of(items.collect(), "ab".to_owned())],
            }
        };
        Corpus::new(&sets.iter().map(set).collect::<Vec<_>>(), &[]).unwrap()
    }

    /// 60 twins that differ in one word of one length, and in nothing else.
    fn twins() -> Vec<(String, bool)> {
        let words = |idx: usize| "word ".repeat(idx % 7);
        (0..60)
            .flat_map(|idx| {
                let (w, end) = (words(idx), if idx % 3 == 0 { "?" } else { "." });
                [
                    (format!("do {w}harm {idx}{end}"), true),
                    (format!("do {w}good {idx}{end}"), false),
                ]
            })
            .collect()
    }

    #[test]
    fn twins_of_one_form_are_at_chance() {
        let check = style_check(&corpus(&[("a", twins())])).unwrap();
        let auc = check.matched.unwrap();
        assert!((auc.value - 0.5).abs() < 0.05, "{auc:?}");
        assert!(!check.warns() && check.words().contains("one half is chance"));
    }

    #[test]
    fn a_half_that_asks_and_a_half_that_does_not_is_told() {
        let asks = |(text, harmful): (String, bool)| {
            let end = if harmful { "?" } else { "." };
            (text.trim_end_matches(['?', '.']).to_owned() + end, harmful)
        };
        let check =
            style_check(&corpus(&[("a", twins().into_iter().map(asks).collect())])).unwrap();
        assert!(check.matched.unwrap().value > 0.99, "{check:?}");
        assert!(check.warns() && check.words().contains("match the data better"));
    }

    #[test]
    fn the_name_of_a_set_counts_over_all_sets_alone() {
        let half =
            |wanted: bool| twins().into_iter().filter(move |(_, harmful)| *harmful == wanted);
        let one = corpus(&[("a", half(true).collect()), ("b", half(false).collect())]);
        let check = style_check(&one).unwrap();
        assert!(check.all.unwrap().value > 0.99 && check.matched.is_none(), "{check:?}");
        assert!(!check.warns());
    }
}
