//! What a probe finds set by set: how often it alarms, and how well it tells harmful from harmless.

use serde::Serialize;

use super::is_alarm;
use crate::error::Result;
use crate::evaluate::Share;
use crate::judge::{Estimate, auc};
use crate::probe::{Corpus, Evasion, Prompt, Verdict};
use crate::table::{self, align, markdown, share_cell};

/// One set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetRow {
    /// Its name.
    pub set: String,
    /// Its harmful prompts that alarm at one half.
    pub recall: Share,
    /// Its harmless prompts that do.
    pub false_alarms: Share,
    /// Its harmful prompts against its harmless ones; `None` where it has one kind.
    pub auc: Option<Estimate>,
    /// Its harmful prompts with a category whose first category is theirs.
    pub top_1: Share,
    /// The same for the first two.
    pub top_2: Share,
}

/// All sets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetTable {
    /// One row a set, one for all of them together, and one for each kind of disguised copy, `all+<evasion>`, if there are copies: they
    /// count in no other row.
    pub rows: Vec<SetRow>,
}

impl SetTable {
    /// The table of a corpus and a verdict for each of its prompts.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when there are not as many verdicts as prompts.
    pub fn new(corpus: &Corpus, verdicts: &[Verdict]) -> Result<Self> {
        corpus.check_verdicts(verdicts)?;
        let table = (corpus, verdicts);
        let own = |prompt: &Prompt| prompt.copied_as.is_none();
        let of_set = |(set_idx, (name, _)): (usize, &(String, _))| {
            row(name, table, &|prompt| own(prompt) && prompt.set_idx == set_idx)
        };
        let mut rows: Vec<SetRow> = corpus.sets.iter().enumerate().map(of_set).collect();
        rows.push(row("all", table, &own));
        let copies = |evasion: Evasion| move |prompt: &Prompt| prompt.copied_as == Some(evasion);
        let there_are = |evasion: &Evasion| corpus.prompts.iter().any(copies(*evasion));
        let of_copies = |evasion: Evasion| row(&format!("all+{evasion}"), table, &copies(evasion));
        rows.extend(Evasion::ALL.into_iter().filter(there_are).map(of_copies));
        Ok(Self { rows })
    }

    /// Aligned text.
    #[must_use]
    pub fn to_plain(&self) -> String {
        align(&self.cells())
    }

    /// A Markdown table.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown(&self.cells())
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let header = ["set", "recall at 1/2", "false alarms at 1/2", "AUC", "top 1", "top 2"];
        let cells = |row: &SetRow| {
            vec![
                row.set.clone(),
                share_cell(&row.recall),
                share_cell(&row.false_alarms),
                row.auc.map_or("-".to_owned(), |auc| auc.to_string()),
                share_cell(&row.top_1),
                share_cell(&row.top_2),
            ]
        };
        table::cells(header, self.rows.iter().map(cells))
    }
}

/// The row of the prompts that it takes.
fn row(
    name: &str,
    (corpus, verdicts): (&Corpus, &[Verdict]),
    takes: &dyn Fn(&Prompt) -> bool,
) -> SetRow {
    let of_set = || corpus.prompts.iter().zip(verdicts).filter(|(prompt, _)| takes(prompt));
    let alarms = |harmful: bool| {
        let kind = || of_set().filter(|(prompt, _)| prompt.harmful == harmful);
        Share::new(kind().filter(|(_, verdict)| is_alarm(verdict)).count(), kind().count())
    };
    let scores: Vec<f64> = of_set().map(|(_, verdict)| f64::from(verdict.harm)).collect();
    let positives: Vec<bool> = of_set().map(|(prompt, _)| prompt.harmful).collect();
    let top = |num: usize| {
        let known = || {
            of_set().filter_map(|(prompt, verdict)| prompt.category_idx.map(|idx| (idx, verdict)))
        };
        let is_among = |(idx, verdict): &(usize, &Verdict)| {
            let first = verdict.categories.iter().take(num);
            first.into_iter().any(|(category, _)| *category == corpus.categories[*idx])
        };
        Share::new(known().filter(is_among).count(), known().count())
    };
    SetRow {
        set: name.to_owned(),
        recall: alarms(true),
        false_alarms: alarms(false),
        auc: auc(&scores, &positives),
        top_1: top(1),
        top_2: top(2),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::three_sets;
    use super::*;

    #[test]
    fn rows_are_those_of_a_count_by_hand() {
        let (corpus, mut verdicts) = three_sets();
        let table = SetTable::new(&corpus, &verdicts).unwrap();
        let counts: Vec<_> = table
            .rows
            .iter()
            .map(|row| {
                let SetRow { set, recall, false_alarms, top_1, top_2, .. } = row;
                let count = |share: &Share| (share.count, share.total);
                (set.as_str(), count(recall), count(false_alarms), count(top_1), count(top_2))
            })
            .collect();
        assert_eq!(
            counts,
            [
                ("attacks", (2, 3), (0, 0), (1, 2), (2, 2)),
                ("mixed", (1, 1), (1, 2), (1, 1), (1, 1)),
                ("everyday", (0, 0), (0, 2), (0, 0), (0, 0)),
                ("all", (3, 4), (1, 4), (2, 3), (3, 3)),
            ]
        );
        // 0.5 above 0.125 and below 0.75.
        assert!(table.rows[1].auc.is_some_and(|auc| (auc.value - 0.5).abs() < 1e-12));
        assert!(table.rows[0].auc.is_none() && table.rows[2].auc.is_none());
        let text = table.to_plain();
        assert!(text.contains("everyday  -"), "{text}");
        verdicts.pop();
        let error = SetTable::new(&corpus, &verdicts).unwrap_err().to_string();
        assert!(error.contains("7 verdicts for 8 prompts"), "{error}");
    }

    #[test]
    fn disguised_copies_have_rows_of_their_own() {
        let (mut corpus, verdicts) = three_sets();
        corpus.prompts[1].copied_as = Some(Evasion::Rot13);
        corpus.prompts[5].copied_as = Some(Evasion::Rot13);
        let table = SetTable::new(&corpus, &verdicts).unwrap();
        let found: Vec<_> = table
            .rows
            .iter()
            .map(|row| (row.set.as_str(), row.recall.total, row.false_alarms.total))
            .collect();
        let rows = [
            ("attacks", 2, 0),
            ("mixed", 1, 1),
            ("everyday", 0, 2),
            ("all", 3, 3),
            ("all+rot13", 1, 1),
        ];
        assert_eq!(found, rows);
    }
}
