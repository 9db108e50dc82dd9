//! Reports: one description, as a self-contained HTML file and as Markdown.
//!
//! The HTML needs nothing beside itself: style and figures are inside, there is no script and no address is
//! fetched. It follows the reader's choice of light and dark, prints, and reads on a phone. Every text is
//! escaped; the SVG of a figure is put in as it is, so it must come from [`crate::figures`] or another source
//! that is trusted.

mod markdown;
mod page;
mod text;

pub(crate) use text::escape;

/// A report.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The heading of all.
    pub title: String,
    /// Below it: what was measured, when, by what.
    pub subtitle: String,
    /// In the order in which they are read.
    pub sections: Vec<Section>,
}

/// A part of a report, named in the table of contents.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// What it consists of.
    pub blocks: Vec<Block>,
}

/// What a section consists of. In paragraphs, notes, captions and cells a part in backticks is set as code.
#[derive(Debug, Clone)]
pub enum Block {
    /// Running text.
    Paragraph(String),
    /// Text of less weight: how to read what stands above.
    Note(String),
    /// Rows of cells. A column is aligned to the right where each of its cells is a number or empty.
    Table {
        /// Above the table.
        caption: String,
        /// The first is the header. The first column names its row, and stays in sight.
        rows: Vec<Vec<String>>,
        /// The row that matters most, counted from 1 below the header.
        highlight: Option<usize>,
    },
    /// A picture.
    Figure {
        /// An SVG file, put into the HTML.
        svg: String,
        /// Where Markdown finds it: a file name beside the report.
        file: String,
        /// Below the figure, and what is read out in its place.
        caption: String,
    },
    /// Names and values.
    Facts(Vec<(String, String)>),
    /// What is folded away until it is wanted; printed in full.
    Details {
        /// What is seen of it.
        summary: String,
        /// What is inside.
        blocks: Vec<Self>,
    },
}

impl Report {
    /// One HTML file.
    #[must_use]
    pub fn to_html(&self) -> String {
        page::html(self)
    }

    /// GitHub's Markdown; figures are named by their files.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown::markdown(self)
    }
}

/// For each column of a table whether it holds numbers.
fn numeric_columns(rows: &[Vec<String>]) -> Vec<bool> {
    let num_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let body = || rows.iter().skip(1);
    (0..num_columns)
        .map(|column| {
            let cells = || body().filter_map(|row| row.get(column)).map(|cell| cell.trim());
            cells().all(|cell| is_number(cell) || is_nothing(cell)) && cells().any(is_number)
        })
        .collect()
}

/// Begins like a number: `12`, `-0.3`, `+4 %`, `<0.01`, `.5`.
fn is_number(cell: &str) -> bool {
    let rest = cell.trim_start_matches(['-', '+', '\u{2212}', '<', '>', '\u{b1}', '.']);
    rest.starts_with(|character: char| character.is_ascii_digit())
}

fn is_nothing(cell: &str) -> bool {
    matches!(cell, "" | "-" | "n/a" | "\u{2013}" | "\u{2014}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_numbers_are_known() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
        let rows = [
            row(&["category", "%UR", "interval", "verdict", "all empty"]),
            row(&["fraud", "12.5", "-3 to +4", "better", ""]),
            row(&["harm", "-", "<0.1", "3 worse", "-"]),
        ];
        assert_eq!(numeric_columns(&rows), [false, true, true, false, false]);
        assert!(numeric_columns(&[]).is_empty());
    }
}
