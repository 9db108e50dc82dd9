//! What a test set shares with a training set: a head must not be tested on what it was trained on.

use super::agreement::LabelledSet;
use super::head::TrainingSet;
use super::row_hashes::RowHashes;
use super::training::NamedSet;
use crate::error::{Error, Result};

/// What is done with test rows that are also training rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SharedRows {
    /// They are an error: somebody gave a file twice, or sets overlap in a way worth knowing.
    #[default]
    Refuse,
    /// They are left out and counted.
    Drop,
}

/// What a head was trained on: the same for one that was trained in this run and for one from a file.
#[derive(Debug, Default)]
pub(super) struct Seen {
    names: Vec<String>,
    rows: RowHashes,
    /// SHA-256 of the sets whose rows are not known.
    files: Vec<String>,
}

/// Test rows that share no prompt with training, and how many were left out.
#[derive(Debug)]
pub(super) struct Unseen<'a> {
    pub(super) set: LabelledSet<'a>,
    /// Rows with a prompt that training had with another answer.
    pub(super) num_shared_prompts: usize,
    /// Rows that training had.
    pub(super) num_shared_answers: usize,
}

/// Ids an error names.
const MAX_NAMED: usize = 5;

impl Seen {
    /// What these sets hold. Of a set whose rows are not known, a test set is told by its file alone.
    pub(super) fn of(sets: &[TrainingSet]) -> Self {
        let mut seen = Self::default();
        for set in sets {
            seen.names.push(set.name.clone());
            match &set.rows {
                Some(rows) => seen.rows.extend(rows),
                None => seen.files.push(set.sha256.clone()),
            }
        }
        seen
    }

    pub(super) fn has_prompt(&self, prompt: &str) -> bool {
        self.rows.has_prompt(prompt)
    }

    /// Leaves out the rows of `test` whose prompt training had; `labelled` is what is tested of it.
    ///
    /// # Errors
    /// [`Error::Data`] when rows are shared and `rule` refuses that.
    pub(super) fn leave_out<'a>(
        &self,
        test: &NamedSet,
        labelled: &LabelledSet<'a>,
        rule: SharedRows,
    ) -> Result<Unseen<'a>> {
        let is_file = self.files.contains(&test.data.sha256);
        let mut unseen = LabelledSet { rows: Vec::new(), num_partial: labelled.num_partial };
        let (mut num_shared_prompts, mut shared) = (0, Vec::new());
        for row in &labelled.rows {
            let [has_prompt, has_answer] = self.rows.has(row.exchange);
            if has_answer || is_file {
                shared.push(row.id);
            } else if has_prompt {
                num_shared_prompts += 1;
            } else {
                unseen.rows.push(*row);
            }
        }
        if rule == SharedRows::Refuse && !shared.is_empty() {
            return Err(self.refused(test, labelled, &shared));
        }
        Ok(Unseen { set: unseen, num_shared_prompts, num_shared_answers: shared.len() })
    }

    fn refused(&self, test: &NamedSet, labelled: &LabelledSet<'_>, shared: &[&str]) -> Error {
        let named = shared[..shared.len().min(MAX_NAMED)].join(", ");
        Error::Data(format!(
            "{} of {} labelled answers of test set {} are also in the training data ({}): {named}{}; a head must not be \
             tested on what it was trained on: leave them out, or train with folds that leave out prompts",
            shared.len(),
            labelled.rows.len(),
            test.name,
            self.names.join(", "),
            if shared.len() > MAX_NAMED { ", ..." } else { "" }
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Exchange;
    use super::super::agreement::Labelled;
    use super::*;
    use crate::data::DataSet;

    fn row<'a>(id: &'a str, prompt: &'a str, response: &'a str) -> Labelled<'a> {
        Labelled { id, exchange: Exchange { prompt, response }, positive: true }
    }

    fn training(rows: Option<RowHashes>) -> TrainingSet {
        let (name, sha256) = ("train".to_owned(), "ab".repeat(32));
        TrainingSet { name, sha256, num_answers: 2, rows }
    }

    fn test(sha256: &str) -> NamedSet {
        NamedSet { name: "own".to_owned(), data: DataSet::of(Vec::new(), sha256.to_owned()) }
    }

    fn tested() -> LabelledSet<'static> {
        let rows = vec![row("a", "One ", "YES"), row("b", "two", "no"), row("c", "three", "yes")];
        LabelledSet { rows, num_partial: 3 }
    }

    #[test]
    fn shared_answers_are_refused_by_id_or_dropped_and_shared_prompts_are_dropped() {
        let rows = [row("t1", "one", "yes"), row("t2", "two", "yes")];
        let rows = RowHashes::of(rows.iter().map(|row| row.exchange));
        let (seen, test, set) = (Seen::of(&[training(Some(rows))]), test("cd"), tested());
        let error = seen.leave_out(&test, &set, SharedRows::Refuse).unwrap_err().to_string();
        assert!(error.contains("1 of 3 labelled answers of test set own"), "{error}");
        assert!(error.contains("training data (train): a; "), "{error}");
        let unseen = seen.leave_out(&test, &set, SharedRows::Drop).unwrap();
        assert_eq!((unseen.num_shared_prompts, unseen.num_shared_answers), (1, 1));
        let ids: Vec<&str> = unseen.set.rows.iter().map(|row| row.id).collect();
        assert_eq!((ids, unseen.set.num_partial), (vec!["c"], 3));
    }

    #[test]
    fn a_set_whose_rows_are_not_known_is_told_by_its_file() {
        let (seen, set) = (Seen::of(&[training(None)]), tested());
        let (same, other) = (test(&"ab".repeat(32)), test("cd"));
        let error = seen.leave_out(&same, &set, SharedRows::Refuse).unwrap_err().to_string();
        assert!(error.contains("3 of 3 labelled answers"), "{error}");
        let unseen = seen.leave_out(&same, &set, SharedRows::Drop).unwrap();
        assert_eq!((unseen.set.rows.len(), unseen.num_shared_answers), (0, 3));
        assert_eq!(seen.leave_out(&other, &set, SharedRows::Refuse).unwrap().set, set);
    }
}
