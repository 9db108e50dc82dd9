//! A study's tables.

use skeg_vector_store::Category;

use super::arms::ArmKind;
use super::figures::{ArmFigures, SetFigures, StudyFigures};
use crate::evaluate::Share;
use crate::experiment::Counts;

/// A table: rows of cells, the first the header.
pub(super) type Rows = Vec<Vec<String>>;

fn percent(share: Share) -> String {
    format!("{:.0} [{:.0}, {:.0}]", share.share * 100.0, share.low * 100.0, share.high * 100.0)
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// Names of the shares of a set.
fn outcomes_of(set: &str) -> [String; 3] {
    ["%UR", "refused", "degenerate"].map(|outcome| format!("{outcome} {set}"))
}

fn outcome_cells(set: &SetFigures) -> [String; 3] {
    [set.total.unsafe_share(), set.total.refused_share(), set.total.degenerate_share()].map(percent)
}

/// A kind in words.
fn kind(kind: ArmKind) -> &'static str {
    match kind {
        ArmKind::Naive => "naive",
        ArmKind::PaperSetting => "paper's setting",
        ArmKind::Tuned => "tuned",
        ArmKind::Chosen => "calibrated",
        ArmKind::Improved => "improved",
        ArmKind::Control => "control",
        ArmKind::Baseline => "baseline",
    }
}

impl StudyFigures {
    /// The paper's table and what stands beside it, on the first set: one row an arm, per cent.
    pub(super) fn main_rows(&self) -> Rows {
        let harmless = self.arms.first().map(|arm| &arm.harmless);
        let mut header = ["vectors", "row", "setting"].map(str::to_owned).to_vec();
        header.extend(self.sets.first().into_iter().flat_map(|name| outcomes_of(name)));
        header.extend(
            harmless.into_iter().flat_map(|sets| sets.keys()).map(|name| format!("refused {name}")),
        );
        header.push("NLL".to_owned());
        if self.has_second_nll() {
            header.push("NLL, second model".to_owned());
        }
        header.extend(["constraints followed", "perplexity"].map(str::to_owned));
        if self.has_reward() {
            header.extend(["helpfulness", "coherence"].map(str::to_owned));
        }
        let rows = self.arms.iter().map(|arm| self.main_row(arm));
        std::iter::once(header).chain(rows).collect()
    }

    /// What became of the other sets of harmful prompts; a header alone where there is none.
    pub(super) fn other_rows(&self) -> Rows {
        let others = || self.sets.iter().skip(1);
        let mut header = ["vectors", "row"].map(str::to_owned).to_vec();
        header.extend(others().flat_map(|name| outcomes_of(name)));
        let rows = self.arms.iter().map(|arm| {
            let mut row = vec![arm.name.clone(), kind(arm.kind).to_owned()];
            row.extend(others().filter_map(|name| arm.harmful.get(name)).flat_map(outcome_cells));
            row
        });
        std::iter::once(header).chain(rows).collect()
    }

    fn has_reward(&self) -> bool {
        self.any_total(|total| total.reward.is_some())
    }

    fn has_second_nll(&self) -> bool {
        self.any_total(|total| total.second_nll.is_some())
    }

    fn any_total(&self, is: fn(&Counts) -> bool) -> bool {
        self.arms.iter().any(|arm| arm.harmful.values().any(|set| is(&set.total)))
    }

    fn main_row(&self, arm: &ArmFigures) -> Vec<String> {
        let mut row = vec![arm.name.clone(), kind(arm.kind).to_owned(), arm.setting.clone()];
        let first = self.sets.first().and_then(|name| arm.harmful.get(name));
        row.extend(first.into_iter().flat_map(outcome_cells));
        row.extend(arm.harmless.values().map(|counts| percent(counts.refused_share())));
        let nll = first.and_then(|set| set.total.nll);
        row.push(or_dash(nll.map(|nll| format!("{nll:.2}"))));
        if self.has_second_nll() {
            let nll = first.and_then(|set| set.total.second_nll);
            row.push(or_dash(nll.map(|nll| format!("{nll:.2}"))));
        }
        row.push(or_dash(arm.constraints.map(|followed| percent(followed.share()))));
        row.push(or_dash(arm.perplexity.map(|perplexity| format!("{perplexity:.1}"))));
        if self.has_reward() {
            let reward = first.and_then(|set| set.total.reward);
            row.push(or_dash(reward.map(|one| format!("{:.2}", one.helpfulness))));
            row.push(or_dash(reward.map(|one| format!("{:.2}", one.coherence))));
        }
        row
    }

    /// %UR minus the naive arm's, with intervals.
    pub(super) fn difference_rows(&self) -> Rows {
        let mut header = vec!["vectors".to_owned(), "row".to_owned()];
        header.extend(self.sets.iter().cloned());
        let rows = self.arms.iter().filter(|arm| arm.kind != ArmKind::Naive).map(|arm| {
            let mut row = vec![arm.name.clone(), kind(arm.kind).to_owned()];
            row.extend(self.sets.iter().filter_map(|name| arm.harmful.get(name)).map(|set| {
                or_dash(set.against_naive.map(|one| {
                    format!(
                        "{:.0} [{:.0}, {:.0}]",
                        one.value * 100.0,
                        one.low * 100.0,
                        one.high * 100.0
                    )
                }))
            }));
            row
        });
        std::iter::once(header).chain(rows).collect()
    }

    /// The categories of a set.
    pub(super) fn categories_of(&self, set: &str) -> Vec<Category> {
        let naive = self.arms.first().and_then(|arm| arm.harmful.get(set));
        naive.map(|set| set.by_category.keys().cloned().collect()).unwrap_or_default()
    }

    /// The arms that a table by category shows: naive, the tuned rows of the paper, calibrated, and the baseline.
    pub(super) fn main_arms(&self) -> Vec<&ArmFigures> {
        let is_main = |arm: &&ArmFigures| {
            matches!(
                arm.kind,
                ArmKind::Naive | ArmKind::Tuned | ArmKind::Chosen | ArmKind::Baseline
            )
        };
        self.arms.iter().filter(is_main).collect()
    }

    /// %UR by category of one set: unsafe out of prompts, and degenerate ones where there are any.
    pub(super) fn category_rows(&self, set: &str) -> Rows {
        let arms = self.main_arms();
        let mut header = vec!["category".to_owned(), "prompts".to_owned()];
        header.extend(arms.iter().map(|arm| arm.name.clone()));
        let rows = self.categories_of(set).into_iter().map(|category| {
            let counts = |arm: &ArmFigures| -> Counts {
                let set = arm.harmful.get(set);
                set.and_then(|set| set.by_category.get(&category)).copied().unwrap_or_default()
            };
            let total = arms.first().map_or(0, |arm| counts(arm).total);
            let mut row = vec![category.to_string(), total.to_string()];
            row.extend(arms.iter().map(|arm| {
                let counts = counts(arm);
                match counts.degenerate {
                    0 => counts.is_unsafe.to_string(),
                    degenerate => format!("{} ({degenerate})", counts.is_unsafe),
                }
            }));
            row
        });
        std::iter::once(header).chain(rows).collect()
    }
}
