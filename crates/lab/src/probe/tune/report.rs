//! What tuning is worth on sets that the encoder did not see.

use std::collections::HashSet;

use serde::Serialize;

use super::TunedEmbedder;
use crate::data::normalised;
use crate::error::{Error, Result};
use crate::judge::{Embed, Estimate};
use crate::probe::measure::{Against, Operating, ProbeReport, SetTable};
use crate::probe::member::Planes;
use crate::probe::rows::{Reads, Rows, Sources, rows};
use crate::probe::text::whole;
use crate::probe::{Corpus, Prompt, Stack, Verdict};
use crate::progress::Progress;
use crate::table::{self, align, markdown, share_cell};

/// A corpus without the prompts whose text is in another, and how many those were.
#[must_use]
pub fn unseen(mut measured: Corpus, trained: &Corpus) -> (Corpus, usize) {
    let form = |prompt: &Prompt| normalised(&whole(&prompt.conversation));
    let seen: HashSet<String> = trained.prompts.iter().map(form).collect();
    let before = measured.prompts.len();
    measured.prompts.retain(|prompt| !seen.contains(&form(prompt)));
    let num_dropped = before - measured.prompts.len();
    (measured, num_dropped)
}

/// One encoder with its head, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Heads {
    /// Alarms and categories set by set.
    pub sets: SetTable,
    /// Recall, false alarms, calibration, categories.
    pub report: ProbeReport,
}

/// The frozen encoder with the head that was fitted to it, and the tuned one with its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TuneReport {
    /// Before tuning.
    pub before: Heads,
    /// After.
    pub after: Heads,
}

impl TuneReport {
    /// Measures both encoders on a corpus with the categories that were trained. Texts are read as an embedder reads them.
    ///
    /// # Errors
    /// [`Error::Data`] when the corpus has other categories than the heads; what the embedders return.
    pub fn new(
        tuned: &TunedEmbedder,
        [before, after]: [&dyn Embed; 2],
        measured: &Corpus,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let [of_before, of_after] = &tuned.heads;
        Ok(Self {
            before: heads(of_before, before, measured, progress)?,
            after: heads(of_after, after, measured, progress)?,
        })
    }

    /// Aligned text.
    #[must_use]
    pub fn to_plain(&self) -> String {
        format!("{}\n{}", align(&self.harm_cells()), align(&self.category_cells()))
    }

    /// Two Markdown tables.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        format!("{}\n{}", markdown(&self.harm_cells()), markdown(&self.category_cells()))
    }

    /// One row a set of harmless prompts and what they are told from.
    fn harm_cells(&self) -> Vec<Vec<String>> {
        let header = [
            "harmless prompts of",
            "against",
            "harmless",
            "harmful",
            "AUC before",
            "AUC after",
            "recall at 1 % false alarms, before",
            "after",
            "recall at 5 %, before",
            "after",
        ];
        let pairs = self.before.report.sets.iter().zip(&self.after.report.sets);
        let rows = pairs.map(|(before, after)| {
            let against = match before.against {
                Against::Pooled => self.before.report.pooled.join(" + "),
                Against::Own => "its own".to_owned(),
            };
            let counts = [before.operating.num_harmless, before.operating.num_harmful];
            let auc = [before, after].map(|one| cell(one.operating.auc));
            let [first, last] =
                [0, 2].map(|limit| [before, after].map(|one| recall(&one.operating, limit)));
            let cells = [before.set.clone(), against].into_iter();
            cells
                .chain(counts.map(|num| num.to_string()))
                .chain(auc)
                .chain(first)
                .chain(last)
                .collect()
        });
        table::cells(header, rows)
    }

    /// One row a set, and one for all.
    fn category_cells(&self) -> Vec<Vec<String>> {
        let header = ["set", "top 1 before", "top 1 after", "top 2 before", "top 2 after"];
        let pairs = self.before.sets.rows.iter().zip(&self.after.sets.rows);
        let rows = pairs.map(|(before, after)| {
            let shares = [&before.top_1, &after.top_1, &before.top_2, &after.top_2];
            std::iter::once(before.set.clone()).chain(shares.map(share_cell)).collect()
        });
        table::cells(header, rows)
    }
}

fn cell(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(
        || "-".to_owned(),
        |one| format!("{:.3} [{:.3}, {:.3}]", one.value, one.low, one.high),
    )
}

fn recall(operating: &Operating, limit: usize) -> String {
    operating
        .at_limits
        .get(limit)
        .map_or_else(|| "-".to_owned(), |point| format!("{:.2}", point.recall.share))
}

/// What a head makes of a corpus.
fn heads(
    planes: &Planes,
    embedder: &dyn Embed,
    corpus: &Corpus,
    progress: &mut dyn Progress,
) -> Result<Heads> {
    let found = verdicts(planes, embedder, corpus, progress)?;
    Ok(Heads { sets: SetTable::new(corpus, &found)?, report: ProbeReport::new(corpus, &found)? })
}

fn verdicts(
    planes: &Planes,
    embedder: &dyn Embed,
    corpus: &Corpus,
    progress: &mut dyn Progress,
) -> Result<Vec<Verdict>> {
    let num_planes = 1 + corpus.categories.len();
    if planes.weights.len() != num_planes * embedder.width() || planes.biases.len() != num_planes {
        return Err(Error::Data(format!(
            "a head of {} planes for {} categories and embeddings of {} numbers; measure with the categories of the training",
            planes.biases.len(),
            corpus.categories.len(),
            embedder.width()
        )));
    }
    let sources = Sources { embedder: Some(embedder), ..Sources::default() };
    let read = rows(corpus, &[Reads::Embedding], sources, progress)?;
    let stack = Stack::alone();
    let score = |rows: &Rows, idx: usize| match rows {
        Rows::Dense(rows) => planes.score(rows.row(idx)),
        Rows::Sparse(rows) => planes.score_sparse(&rows.rows[idx]),
    };
    let verdict = |idx| {
        let scores: Vec<_> = read.iter().map(|(_, rows)| score(rows, idx)).collect();
        stack.verdict(&scores, &corpus.categories)
    };
    Ok((0..corpus.prompts.len()).map(verdict).collect())
}
