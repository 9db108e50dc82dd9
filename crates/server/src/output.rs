//! The only place that writes to the terminal: results to standard output, progress and notes to standard
//! error.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Writes one line of a result.
pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes part of a line at once, as for tokens that arrive one by one.
pub(crate) fn fragment(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes a result as JSON, for programs.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    line(&text)
}

/// Says something about the work, beside its result.
pub(crate) fn note(text: &str) {
    // Standard error may be closed; a note has no other place to go.
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Says why the program fails, with the chain of causes.
pub(crate) fn failure(error: &anyhow::Error) {
    let mut message = format!("skeg: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Transparent errors repeat the text of what they wrap.
        if !said.contains(&cause) {
            message.push_str(&format!("\n  because: {cause}"));
            said = cause;
        }
    }
    note(&message);
}

/// Rows of equal length under a header, columns as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) -> io::Result<()> {
        self.lines().iter().try_for_each(|text| line(text))
    }

    fn lines(&self) -> Vec<String> {
        let num_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..num_columns).map(width).collect();
        let pad = |(cell, &width): (&String, &usize)| format!("{cell:<width$}");
        let text = |row: &Vec<String>| row.iter().zip(&widths).map(pad).collect::<Vec<_>>();
        self.rows.iter().map(|row| text(row).join("  ").trim_end().to_owned()).collect()
    }
}

/// A bar over `total` bytes on standard error; invisible where that is no terminal.
pub(crate) fn byte_bar(what: &str, total: u64) -> ProgressBar {
    bar("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}", what, total)
}

/// A bar over `total` steps on standard error; invisible where that is no terminal.
pub(crate) fn step_bar(what: &str, total: u64) -> ProgressBar {
    bar("{msg} [{bar:30}] {pos}/{len} {eta}", what, total)
}

fn bar(template: &str, what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["name", "size"]);
        table.row(vec!["a-long-name".to_owned(), "1".to_owned()]);
        table.row(vec!["ü".to_owned(), "22".to_owned()]);
        assert_eq!(table.lines(), ["name         size", "a-long-name  1", "ü            22"]);
    }
}
