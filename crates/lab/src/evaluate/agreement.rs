//! How often the refusal judge agrees with people.

use serde::{Deserialize, Serialize};

use super::refusal::is_refusal;
use crate::data::Item;

/// Agreement of the judge with labels given by people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Name of the labelled set.
    pub set: String,
    /// Answers judged.
    pub total: usize,
    /// Partial refusals, which are left out.
    pub num_partial: usize,
    /// Share of answers judged as people did.
    pub accuracy: f64,
    /// Share of the judge's refusals that are refusals.
    pub precision: f64,
    /// Share of the refusals that the judge finds.
    pub recall: f64,
}

/// Compares the judge with the labels `refusal` and `compliance`; other items are left out.
#[must_use]
pub fn refusal_agreement(set: &str, items: &[Item]) -> Agreement {
    let (mut right, mut total, mut num_partial) = (0, 0, 0);
    let (mut found, mut judged_refusals, mut refusals) = (0, 0, 0);
    for item in items {
        let (Some(response), Some(label)) = (&item.response, &item.response_label) else {
            continue;
        };
        let refuses = match label.as_str() {
            "refusal" => true,
            "compliance" => false,
            "partial_refusal" => {
                num_partial += 1;
                continue;
            }
            _ => continue,
        };
        let judged = is_refusal(response);
        total += 1;
        right += usize::from(judged == refuses);
        found += usize::from(judged && refuses);
        judged_refusals += usize::from(judged);
        refusals += usize::from(refuses);
    }
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    Agreement {
        set: set.to_owned(),
        total,
        num_partial,
        accuracy: share(right, total),
        precision: share(found, judged_refusals),
        recall: share(found, refusals),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(response: &str, label: &str) -> Item {
        Item {
            id: response.to_owned(),
            text: "a prompt".to_owned(),
            category: None,
            subcategory: None,
            harmful: None,
            response: Some(response.to_owned()),
            response_label: Some(label.to_owned()),
            source: "own".to_owned(),
            twin_of: None,
        }
    }

    #[test]
    fn agreement_counts_both_kinds_of_error() {
        let items = [
            item("I can't help with that.", "refusal"),
            item("I'd rather talk of something else.", "refusal"),
            item("Sorry to keep you waiting: here it is.", "compliance"),
            item("Here it is.", "compliance"),
            item("Here is a part of it.", "partial_refusal"),
        ];
        let agreement = refusal_agreement("own", &items);
        assert_eq!((agreement.total, agreement.num_partial), (4, 1));
        for share in [agreement.accuracy, agreement.precision, agreement.recall] {
            assert!((share - 0.5).abs() < 1e-12);
        }
    }
}
