//! The table of judges: agreement with labels, what heads were trained on, what was left out. Figures, never texts.

use std::fmt::Write as _;

use serde::Serialize;

use super::agreement::{JudgeAgreement, LabelSource};
use super::head::{LinearHead, TrainingSet};
use super::learned::name_of;
use super::metrics::{Estimate, Figures};
use crate::evaluate::Share;
use crate::table::{align, markdown};

/// What a head of the table was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainedHead {
    /// The judge's name.
    pub judge: String,
    /// The sets, without the hashes of their rows.
    pub trained_on: Vec<TrainingSet>,
    /// Folds of leave-prompts-out, where it was asked for.
    pub num_folds: Option<usize>,
    /// Whether it was trained before this run.
    pub is_given: bool,
    /// Whether it is known which rows it was trained on. If not, only a test set that is a training file as a whole is left
    /// out.
    pub knows_rows: bool,
}

impl TrainedHead {
    pub(super) fn new(head: &LinearHead, num_folds: Option<usize>, is_given: bool) -> Self {
        Self {
            judge: name_of(head.features).to_owned(),
            trained_on: head.trained_on.iter().map(TrainingSet::for_report).collect(),
            num_folds,
            is_given,
            knows_rows: head.trained_on.iter().all(|set| set.rows.is_some()),
        }
    }
}

/// What a judge marks in a set without labels for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flagged {
    /// The judge.
    pub judge: String,
    /// The set.
    pub set: String,
    /// Answers it marks.
    pub share: Share,
}

/// The result of [`super::measure_judges`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JudgesReport {
    /// One row a judge and set.
    pub rows: Vec<JudgeAgreement>,
    /// The heads among the judges.
    pub heads: Vec<TrainedHead>,
    /// Judges on sets that have no labels for them.
    pub flagged: Vec<Flagged>,
    /// Judge and set where every prompt of the set was in training.
    pub without_rows: Vec<(String, String)>,
}

const HEADER: [&str; 10] =
    ["judge", "set", "n", "positive", "accuracy", "precision", "recall", "F1", "kappa", "AUC"];

impl JudgesReport {
    /// The table for a terminal, with what must be known to read it.
    #[must_use]
    pub fn to_plain(&self) -> String {
        format!("{}\n{}", align(&table(&self.rows)), self.notes().join("\n"))
    }

    /// The table as Markdown, with the same notes as a list.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let notes: Vec<String> = self.notes().iter().map(|note| format!("- {note}")).collect();
        format!("{}\n{}", markdown(&table(&self.rows)), notes.join("\n"))
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.heads.iter().map(head_note).collect();
        notes.extend(self.rows.iter().filter_map(left_out_note));
        notes.extend(self.without_rows.iter().map(|(judge, set)| {
            format!(
                "{judge} on {set}: no row, since every prompt of the set was in training; train with folds"
            )
        }));
        notes.extend(self.flagged.iter().map(|flagged| {
            let Share { count, total, .. } = flagged.share;
            format!(
                "{} on {}: no labels; it marks {count} of {total} answers, {}",
                flagged.judge, flagged.set, flagged.share
            )
        }));
        if self.rows.iter().any(|row| row.labels == LabelSource::Swapped) {
            notes.push(
                "Swapped: labels by construction, not by people; each answer with its own prompt and with another."
                    .to_owned(),
            );
        }
        notes.push(
            "Intervals of 95 %: Wilson for shares, DeLong for AUC, bootstrap for F1 and kappa; answers to one prompt \
             count as independent."
                .to_owned(),
        );
        notes
    }
}

/// A header and one row a judge and set.
pub(crate) fn table<'a>(rows: impl IntoIterator<Item = &'a JudgeAgreement>) -> Vec<Vec<String>> {
    let header = HEADER.map(str::to_owned).to_vec();
    std::iter::once(header).chain(rows.into_iter().map(row)).collect()
}

fn row(row: &JudgeAgreement) -> Vec<String> {
    let Figures { total, num_positive, accuracy, precision, recall, f1, kappa, auc } = row.figures;
    let set = match row.labels {
        LabelSource::Set => row.set.clone(),
        LabelSource::Swapped => format!("{}, swapped", row.set),
    };
    let optional =
        |figure: Option<Estimate>| figure.map_or_else(|| "-".to_owned(), |some| some.to_string());
    vec![
        row.judge.clone(),
        set,
        total.to_string(),
        num_positive.to_string(),
        accuracy.to_string(),
        precision.to_string(),
        recall.to_string(),
        optional(f1),
        optional(kappa),
        optional(auc),
    ]
}

