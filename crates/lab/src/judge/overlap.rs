//! What a test set shares with a training set: a head must not be tested on what it was trained on.

use std::collections::HashSet;

use super::agreement::{Labelled, LabelledSet};
use crate::data::normalised;
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

/// Prompts and answers of training sets.
#[derive(Debug, Default)]
pub(super) struct Seen {
    prompts: HashSet<String>,
    answers: HashSet<(String, String)>,
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

fn answer_key(row: &Labelled<'_>) -> (String, String) {
    (normalised(row.exchange.prompt), normalised(row.exchange.response))
}

impl Seen {
    /// What these rows hold.
    pub(super) fn of(rows: &[Labelled<'_>]) -> Self {
        Self {
            prompts: rows.iter().map(|row| normalised(row.exchange.prompt)).collect(),
            answers: rows.iter().map(answer_key).collect(),
        }
    }

    pub(super) fn has_prompt(&self, prompt: &str) -> bool {
        self.prompts.contains(&normalised(prompt))
    }

    /// Leaves out the rows whose prompt training had.
    ///
    /// # Errors
    /// [`Error::Data`] when rows are shared and `rule` refuses that.
    pub(super) fn leave_out<'a>(
        &self,
        name: &str,
        set: &LabelledSet<'a>,
        rule: SharedRows,
    ) -> Result<Unseen<'a>> {
        let is_shared = |row: &&Labelled<'_>| self.answers.contains(&answer_key(row));
        let shared: Vec<&str> = set.rows.iter().filter(is_shared).map(|row| row.id).collect();
        if rule == SharedRows::Refuse && !shared.is_empty() {
            let named = shared[..shared.len().min(MAX_NAMED)].join(", ");
            return Err(Error::Data(format!(
                "{} of {} labelled answers of test set {name} are also in the training data: {named}{}; a head must not be \
                 tested on what it was trained on: leave them out, or use folds that leave out prompts",
                shared.len(),
                set.rows.len(),
                if shared.len() > MAX_NAMED { ", ..." } else { "" }
            )));
        }
        let mut rows = set.rows.clone();
        rows.retain(|row| !self.has_prompt(row.exchange.prompt));
        Ok(Unseen {
            num_shared_prompts: set.rows.len() - rows.len() - shared.len(),
            num_shared_answers: shared.len(),
            set: LabelledSet { rows, num_partial: set.num_partial },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Exchange;
    use super::*;

    fn row<'a>(id: &'a str, prompt: &'a str, response: &'a str) -> Labelled<'a> {
        Labelled { id, exchange: Exchange { prompt, response }, positive: true }
    }

    #[test]
    fn shared_answers_are_refused_by_id_or_dropped_and_shared_prompts_are_dropped() {
        let seen = Seen::of(&[row("t1", "one", "yes"), row("t2", "two", "yes")]);
        let rows = vec![row("a", "One ", "YES"), row("b", "two", "no"), row("c", "three", "yes")];
        let set = LabelledSet { rows, num_partial: 3 };
        let error = seen.leave_out("own", &set, SharedRows::Refuse).unwrap_err().to_string();
        assert!(error.contains("1 of 3 labelled answers of test set own"), "{error}");
        assert!(error.contains("training data: a; "), "{error}");
        let unseen = seen.leave_out("own", &set, SharedRows::Drop).unwrap();
        assert_eq!((unseen.num_shared_prompts, unseen.num_shared_answers), (1, 1));
        let ids: Vec<&str> = unseen.set.rows.iter().map(|row| row.id).collect();
        assert_eq!((ids, unseen.set.num_partial), (vec!["c"], 3));
    }
}
