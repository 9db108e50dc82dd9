//! A probe's figures on sets that it was not trained on, and their tables.

use serde::Serialize;
use skeg_vector_store::Category;

use super::calibration::Calibration;
use super::categories::CategoryReport;
use super::operating::{FALSE_ALARM_LIMITS, Operating, OperatingPoint, RECALL_WANTED};
use super::{ALARM_THRESHOLD, is_alarm};
use crate::error::{Error, Result};
use crate::evaluate::Share;
use crate::probe::{Corpus, Verdict};
use crate::table::{align, markdown, share_cell};

/// What a set's harmless prompts are told from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The harmful prompts of all sets that have harmful ones only.
    Pooled,
    /// The set's own harmful prompts, which are of its style.
    Own,
}

/// A set's harmless prompts against harmful ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetOperating {
    /// The set of the harmless prompts.
    pub set: String,
    /// Where the harmful ones are from.
    pub against: Against,
    /// The figures.
    pub operating: Operating,
}

/// What a probe knows, in figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeReport {
    /// Sets that the pooled harmful prompts are from.
    pub pooled: Vec<String>,
    /// Each set with harmless prompts, in the corpus's order: against the pooled harmful prompts where there are any, then
    /// against its own where it has any.
    pub sets: Vec<SetOperating>,
    /// Over all prompts.
    pub calibration: Calibration,
    /// Probability of harm from which `categories` counts a prompt as an alarm.
    pub threshold: f64,
    /// Over the harmless prompts and those whose category is known; `None` of a corpus without categories.
    pub categories: Option<CategoryReport>,
    /// Harmful prompts that `categories` leaves out, since their set does not say a known category.
    pub num_without_category: usize,
}

impl ProbeReport {
    /// The report of a corpus and a verdict for each of its prompts.
    ///
    /// # Errors
    /// [`Error::Data`] when there are not as many verdicts as prompts, for a harm outside 0 to 1, and for an alarm with no
    /// category of the corpus's.
    pub fn new(corpus: &Corpus, verdicts: &[Verdict]) -> Result<Self> {
        corpus.check_verdicts(verdicts)?;
        let scores: Vec<f64> = verdicts.iter().map(|verdict| f64::from(verdict.harm)).collect();
        let harmful: Vec<bool> = corpus.prompts.iter().map(|prompt| prompt.harmful).collect();
        let calibration = Calibration::new(&scores, &harmful)?;
        let pooled: Vec<usize> =
            (0..corpus.sets.len()).filter(|&idx| matches!(corpus.counts(idx), [_, 0])).collect();
        let categories = if corpus.categories.is_empty() {
            None
        } else {
            Some(CategoryReport::new(&corpus.categories, &pairs(corpus, verdicts)?)?)
        };
        let is_nameless =
            |prompt: &&crate::probe::Prompt| prompt.harmful && prompt.category_idx.is_none();
        Ok(Self {
            sets: set_rows(corpus, &scores, &pooled)?,
            pooled: pooled.iter().map(|&idx| corpus.sets[idx].0.clone()).collect(),
            calibration,
            threshold: ALARM_THRESHOLD,
            categories,
            num_without_category: corpus.prompts.iter().filter(is_nameless).count(),
        })
    }

    /// Aligned text.
    #[must_use]
    pub fn to_plain(&self) -> String {
        let text = |section: &Section| format!("{}\n{}", section.title, align(&section.cells));
        self.sections().iter().map(text).collect::<Vec<_>>().join("\n")
    }

