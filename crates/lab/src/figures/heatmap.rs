//! Shares over two choices: layer sets and strengths.

use super::grid::{ColourBar, Face, Grid};
use super::{Drawing, Figure, check, check_table, colour, percent_number, refuse};
use crate::Result;

/// Shares by row and column, with the number in each cell.
#[derive(Debug, Clone)]
pub struct Heatmap {
    /// Above the figure.
    pub title: String,
    /// What the rows are: `layers`.
    pub row_name: String,
    /// What the columns are: `strength`.
    pub column_name: String,
    /// What the colours and the larger numbers are.
    pub value_name: String,
    /// What the smaller numbers are, where there are any.
    pub second_name: Option<String>,
    /// Names of the rows, from top to bottom.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Row by row, one a column; none where nothing was measured, which is hatched.
    pub cells: Vec<Vec<Option<Cell>>>,
    /// Row and column of the cell that was chosen, which has a frame.
    pub chosen: Option<(usize, usize)>,
}

/// A cell of a heat map.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// A share, 0 to 1.
    pub value: f64,
    /// Another share, 0 to 1, printed small below: the degenerate ones.
    pub second: Option<f64>,
}

impl Figure for Heatmap {
    fn draw(&self) -> Result<Drawing> {
        self.check()?;
        let face = |cell: &Cell| Face {
            colour: colour::share(cell.value),
            text: percent_number(cell.value),
            second: cell.second.map(percent_number),
        };
        let faces =
            self.cells.iter().map(|row| row.iter().map(|cell| cell.as_ref().map(face)).collect());
        let grid = Grid {
            title: &self.title,
            row_name: &self.row_name,
            column_name: &self.column_name,
            rows: &self.rows,
            columns: &self.columns,
            faces: faces.collect(),
            chosen: self.chosen,
            bar: ColourBar {
                name: &self.value_name,
                colour_at: colour::share,
                ticks: vec![
                    (0.0, "0 %"),
                    (0.25, "25 %"),
                    (0.5, "50 %"),
                    (0.75, "75 %"),
                    (1.0, "100 %"),
                ],
            },
            note: Some(self.note()),
        };
        Ok(grid.draw())
    }
}

impl Heatmap {
    fn check(&self) -> Result<()> {
        let widths: Vec<usize> = self.cells.iter().map(Vec::len).collect();
        check_table(&self.title, "rows of cells", (&self.rows, &self.columns), &widths)?;
        if let Some((row, column)) = self.chosen
            && (row >= self.rows.len() || column >= self.columns.len())
        {
            let reason =
                format!("the chosen cell is in row {row}, column {column}, and there is none");
            return Err(refuse(&self.title, reason));
        }
        for (cells, row) in self.cells.iter().zip(&self.rows) {
            for (cell, column) in cells.iter().zip(&self.columns) {
                let Some(cell) = cell else { continue };
                for value in [Some(cell.value), cell.second].into_iter().flatten() {
                    let what = || format!("the cell of `{row}` and `{column}`");
                    check(&self.title, what, (value, None), (0.0, 1.0))?;
                }
            }
        }
        Ok(())
    }

    /// How to read the cells.
    fn note(&self) -> String {
        let mut note = format!("Numbers: {}, in per cent", self.value_name);
        if let Some(second) = &self.second_name {
            note.push_str(&format!("; small: {second}"));
        }
        if self.cells.iter().flatten().any(Option::is_none) {
            note.push_str("; hatched: not measured");
        }
        if self.chosen.is_some() {
            note.push_str("; framed: chosen");
        }
        note + "."
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::tests::{assert_labels_are_apart, texts};
    use super::*;

    fn heatmap(rows: usize, columns: usize) -> Heatmap {
        let value = |row: usize, column: usize| super::super::count(row * columns + column) / 200.0;
        let cell = |row, column| Some(Cell { value: value(row, column), second: Some(0.05) });
        Heatmap {
            title: "Unsafe responses by layers and strength".to_owned(),
            row_name: "layers".to_owned(),
            column_name: "strength".to_owned(),
            value_name: "unsafe responses".to_owned(),
            second_name: Some("degenerate".to_owned()),
            rows: (0..rows).map(|row| format!("{row} to {}", row + 4)).collect(),
            columns: (0..columns).map(|column| format!("{column}.5")).collect(),
            cells: (0..rows)
                .map(|row| (0..columns).map(|column| cell(row, column)).collect())
                .collect(),
            chosen: None,
        }
    }

    #[test]
    fn labels_are_apart_at_every_size() {
        for (rows, columns) in [(6, 8), (1, 1), (14, 14), (0, 0), (0, 3), (3, 0)] {
            assert_labels_are_apart(&heatmap(rows, columns).draw().unwrap());
        }
        let mut long = heatmap(2, 3);
        long.columns =
            (0..3).map(|idx| format!("all_of_the_layers_from_{idx}_to_the_last")).collect();
        long.rows = long.columns[..2].to_vec();
        assert_labels_are_apart(&long.draw().unwrap());
    }

    #[test]
    fn cells_say_their_number_or_are_hatched() {
        let mut figure = heatmap(2, 2);
        let measured = figure.draw().unwrap().shapes.len();
        figure.cells[0][1] = None;
        figure.cells[1][0] = Some(Cell { value: 0.42, second: None });
        figure.chosen = Some((1, 0));
        let drawing = figure.draw().unwrap();
        assert!(drawing.shapes.len() > measured, "no hatches");
        let texts = texts(&drawing.to_svg().unwrap());
        for text in ["42", "layers", "strength", "0 to 4", "1.5", "100 %"] {
            assert!(texts.iter().any(|found| found == text), "{text} is not in {texts:?}");
        }
        let note = texts.join(" ");
        assert!(note.contains("hatched: not measured; framed: chosen."), "{note}");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let reason = |figure: &Heatmap| figure.draw().unwrap_err().to_string();
        let mut figure = heatmap(2, 2);
        figure.cells[1][1] = Some(Cell { value: 0.5, second: Some(-0.1) });
        assert!(reason(&figure).contains("`1 to 5` and `1.5` is -0.1"), "{}", reason(&figure));
        figure.cells[1].pop();
        assert!(reason(&figure).contains("row 2 has 1 entries"), "{}", reason(&figure));
        figure.cells.pop();
        assert!(reason(&figure).contains("1 rows of cells and 2 names"), "{}", reason(&figure));
        let mut figure = heatmap(2, 2);
        figure.chosen = Some((2, 0));
        assert!(reason(&figure).contains("there is none"), "{}", reason(&figure));
    }
}
