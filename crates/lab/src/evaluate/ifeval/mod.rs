//! IFEval (arXiv 2311.07911): whether an answer keeps the constraints of its prompt, by rule.
//!
//! The rules are those of the paper's "strict" accuracy: the answer is taken as it stands. They were written anew after the
//! definitions in the paper and in the checker published with it (`google-research/instruction_following_eval`).
//!
//! The data names a prompt's constraints and not their arguments, so an argument is read from the prompt, and
//! only where its wording leaves one reading (`prompt`). Everything else has no verdict and is counted apart. Of the
//! 815 constraints of the 540 prompts 522 have one, in 406 prompts; in 279 prompts all have.
//!
//! | constraint | in the data | scored | constraint | in the data | scored |
//! |---|---|---|---|---|---|
//! | `punctuation:no_comma` | 66 | 66 | `detectable_content:postscript` | 26 | 26 |
//! | `length_constraints:number_words` | 50 | 47 | `change_case:english_capital` | 25 | 25 |
//! | `detectable_format:number_highlighted_sections` | 47 | 41 | `combination:two_responses` | 24 | 24 |
//! | `length_constraints:number_sentences` | 46 | 41 | `keywords:letter_frequency` | 33 | 23 |
//! | `startend:quotation` | 40 | 40 | `startend:end_checker` | 26 | 19 |
//! | `change_case:english_lowercase` | 39 | 39 | `detectable_format:json_format` | 17 | 17 |
//! | `detectable_format:title` | 37 | 37 | `length_constraints:number_paragraphs` | 27 | 13 |
//! | `detectable_format:number_bullet_lists` | 31 | 28 | `detectable_format:constrained_response` | 10 | 10 |
//! | `detectable_content:number_placeholders` | 26 | 26 | eight others | 245 | 0 |
//!
//! Two rules are coarser than the original: `change_case` looks at the letters' case and not at the language, and
//! `length_constraints:number_sentences` counts sentences by its own rules (`rules::num_sentences`).

mod prompt;
mod rules;

use std::collections::BTreeMap;

use serde::Serialize;

use self::prompt::{Bounds, Reading};
use super::share::Share;
use crate::data::Item;
use crate::error::{Error, Result};

pub(super) use self::rules::words;

/// The rules of IFEval.
#[derive(Debug, Clone, Copy)]
pub struct IfEval;

/// How many constraints were kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IfEvalScore {
    /// Constraints with a verdict.
    pub num_scored: usize,
    /// Of these, the ones that were kept.
    pub num_followed: usize,
    /// Constraints without one: not in the rules, or with an argument that cannot be read from the prompt.
    pub num_not_scorable: usize,
    /// Share of constraints kept, for each instruction that has a verdict.
    pub by_instruction: BTreeMap<String, Share>,
    /// Share of prompts whose scored constraints are all kept, of those with at least one.
    pub prompts: Share,
}

impl IfEvalScore {
    /// Share of the scored constraints that were kept: the paper's strict accuracy by instruction, over those
    /// that have a rule here.
    #[must_use]
    pub fn share(&self) -> Share {
        Share::new(self.num_followed, self.num_scored)
    }
}

impl IfEval {
    /// Whether an answer keeps one constraint of its prompt; `None` where no rule says so.
    ///
    /// `instruction_id` is IFEval's, for example `punctuation:no_comma`.
    #[must_use]
    pub fn check(instruction_id: &str, prompt: &str, answer: &str) -> Option<bool> {
        Some(Rule::of(instruction_id, prompt)?.holds(answer))
    }

    /// Scores answers to IFEval's prompts. The constraints stand in [`Item::subcategory`], joined by `+`; one that
    /// stands there twice counts once.
    ///
    /// # Errors
    /// [`Error::Spec`] when there is not one answer for each item.
    pub fn score<S: AsRef<str>>(items: &[&Item], answers: &[S]) -> Result<IfEvalScore> {
        if items.len() != answers.len() {
            let reason = format!(
                "IFEval: {} answers to {} prompts, expected one for each",
                answers.len(),
                items.len()
            );
            return Err(Error::Spec(reason));
        }
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let (mut num_not_scorable, mut kept_prompts, mut scored_prompts) = (0, 0, 0);
        for (item, answer) in items.iter().zip(answers) {
            let mut verdicts = Vec::new();
            for id in instruction_ids(item) {
                let Some(holds) = Self::check(id, &item.text, answer.as_ref()) else {
                    num_not_scorable += 1;
                    continue;
                };
                let (followed, scored) = counts.entry(id).or_default();
                *followed += usize::from(holds);
                *scored += 1;
                verdicts.push(holds);
            }
            scored_prompts += usize::from(!verdicts.is_empty());
            kept_prompts += usize::from(!verdicts.is_empty() && !verdicts.contains(&false));
        }
        Ok(IfEvalScore {
            num_scored: counts.values().map(|(_, scored)| scored).sum(),
            num_followed: counts.values().map(|(followed, _)| followed).sum(),
            num_not_scorable,
            by_instruction: counts
                .into_iter()
                .map(|(id, (followed, scored))| (id.to_owned(), Share::new(followed, scored)))
                .collect(),
            prompts: Share::new(kept_prompts, scored_prompts),
        })
    }
}

