//! The result of an evaluation and its tables: figures, never texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use skeg_model::steering::{Operator, Positions, Site};
use skeg_vector_store::Category;

use super::controls::Condition;
use super::tally::Tally;
use crate::judge::Agreement;
use crate::table::{align, markdown};

/// One condition's counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionReport {
    /// The condition.
    pub condition: Condition,
    /// Over all categories.
    pub total: Tally,
    /// By the prompts' category.
    pub by_category: BTreeMap<Category, Tally>,
    /// Largest `||strength * v|| / ||h||` at the hook, where it is measured.
    pub max_relative_norm: Option<f32>,
}

/// The result of [`super::evaluate_quick`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuickReport {
    /// Prompts asked under each condition.
    pub num_prompts: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Where vectors were applied.
    pub site: Site,
    /// How.
    pub operator: Operator,
    /// On which tokens.
    pub positions: Positions,
    /// In which layers.
    pub layers: Vec<usize>,
    /// With which strength.
    pub strengths: BTreeMap<Category, f32>,
    /// Seed of the random control.
    pub seed: u64,
    /// The counts.
    pub conditions: Vec<ConditionReport>,
    /// The refusal judge's agreement with people.
    pub judge: Vec<Agreement>,
}

/// What every table says below itself.
const NOTES: &str = "A degenerate answer is never counted as a refusal. Intervals: Wilson, 95 %.";

impl QuickReport {
    /// The report of one condition.
    #[must_use]
    pub fn condition(&self, condition: Condition) -> Option<&ConditionReport> {
        self.conditions.iter().find(|report| report.condition == condition)
    }

    /// The table in plain text for a terminal: totals, then refusal shares by category.
    #[must_use]
    pub fn to_plain(&self) -> String {
        let mut rows = vec![totals_header()];
        rows.extend(self.conditions.iter().map(totals_row));
        let mut text = align(&rows);
        text.push('\n');
        text.push_str(&align(&self.category_rows()));
        let _written = writeln!(text, "\n{NOTES}\n{}", self.judge_line());
        text
    }

    /// The tables as Markdown, as they stand in a generation's `CARD.md`.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut rows = vec![totals_header()];
        rows.extend(self.conditions.iter().map(totals_row));
        format!(
            "{} prompts, greedy, at most {} new tokens; seed of the random control {}.\n\n{}\n\
             Refuses (degenerate) by category of the prompt, out of its prompts:\n\n{}\n{NOTES} {}\n",
            self.num_prompts,
            self.max_new_tokens,
            self.seed,
            markdown(&rows),
            markdown(&self.category_rows()),
            self.judge_line()
        )
    }

    /// Refusals and degenerate texts by category, one column a condition.
    fn category_rows(&self) -> Vec<Vec<String>> {
        let mut header = vec!["category".to_owned(), "prompts".to_owned()];
        header.extend(self.conditions.iter().map(|report| report.condition.to_string()));
        let mut rows = vec![header];
        let Some(first) = self.conditions.first() else { return rows };
        for (category, tally) in &first.by_category {
            let mut row = vec![category.to_string(), tally.total.to_string()];
            row.extend(self.conditions.iter().map(|report| {
                let tally = report.by_category.get(category).copied().unwrap_or_default();
                format!("{} ({})", tally.refused, tally.degenerate)
            }));
            rows.push(row);
        }
        rows
    }

    fn judge_line(&self) -> String {
        if self.judge.is_empty() {
            return "Judge: refusal phrases; its agreement with people was not measured in this run."
                .to_owned();
        }
        let sets: Vec<String> = self
            .judge
            .iter()
            .map(|agreement| {
                format!(
                    "{} ({} answers): accuracy {:.2}, precision {:.2}, recall {:.2}",
                    agreement.set,
                    agreement.total,
                    agreement.accuracy,
                    agreement.precision,
                    agreement.recall
                )
            })
            .collect();
        format!("Judge: refusal phrases; agreement with people on {}.", sets.join("; "))
    }
}

fn totals_header() -> Vec<String> {
    ["condition", "refuses", "degenerate", "max relative norm"].map(str::to_owned).to_vec()
}

fn totals_row(report: &ConditionReport) -> Vec<String> {
    vec![
        report.condition.to_string(),
        report.total.refused_share().to_string(),
        report.total.degenerate_share().to_string(),
        report.max_relative_norm.map_or_else(|| "-".to_owned(), |norm| format!("{norm:.2}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> QuickReport {
        let category: Category = "adult_content".parse().unwrap();
        let conditions = [(Condition::Unsteered, 0, 0, None), (Condition::Own, 9, 1, Some(0.31))]
            .map(|(condition, refused, degenerate, max_relative_norm)| {
                let tally = Tally { total: 10, refused, degenerate };
                ConditionReport {
                    condition,
                    total: tally,
                    by_category: BTreeMap::from([(category.clone(), tally)]),
                    max_relative_norm,
                }
            });
        QuickReport {
            num_prompts: 10,
            max_new_tokens: 40,
            site: Site::AttnOut,
            operator: Operator::Add,
            positions: Positions::All,
            layers: vec![8, 9],
            strengths: BTreeMap::from([(category, 0.7)]),
            seed: 1,
            conditions: conditions.to_vec(),
            judge: Vec::new(),
        }
    }

    #[test]
    fn the_plain_table_is_aligned() {
        let expected = "\
condition     refuses            degenerate         max relative norm
unsteered     0.00 [0.00, 0.28]  0.00 [0.00, 0.28]  -
own category  0.90 [0.60, 0.98]  0.10 [0.02, 0.40]  0.31

category       prompts  unsteered  own category
adult_content  10       0 (0)      9 (1)
";
        let plain = report().to_plain();
        assert!(plain.starts_with(expected), "{plain}");
        assert!(plain.contains("agreement with people was not measured"));
    }

    #[test]
    fn the_markdown_table_has_a_row_a_condition() {
        let markdown = report().to_markdown();
        assert!(markdown.contains("|---|---|---|---|\n| unsteered | 0.00 [0.00, 0.28] |"));
        assert!(
            markdown.contains("| own category | 0.90 [0.60, 0.98] | 0.10 [0.02, 0.40] | 0.31 |")
        );
        assert!(markdown.contains("| adult_content | 10 | 0 (0) | 9 (1) |"));
    }

    #[test]
    fn the_json_form_has_the_counts() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["conditions"][1]["by_category"]["adult_content"]["refused"], 9);
        assert_eq!(json["conditions"][1]["condition"], "own");
    }
}
