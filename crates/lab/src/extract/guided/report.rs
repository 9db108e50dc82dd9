//! What judges made of the exchanges that a guided extraction chose from: figures, no text.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use skeg_vector_store::Category;

use super::findings::Standing;
use crate::table::{align, markdown};

/// Exchanges of one side of one category by what the judges said.
///
/// `degenerate + judged_unsafe + judged_safe + unsure = asked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SideCounts {
    /// Exchanges there were.
    pub asked: usize,
    /// Broken answers, which nobody judged further.
    pub degenerate: usize,
    /// Answers that decline, of those that are not broken; each is judged safe, unsafe or unsure as well.
    pub refused: usize,
    /// Answers the harm judge called harmful.
    pub judged_unsafe: usize,
    /// Answers the harm judge called harmless.
    pub judged_safe: usize,
    /// Answers whose verdict was less certain than was asked for.
    pub unsure: usize,
    /// Exchanges that stayed on this side.
    pub kept: usize,
}

impl SideCounts {
    /// Counts one exchange, and says nothing of whether it stays.
    pub(super) fn add(&mut self, standing: Standing, is_refusal: bool) {
        self.asked += 1;
        self.refused += usize::from(is_refusal);
        *match standing {
            Standing::Degenerate => &mut self.degenerate,
            Standing::Unsafe => &mut self.judged_unsafe,
            Standing::Safe => &mut self.judged_safe,
            Standing::Unsure => &mut self.unsure,
        } += 1;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            asked: self.asked + other.asked,
            degenerate: self.degenerate + other.degenerate,
            refused: self.refused + other.refused,
            judged_unsafe: self.judged_unsafe + other.judged_unsafe,
            judged_safe: self.judged_safe + other.judged_safe,
            unsure: self.unsure + other.unsure,
            kept: self.kept + other.kept,
        }
    }

    fn cells(&self) -> [String; 7] {
        [
            self.asked,
            self.degenerate,
            self.refused,
            self.judged_unsafe,
            self.judged_safe,
            self.unsure,
            self.kept,
        ]
        .map(|count| count.to_string())
    }
}

/// In words, for errors: what became of a side's exchanges.
impl fmt::Display for SideCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} answers {} were degenerate, {} declined, {} were judged unsafe, {} safe and {} neither for sure",
            self.asked,
            self.degenerate,
            self.refused,
            self.judged_unsafe,
            self.judged_safe,
            self.unsure
        )
    }
}

/// One category's exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct GuidedCounts {
    /// Of the unsafe side.
    pub unsafe_side: SideCounts,
    /// Of the safe side.
    pub safe_side: SideCounts,
    /// Refusals of the unsafe side's prompts that went over to the safe side.
    pub refusals_as_safe: usize,
    /// Whether too few were left, so that the category has no vector.
    pub dropped: bool,
}

/// How a guided extraction chose its inputs.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct GuidedReport {
    /// Name of the judge that decided what is safe and unsafe.
    pub harm_judge: String,
    /// Name of the judge of refusals.
    pub refusal_judge: String,
    /// Name of the judge of broken answers.
    pub degenerate_judge: String,
    /// The least certainty of a verdict that counted.
    pub min_score: Option<f64>,
    /// Whether refusals of harmful prompts counted as safe.
    pub keep_refusals: bool,
    /// Answers that were generated; the other exchanges came with one.
    pub num_answers: usize,
    /// The exchanges, by category.
    pub categories: BTreeMap<Category, GuidedCounts>,
}

const HEADER: [&str; 9] = [
    "category",
    "side",
    "asked",
    "degenerate",
    "refused",
    "judged unsafe",
    "judged safe",
    "unsure",
    "kept",
];

impl GuidedReport {
    /// What became of each side over all categories, in two sentences.
    #[must_use]
    pub fn summary(&self) -> String {
        let total = |of: fn(&GuidedCounts) -> SideCounts| {
            self.categories.values().map(of).fold(SideCounts::default(), SideCounts::plus)
        };
        let harmful = total(|counts| counts.unsafe_side);
        let harmless = total(|counts| counts.safe_side);
        format!(
            "{self}. Harmful prompts: {harmful}; {} stayed. Harmless ones: {harmless}; {} stayed.",
            harmful.kept, harmless.kept
        )
    }

    /// The counts as text for a terminal.
    #[must_use]
    pub fn to_plain(&self) -> String {
        align(&self.rows())
    }

    /// The counts as a Markdown table.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown(&self.rows())
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let header = HEADER.map(str::to_owned).to_vec();
        let rows = self.categories.iter().flat_map(|(category, counts)| {
            let dropped = if counts.dropped { " (left out)" } else { "" };
            let over = match counts.refusals_as_safe {
                0 => "safe".to_owned(),
                num => format!("safe (and {num} refusals)"),
            };
            let sides = [("unsafe".to_owned(), counts.unsafe_side), (over, counts.safe_side)];
            sides.map(|(side, counts)| {
                [vec![format!("{category}{dropped}"), side], counts.cells().to_vec()].concat()
            })
        });
        std::iter::once(header).chain(rows).collect()
    }
}

/// In words, as it stands in manifests: `guided by JUDGE`, with what differs from the default.
impl fmt::Display for GuidedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guided by {}", self.harm_judge)?;
        if let Some(score) = self.min_score {
            write!(f, " (verdicts of at least {score})")?;
        }
        if self.keep_refusals {
            f.write_str(", refusals of harmful prompts as safe")?;
        }
        Ok(())
    }
}