/// The instructions of an item, each once, in the order of their first mention.
fn instruction_ids(item: &Item) -> Vec<&str> {
    let mut ids: Vec<&str> = Vec::new();
    for id in item.subcategory.iter().flat_map(|ids| ids.split('+')).map(str::trim) {
        if !id.is_empty() && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// A constraint with its argument.
#[derive(Debug, Clone, PartialEq)]
enum Rule {
    NoComma,
    Lowercase,
    Capital,
    Json,
    Title,
    Quoted,
    TwoResponses,
    OneOfThreeAnswers,
    Words(Bounds),
    Sentences(Bounds),
    Paragraphs(Bounds),
    Bullets(Bounds),
    Highlights(Bounds),
    Placeholders(Bounds),
    Postscript { double: bool },
    EndsWith(String),
    Letter(char, Bounds),
}

impl Rule {
    /// The rule of an instruction, with what the prompt says of its argument.
    fn of(instruction_id: &str, prompt: &str) -> Option<Self> {
        let read = |units: &[&str], reading| prompt::bounds(prompt, units, &[], reading);
        Some(match instruction_id {
            "punctuation:no_comma" => Self::NoComma,
            "change_case:english_lowercase" => Self::Lowercase,
            "change_case:english_capital" => Self::Capital,
            "detectable_format:json_format" => Self::Json,
            "detectable_format:title" => Self::Title,
            "startend:quotation" => Self::Quoted,
            "combination:two_responses" => Self::TwoResponses,
            "detectable_format:constrained_response" => Self::OneOfThreeAnswers,
            "length_constraints:number_words" => Self::Words(read(&["word"], Reading::Stated)?),
            "length_constraints:number_sentences" => {
                Self::Sentences(read(&["sentence"], Reading::Stated)?)
            }
            // Paragraphs are counted by this divider; a prompt without it means another kind.
            "length_constraints:number_paragraphs" if prompt.contains("***") => {
                Self::Paragraphs(read(&["paragraph"], Reading::Exact)?)
            }
            "detectable_format:number_bullet_lists" => {
                Self::Bullets(read(&["bullet"], Reading::Exact)?)
            }
            "detectable_format:number_highlighted_sections" => {
                let units = ["section", "part", "phrase", "keyword"];
                let about = ["highlight", "italic", "bold"];
                Self::Highlights(prompt::bounds(prompt, &units, &about, Reading::AtLeast)?)
            }
            "detectable_content:number_placeholders" => {
                Self::Placeholders(read(&["placeholder"], Reading::AtLeast)?)
            }
            "detectable_content:postscript" => {
                Self::Postscript { double: prompt::has_double_postscript(prompt)? }
            }
            "keywords:letter_frequency" => {
                let (letter, bounds) = prompt::letter_bounds(prompt)?;
                Self::Letter(letter, bounds)
            }
            "startend:end_checker" => Self::EndsWith(prompt::end_phrase(prompt)?),
            _ => return None,
        })
    }

    fn holds(&self, answer: &str) -> bool {
        match self {
            Self::NoComma => !answer.contains(','),
            Self::Lowercase => rules::is_lower(answer),
            Self::Capital => rules::is_upper(answer),
            Self::Json => rules::is_json(answer),
            Self::Title => rules::has_title(answer),
            Self::Quoted => rules::is_quoted(answer),
            Self::TwoResponses => rules::has_two_responses(answer),
            Self::OneOfThreeAnswers => rules::has_constrained_response(answer),
            Self::Words(bounds) => bounds.hold(words(answer).count()),
            Self::Sentences(bounds) => bounds.hold(rules::num_sentences(answer)),
            Self::Paragraphs(bounds) => {
                rules::num_paragraphs(answer).is_some_and(|number| bounds.hold(number))
            }
            Self::Bullets(bounds) => bounds.hold(rules::num_bullets(answer)),
            Self::Highlights(bounds) => bounds.hold(rules::num_highlights(answer)),
            Self::Placeholders(bounds) => bounds.hold(rules::num_placeholders(answer)),
            Self::Postscript { double } => rules::has_postscript(answer, *double),
            Self::EndsWith(phrase) => rules::ends_with(answer, phrase),
            Self::Letter(letter, bounds) => bounds.hold(rules::num_letters(answer, *letter)),
        }
    }
}

#[cfg(test)]
mod tests;
