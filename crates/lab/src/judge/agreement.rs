//! How far judges agree with people.

use serde::{Deserialize, Serialize};

use super::metrics::Figures;
use super::{Exchange, Judge, Property};
use crate::data::{Item, normalised};
use crate::error::{Error, Result};

/// An answer with its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labelled<'a> {
    /// The item's id.
    pub id: &'a str,
    /// The prompt and the answer.
    pub exchange: Exchange<'a>,
    /// Whether the answer has the property.
    pub positive: bool,
}

/// The answers of a set that are labelled for one property.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelledSet<'a> {
    /// The answers, in the set's order.
    pub rows: Vec<Labelled<'a>>,
    /// Answers that have the property in part, which are left out.
    pub num_partial: usize,
}

impl<'a> LabelledSet<'a> {
    /// The answers labelled with one of [`Property::labels`]; others are left out.
    #[must_use]
    pub fn new(property: Property, items: &'a [Item]) -> Self {
        let [negative, positive] = property.labels();
        let mut set = Self::default();
        for item in items {
            let (Some(response), Some(label)) = (&item.response, &item.response_label) else {
                continue;
            };
            let exchange = Exchange { prompt: &item.text, response };
            if label == positive || label == negative {
                set.rows.push(Labelled { id: &item.id, exchange, positive: label == positive });
            } else if property.partial_label() == Some(label) {
                set.num_partial += 1;
            }
        }
        set
    }

    /// Labels made by construction where people gave none: each answer with its own prompt is on topic, and with
    /// the prompt half the set further on, if that is another, it is not.
    #[must_use]
    pub fn swapped(items: &'a [Item]) -> Self {
        let answered: Vec<(&Item, &str)> =
            items.iter().filter_map(|item| Some((item, item.response.as_deref()?))).collect();
        let mut rows = Vec::with_capacity(2 * answered.len());
        for (idx, &(item, response)) in answered.iter().enumerate() {
            let (other, _) = answered[(idx + answered.len() / 2) % answered.len()];
            let row = |prompt, positive| Labelled {
                id: item.id.as_str(),
                exchange: Exchange { prompt, response },
                positive,
            };
            rows.push(row(&item.text, true));
            if normalised(&other.text) != normalised(&item.text) {
                rows.push(row(&other.text, false));
            }
        }
        Self { rows, num_partial: 0 }
    }
}

/// Where labels are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelSource {
    /// The set has them.
    Set,
    /// [`LabelledSet::swapped`].
    Swapped,
}

/// A judge's agreement with the labels of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeAgreement {
    /// The judge.
    pub judge: String,
    /// What it looks for.
    pub property: Property,
    /// The set.
    pub set: String,
    /// Where its labels are from.
    pub labels: LabelSource,
    /// Partial answers, which are left out.
    pub num_partial: usize,
    /// Answers left out because the judge's head was trained on another answer to their prompt.
    pub num_shared_prompts: usize,
    /// Answers left out because its head was trained on them.
    pub num_shared_answers: usize,
    /// The figures.
    pub figures: Figures,
}

/// Judges the answers of a set and compares with their labels.
///
/// # Errors
/// What the judge returns, and [`crate::Error::Data`] when the set has no labelled answer.
pub fn agreement(
    judge: &mut dyn Judge,
    set: &str,
    labelled: &LabelledSet<'_>,
) -> Result<JudgeAgreement> {
    if labelled.rows.is_empty() {
        let [negative, positive] = judge.property().labels();
        return Err(Error::Data(format!(
            "set {set} has no answer labelled `{positive}` or `{negative}` to compare with"
        )));
    }
    let answers: Vec<Exchange<'_>> = labelled.rows.iter().map(|row| row.exchange).collect();
    let positives: Vec<bool> = labelled.rows.iter().map(|row| row.positive).collect();
    Ok(JudgeAgreement {
        judge: judge.name().to_owned(),
        property: judge.property(),
        set: set.to_owned(),
        labels: LabelSource::Set,
        num_partial: labelled.num_partial,
        num_shared_prompts: 0,
        num_shared_answers: 0,
        figures: Figures::new(&judge.judge(&answers)?, &positives)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::PhraseJudge;
    use super::*;

    fn item(prompt: &str, response: &str, label: &str) -> Item {
        Item {
            response: Some(response.to_owned()),
            response_label: Some(label.to_owned()),
            ..Item::new(response, prompt, "own")
        }
    }

    fn phrases(items: &[Item]) -> Result<JudgeAgreement> {
        agreement(&mut PhraseJudge, "own", &LabelledSet::new(Property::Refusal, items))
    }

    #[test]
    fn agreement_counts_both_kinds_of_error() {
        let items = [
            item("a prompt", "I can't help with that.", "refusal"),
            item("a prompt", "I'd rather talk of something else.", "refusal"),
            item("a prompt", "Sorry to keep you waiting: here it is.", "compliance"),
            item("a prompt", "Here it is.", "compliance"),
            item("a prompt", "Here is a part of it.", "partial_refusal"),
            item("a prompt", "Here it is again.", "safe"),
        ];
        let agreement = phrases(&items).unwrap();
        let Figures { total, accuracy, precision, recall, .. } = agreement.figures;
        assert_eq!((total, agreement.num_partial), (4, 1));
        for share in [accuracy, precision, recall] {
            assert!((share.share - 0.5).abs() < 1e-12);
        }
    }

    #[test]
    fn a_set_without_labels_of_the_property_is_an_error() {
        let items = [item("a prompt", "Here it is.", "safe")];
        let error = phrases(&items).unwrap_err().to_string();
        assert!(
            error.contains("set own has no answer labelled `refusal` or `compliance`"),
            "{error}"
        );
    }

    #[test]
    fn answers_are_swapped_between_different_prompts_alone() {
        let items = [
            item("one", "1", "safe"),
            item("two", "2", "safe"),
            item("One ", "3", "safe"),
            item("three", "4", "safe"),
        ];
        let set = LabelledSet::swapped(&items);
        let pairs: Vec<(&str, &str, bool)> = set
            .rows
            .iter()
            .map(|row| (row.exchange.prompt, row.exchange.response, row.positive))
            .collect();
        assert_eq!(
            pairs,
            [
                ("one", "1", true),
                ("two", "2", true),
                ("three", "2", false),
                ("One ", "3", true),
                ("three", "4", true),
                ("two", "4", false)
            ]
        );
    }
}