    /// Markdown tables, each below a heading of the second level.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let text =
            |section: &Section| format!("## {}\n\n{}", section.title, markdown(&section.cells));
        self.sections().iter().map(text).collect::<Vec<_>>().join("\n")
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        if !self.sets.is_empty() {
            sections.push(self.operating_section());
        }
        sections.extend(self.calibration_sections());
        if let Some(report) = &self.categories {
            sections.extend(self.category_sections(report));
        }
        sections
    }

    fn operating_section(&self) -> Section {
        let mut header = words(["harmless prompts of", "against", "harmless", "harmful", "AUC"]);
        header.extend(
            FALSE_ALARM_LIMITS.map(|limit| format!("recall at {} % false alarms", limit * 100.0)),
        );
        header.push(format!("false alarms at {} % recall", RECALL_WANTED * 100.0));
        let row = |set: &SetOperating| {
            let Operating { num_harmful, num_harmless, auc, at_limits, at_recall, .. } =
                &set.operating;
            let against = match set.against {
                Against::Pooled => self.pooled.join(" + "),
                Against::Own => "its own".to_owned(),
            };
            let mut cells =
                vec![set.set.clone(), against, num_harmless.to_string(), num_harmful.to_string()];
            cells.push(auc.map_or_else(dash, |auc| auc.to_string()));
            cells.extend(at_limits.iter().map(|point| point.recall.to_string()));
            let finely = |OperatingPoint { false_alarms, .. }: &OperatingPoint| {
                let Share { share, low, high, .. } = false_alarms;
                format!("{share:.3} [{low:.3}, {high:.3}]")
            };
            cells.push(at_recall.as_ref().map_or_else(dash, finely));
            cells
        };
        let cells = std::iter::once(header).chain(self.sets.iter().map(row)).collect();
        Section { title: "Recall and false alarms".to_owned(), cells }
    }

    fn calibration_sections(&self) -> [Section; 2] {
        let Calibration { total, expected_error, brier, bins } = &self.calibration;
        let number = |value: &Option<f64>| value.map_or_else(dash, |value| format!("{value:.3}"));
        let header = words(["prompts", "expected calibration error", "Brier score"]);
        let figures = vec![total.to_string(), number(expected_error), number(brier)];
        let mut rows =
            vec![words(["probability of harm", "prompts", "mean probability", "harmful"])];
        rows.extend(bins.iter().map(|bin| {
            vec![
                format!("{:.1} to {:.1}", bin.low, bin.high),
                bin.harmful.total.to_string(),
                number(&bin.mean_harm),
                share_cell(&bin.harmful),
            ]
        }));
        [
            Section { title: "Calibration".to_owned(), cells: vec![header, figures] },
            Section { title: "Calibration by probability".to_owned(), cells: rows },
        ]
    }

    fn category_sections(&self, report: &CategoryReport) -> [Section; 2] {
        let number = |value: Option<f64>| value.map_or_else(dash, |value| format!("{value:.2}"));
        let mut rows = vec![words(["category", "prompts", "precision", "recall", "F1"])];
        rows.extend(report.categories.iter().map(|one| {
            vec![
                one.category.to_string(),
                one.recall.total.to_string(),
                share_cell(&one.precision),
                share_cell(&one.recall),
                number(one.f1),
            ]
        }));
        let num_prompts: usize = report.categories.iter().map(|one| one.recall.total).sum();
        rows.push(vec![
            "mean F1".to_owned(),
            num_prompts.to_string(),
            dash(),
            dash(),
            number(report.macro_f1),
        ]);
        if self.num_without_category > 0 {
            let num = self.num_without_category.to_string();
            rows.push(vec!["category not known".to_owned(), num, dash(), dash(), dash()]);
        }
        let mut header = vec!["true \\ predicted".to_owned()];
        header.extend(report.categories.iter().map(|one| one.category.to_string()));
        header.push(NO_ALARM.to_owned());
        let row = |row: &super::ConfusionRow| {
            let counts = row.predicted.iter().chain([&row.none]).map(usize::to_string);
            std::iter::once(row_name(row.category.as_ref())).chain(counts).collect()
        };
        let confusion = std::iter::once(header).chain(report.confusion.iter().map(row)).collect();
        let at = format!("alarms from a probability of {}", self.threshold);
        [
            Section { title: format!("Categories, {at}"), cells: rows },
            Section { title: format!("Confusions, {at}"), cells: confusion },
        ]
    }
}

/// The column of prompts that do not alarm.
pub(super) const NO_ALARM: &str = "none";

/// What a row of the confusion matrix is called.
pub(super) fn row_name(category: Option<&Category>) -> String {
    category.map_or_else(|| "harmless".to_owned(), Category::to_string)
}

/// A table below its heading; the first row is its header.
struct Section {
    title: String,
    cells: Vec<Vec<String>>,
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn dash() -> String {
    "-".to_owned()
}

/// The rows of the sets that have harmless prompts.
fn set_rows(corpus: &Corpus, scores: &[f64], pooled: &[usize]) -> Result<Vec<SetOperating>> {
    let of = |wanted: bool, is_in: &dyn Fn(usize) -> bool| -> Vec<f64> {
        let pairs = corpus.prompts.iter().zip(scores);
        pairs
            .filter(|(prompt, _)| prompt.harmful == wanted && is_in(prompt.set_idx))
            .map(|(_, &score)| score)
            .collect()
    };
    let pool = of(true, &|idx| pooled.contains(&idx));
    let mut rows = Vec::new();
    for (set_idx, (set, _)) in corpus.sets.iter().enumerate() {
        let [own, harmless] = [true, false].map(|harmful| of(harmful, &|idx| idx == set_idx));
        if harmless.is_empty() {
            continue;
        }
        for (against, harmful) in [(Against::Pooled, &pool), (Against::Own, &own)] {
            if !harmful.is_empty() {
                let operating = Operating::new(harmful, &harmless)?;
                rows.push(SetOperating { set: set.clone(), against, operating });
            }
        }
    }
    Ok(rows)
}

/// True and predicted category of the prompts that are harmless or of a known category.
fn pairs(corpus: &Corpus, verdicts: &[Verdict]) -> Result<Vec<(Option<usize>, Option<usize>)>> {
    let known = corpus.prompts.iter().zip(verdicts);
    known
        .filter(|(prompt, _)| !prompt.harmful || prompt.category_idx.is_some())
        .map(|(prompt, verdict)| {
            if !is_alarm(verdict) {
                return Ok((prompt.category_idx, None));
            }
            let first = verdict.first();
            let idx = first.and_then(|first| corpus.categories.iter().position(|one| one == first));
            if idx.is_none() {
                return Err(Error::Data(format!(
                    "prompt `{}` alarms as `{}`; expected one of the corpus's {} categories: make the corpus with the probe's",
                    prompt.id,
                    first.map_or("nothing", Category::as_str),
                    corpus.categories.len()
                )));
            }
            Ok((prompt.category_idx, idx))
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests;
