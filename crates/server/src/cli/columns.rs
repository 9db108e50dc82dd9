//! Two texts that grow side by side, written row by row as soon as both have the row.

use super::conversation::Side;

/// Between the columns.
const SEPARATOR: &str = " | ";
/// Narrower columns than this are hard to read.
const MIN_COLUMN_WIDTH: usize = 30;

/// The state of both columns.
#[derive(Debug)]
pub(super) struct Columns {
    width: usize,
    texts: [String; 2],
    finished: [bool; 2],
    num_written: usize,
}

impl Columns {
    /// Two columns in a terminal of that many characters; `None` where it is too narrow.
    pub(super) fn fit(terminal_width: usize) -> Option<Self> {
        let width = terminal_width.saturating_sub(SEPARATOR.len()) / 2;
        let columns =
            Self { width, texts: Default::default(), finished: [false; 2], num_written: 0 };
        (width >= MIN_COLUMN_WIDTH).then_some(columns)
    }

    /// The row above both columns.
    pub(super) fn header(&self, left: &str, right: &str) -> String {
        self.row(left, right)
    }

    /// Adds text to one side and returns the rows that are complete by it.
    pub(super) fn push(&mut self, side: Side, text: &str) -> Vec<String> {
        self.texts[column(side)].push_str(text);
        self.complete_rows()
    }

    /// Ends one side and returns the rows that are complete by it.
    pub(super) fn finish(&mut self, side: Side) -> Vec<String> {
        self.finished[column(side)] = true;
        self.complete_rows()
    }

    fn complete_rows(&mut self) -> Vec<String> {
        let lines = [wrap(&self.texts[0], self.width), wrap(&self.texts[1], self.width)];
        // The last line of a text that goes on may still change.
        let is_settled =
            |column: usize, row: usize| self.finished[column] || row + 1 < lines[column].len();
        let num_rows = lines[0].len().max(lines[1].len());
        let mut rows = Vec::new();
        while self.num_written < num_rows
            && (0..2).all(|column| is_settled(column, self.num_written))
        {
            let line =
                |column: usize| lines[column].get(self.num_written).map_or("", String::as_str);
            rows.push(self.row(line(0), line(1)));
            self.num_written += 1;
        }
        rows
    }

    fn row(&self, left: &str, right: &str) -> String {
        let width = self.width;
        format!("{left:<width$}{SEPARATOR}{right}").trim_end().to_owned()
    }
}

fn column(side: Side) -> usize {
    match side {
        Side::Unsteered => 0,
        Side::Resolved => 1,
    }
}

/// Lines of at most `width` characters, broken at spaces where that is possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    text.split('\n').flat_map(|line| wrap_line(line, width)).collect()
}

fn wrap_line(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut line_width = 0;
    for word in text.split_inclusive(' ') {
        let word_width = word.trim_end().chars().count();
        if line_width > 0 && line_width + word_width > width {
            lines.push(std::mem::take(&mut line).trim_end().to_owned());
            line_width = 0;
        }
        for character in word.chars() {
            if line_width >= width && character != ' ' {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
                line_width = 0;
            }
            line.push(character);
            line_width += 1;
        }
    }
    lines.push(line.trim_end().to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_whole_where_they_fit() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh i\n\nj", 3), ["abc", "def", "gh", "i", "", "j"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn rows_come_when_both_sides_have_them() {
        let mut columns = Columns::fit(63).unwrap();
        let line = "a".repeat(29);
        assert!(columns.push(Side::Unsteered, &format!("{line} bb cc")).is_empty());
        assert!(columns.push(Side::Resolved, "x").is_empty());
        assert_eq!(columns.push(Side::Resolved, "\ny"), [format!("{line}  | x")]);
        assert!(columns.finish(Side::Resolved).is_empty());
        assert_eq!(columns.finish(Side::Unsteered), [format!("{:<30} | y", "bb cc")]);
    }

    #[test]
    fn a_narrow_terminal_has_no_columns() {
        assert!(Columns::fit(62).is_none());
    }
}