fn head_note(head: &TrainedHead) -> String {
    let sets =
        head.trained_on.iter().map(|set| format!("{} ({} answers)", set.name, set.num_answers));
    let sets: Vec<String> = sets.collect();
    let folds = head.num_folds.map_or_else(String::new, |num_folds| {
        format!("; prompts of these sets are judged by heads that were trained without them, {num_folds} folds")
    });
    let given = match (head.is_given, head.knows_rows) {
        (true, true) => "; before this run, and test prompts that it was trained on are left out",
        (true, false) => {
            "; before this run, so test prompts that it was trained on are not left out, and flatter it"
        }
        (false, _) => "",
    };
    format!("{}: trained on {}{folds}{given}", head.judge, sets.join(", "))
}

fn left_out_note(row: &JudgeAgreement) -> Option<String> {
    let counts = [
        (row.num_partial, "partial by their label"),
        (row.num_shared_prompts, "with a prompt of the training data"),
        (row.num_shared_answers, "that are in the training data"),
    ];
    let mut parts = String::new();
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        let separator = if parts.is_empty() { "" } else { ", " };
        let _written = write!(parts, "{separator}{count} {what}");
    }
    (!parts.is_empty()).then(|| format!("{} on {}: left out {parts}", row.judge, row.set))
}

#[cfg(test)]
mod tests {
    use super::super::{Property, Verdict};
    use super::*;

    fn report() -> JudgesReport {
        let verdicts = [0.9, 0.4, 0.2].map(|score| Verdict { score, positive: score > 0.5 });
        let row = JudgeAgreement {
            judge: "refusal head".to_owned(),
            property: Property::Refusal,
            set: "own".to_owned(),
            labels: LabelSource::Set,
            num_partial: 2,
            num_shared_prompts: 7,
            num_shared_answers: 0,
            figures: Figures::new(&verdicts, &[true, true, false]).unwrap(),
        };
        let swapped = JudgeAgreement {
            labels: LabelSource::Swapped,
            num_partial: 0,
            num_shared_prompts: 0,
            ..row.clone()
        };
        let set = TrainingSet {
            name: "other".to_owned(),
            sha256: String::new(),
            num_answers: 9,
            rows: None,
        };
        JudgesReport {
            rows: vec![row, swapped],
            heads: vec![TrainedHead {
                judge: "refusal head".to_owned(),
                trained_on: vec![set],
                num_folds: Some(5),
                is_given: false,
                knows_rows: true,
            }],
            flagged: vec![Flagged {
                judge: "repetition measure".to_owned(),
                set: "own".to_owned(),
                share: Share::new(1, 4),
            }],
            without_rows: Vec::new(),
        }
    }

    #[test]
    fn the_table_has_a_row_a_judge_and_set_and_says_what_was_left_out() {
        let plain = report().to_plain();
        assert!(plain.contains("judge         set           n  positive  accuracy"), "{plain}");
        assert!(
            plain.contains("refusal head  own           3  2         0.67 [0.21, 0.94]"),
            "{plain}"
        );
        for note in [
            "refusal head: trained on other (9 answers); prompts of these sets are judged by heads that were trained \
             without them, 5 folds",
            "refusal head on own: left out 2 partial by their label, 7 with a prompt of the training data",
            "repetition measure on own: no labels; it marks 1 of 4 answers, 0.25 [0.05, 0.70]",
            "Swapped: labels by construction, not by people",
        ] {
            assert!(plain.contains(note), "{plain}");
        }
        let markdown = report().to_markdown();
        assert!(
            markdown.contains("| refusal head | own, swapped | 3 | 2 | 0.67 [0.21, 0.94] |"),
            "{markdown}"
        );
        assert!(markdown.contains("- refusal head: trained on other"), "{markdown}");
    }

    #[test]
    fn a_given_head_says_whether_what_it_was_trained_on_is_left_out() {
        let mut report = report();
        report.heads[0] =
            TrainedHead { num_folds: None, is_given: true, ..report.heads[0].clone() };
        let note = "trained on other (9 answers); before this run, and test prompts that it was trained on are left out";
        assert!(report.to_plain().contains(note), "{}", report.to_plain());
        report.heads[0].knows_rows = false;
        let plain = report.to_plain();
        assert!(plain.contains("are not left out, and flatter it") && !plain.contains(note));
    }

    #[test]
    fn the_json_form_has_the_figures() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["rows"][0]["figures"]["accuracy"]["count"], 2);
        assert_eq!(json["rows"][0]["property"], "refusal");
        assert_eq!(json["heads"][0]["trained_on"][0]["num_answers"], 9);
    }
}
