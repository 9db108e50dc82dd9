//! Tables of cells as text: for a terminal, and as Markdown.

use std::fmt::Write as _;

use crate::evaluate::Share;

/// The least and the largest of some values, `0.25 to 0.52`; a dash where there is none.
#[must_use]
pub fn least_to_most(values: impl Iterator<Item = f64>) -> String {
    let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
        let (least, most) = ends.unwrap_or((value, value));
        Some((least.min(value), most.max(value)))
    });
    ends.map_or_else(|| "-".to_owned(), |(least, most)| format!("{least:.2} to {most:.2}"))
}

/// A share in a cell; a dash where it is one of nothing.
pub(crate) fn share_cell(share: &Share) -> String {
    if share.total == 0 { "-".to_owned() } else { share.to_string() }
}

/// The cells of a table: its header, then its rows.
pub(crate) fn cells<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Vec<Vec<String>> {
    std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect()
}

/// Columns padded to their widest cell, two spaces apart.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let num_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..num_columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.len()).max().unwrap_or(0)
        })
        .collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        text
    })
}

/// A Markdown table; the first row is the header.
pub(crate) fn markdown(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (idx, row) in rows.iter().enumerate() {
        let _written = writeln!(text, "| {} |", row.join(" | "));
        if idx == 0 {
            let _written = writeln!(text, "|{}", "---|".repeat(row.len()));
        }
    }
    text
}
