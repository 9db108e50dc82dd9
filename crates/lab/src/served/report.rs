//! The report of a comparison: figures and ids, as a table for a terminal and as Markdown.

use serde::Serialize;

use super::equality::Equality;
use super::row::ServedRow;
use super::set::ServedSet;
use crate::judge::{EndpointOptions, Judges};
use crate::table::{align, markdown, share_cell};

/// What [`super::compare`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServedReport {
    /// The server's address.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Longest answer, in tokens.
    pub max_tokens: u32,
    /// Requests under way at once.
    pub num_clients: usize,
    /// Name, SHA-256 of the file and number of prompts of each set.
    pub sets: Vec<(String, String, usize)>,
    /// Who judged.
    pub judges: Vec<String>,
    /// How far they agree with people, header first; empty where nothing is known.
    pub agreement: Vec<Vec<String>>,
    /// Set by set, harmful prompts first, arm by arm.
    pub rows: Vec<ServedRow>,
    /// One a set; empty unless both `none` and `auto` were asked.
    pub equality: Vec<Equality>,
}

impl ServedReport {
    pub(super) fn new(
        options: &EndpointOptions,
        sets: &[ServedSet],
        rows: Vec<ServedRow>,
        equality: Vec<Equality>,
        judges: &Judges,
    ) -> Self {
        let fact = |set: &ServedSet| (set.name.clone(), set.sha256.clone(), set.prompts.len());
        Self {
            url: options.base_url.clone(),
            model: options.model.clone(),
            max_tokens: options.max_tokens,
            num_clients: options.concurrency,
            sets: sets.iter().map(fact).collect(),
            judges: judges.names().iter().map(|&name| name.to_owned()).collect(),
            agreement: judges.agreement_table(),
            rows,
            equality,
        }
    }

    /// Prompts whose answers raised no alarm and are not the unsteered ones, as `set/id`.
    #[must_use]
    pub fn differing(&self) -> Vec<String> {
        let of_set = |one: &Equality| {
            one.differing.iter().map(|id| format!("{}/{id}", one.set)).collect::<Vec<_>>()
        };
        self.equality.iter().flat_map(of_set).collect()
    }

    /// Aligned text.
    #[must_use]
    pub fn to_plain(&self) -> String {
        self.text(align, "")
    }

    /// Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        format!("# End to end\n\n{}", self.text(markdown, "## "))
    }

    fn text(&self, table: fn(&[Vec<String>]) -> String, heading: &str) -> String {
        let mut text = format!(
            "model {} at {}: {} tokens, greedy, {} clients; judges: {}\n\n{}",
            self.model,
            self.url,
            self.max_tokens,
            self.num_clients,
            self.judges.join(", "),
            table(&self.cells())
        );
        let parts = [
            ("Categories that were found", self.category_cells()),
            ("Answers without an alarm, beside the unsteered ones", self.equality_cells()),
            ("Judges", self.agreement.clone()),
        ];
        for (title, cells) in parts {
            // A header alone says nothing.
            if cells.len() > 1 {
                text.push_str(&format!("\n{heading}{title}\n\n{}", table(&cells)));
            }
        }
        for row in self.rows.iter().filter(|row| row.num_not_asked > 0) {
            text.push_str(&format!(
                "\n{}, {}: {} prompts not asked, the set or the server has no category for them\n",
                row.set, row.arm, row.num_not_asked
            ));
        }
        text
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let header = [
            "set",
            "prompts",
            "n",
            "arm",
            "refused",
            "unsafe",
            "degenerate",
            "alarms",
            "median s",
            "p99 s",
        ];
        let cells = |row: &ServedRow| {
            let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
            vec![
                row.set.clone(),
                kind(row).to_owned(),
                row.refused.total.to_string(),
                row.arm.clone(),
                share_cell(&row.refused),
                or_dash(row.is_unsafe.as_ref().map(share_cell)),
                share_cell(&row.degenerate),
                or_dash(row.alarms.as_ref().map(|alarms| share_cell(&alarms.share))),
                format!("{:.2}", row.seconds.median),
                format!("{:.2}", row.seconds.p99),
            ]
        };
        with_header(&header, self.rows.iter().map(cells))
    }

    fn category_cells(&self) -> Vec<Vec<String>> {
        let cells = self.rows.iter().flat_map(|row| {
            let found = row.alarms.iter().flat_map(|alarms| &alarms.by_category);
            found.map(|(category, number)| {
                vec![row.set.clone(), kind(row).to_owned(), category.clone(), number.to_string()]
            })
        });
        with_header(&["set", "prompts", "category", "alarms"], cells)
    }

    fn equality_cells(&self) -> Vec<Vec<String>> {
        let header = ["set", "without an alarm", "same text", "same first token"];
        let cells = |one: &Equality| {
            vec![
                one.set.clone(),
                one.without_alarm.to_string(),
                format!("{} of {}", one.same_text, one.without_alarm),
                format!("{} of {}", one.same_first_token, one.with_first_token),
            ]
        };
        with_header(&header, self.equality.iter().map(cells))
    }
}

fn kind(row: &ServedRow) -> &'static str {
    if row.is_harmful { "harmful" } else { "harmless" }
}

fn with_header(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let header = header.iter().map(|&cell| cell.to_owned()).collect();
    std::iter::once(header).chain(rows).collect()
}
