//! What things are against what they are taken for.

use super::grid::{ColourBar, Face, Grid};
use super::{Drawing, Figure, check_table, colour, count};
use crate::Result;

/// Counts by what things are (rows) and what they are taken for (columns), coloured by their share of the row.
#[derive(Debug, Clone)]
pub struct ConfusionMatrix {
    /// Above the figure.
    pub title: String,
    /// What the rows are: `true category`.
    pub row_name: String,
    /// What the columns are: `predicted`.
    pub column_name: String,
    /// Names of the rows, from top to bottom.
    pub rows: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Row by row, one a column.
    pub counts: Vec<Vec<usize>>,
}

impl Figure for ConfusionMatrix {
    fn draw(&self) -> Result<Drawing> {
        let widths: Vec<usize> = self.counts.iter().map(Vec::len).collect();
        check_table(&self.title, "rows", (&self.rows, &self.columns), &widths)?;
        let grid = Grid {
            title: &self.title,
            row_name: &self.row_name,
            column_name: &self.column_name,
            rows: &self.rows,
            columns: &self.columns,
            faces: self.counts.iter().map(|row| faces(row)).collect(),
            chosen: None,
            bar: ColourBar {
                name: "share of the row",
                colour_at: colour::share,
                ticks: vec![(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")],
            },
            note: Some("Hatched: a row without any.".to_owned()).filter(|_| self.has_empty_row()),
        };
        Ok(grid.draw())
    }
}

impl ConfusionMatrix {
    fn has_empty_row(&self) -> bool {
        self.counts.iter().any(|row| row.iter().sum::<usize>() == 0)
    }
}

/// Faces of a row, none of one without any.
fn faces(row: &[usize]) -> Vec<Option<Face>> {
    let total: usize = row.iter().sum();
    let face = |&number: &usize| {
        (total > 0).then(|| Face {
            colour: colour::share(count(number) / count(total)),
            text: number.to_string(),
            second: None,
        })
    };
    row.iter().map(face).collect()
}

#[cfg(test)]
mod tests {
    use super::super::drawing::tests::{assert_labels_are_apart, texts};
    use super::*;

    fn matrix(num: usize) -> ConfusionMatrix {
        let names: Vec<String> = (0..num).map(|idx| format!("tailored_advice_{idx}")).collect();
        ConfusionMatrix {
            title: "Categories".to_owned(),
            row_name: "true category".to_owned(),
            column_name: "predicted".to_owned(),
            rows: names.clone(),
            columns: names.into_iter().chain(["none".to_owned()]).collect(),
            counts: (0..num)
                .map(|row| (0..=num).map(|column| 1000 * row + column).collect())
                .collect(),
        }
    }

    #[test]
    fn labels_are_apart_whatever_the_size() {
        for num in [12, 1, 0] {
            assert_labels_are_apart(&matrix(num).draw().unwrap());
        }
    }

    #[test]
    fn cells_have_their_counts_and_colours_their_share_of_the_row() {
        let found = texts(&matrix(2).to_svg().unwrap());
        for text in ["0", "1", "2", "1000", "1001", "1002", "none", "share of the row"] {
            assert!(found.iter().any(|found| found == text), "{text} is not in {found:?}");
        }
        let faces = faces(&[3, 1, 0]);
        let colours: Vec<_> = faces.iter().flatten().map(|face| face.colour).collect();
        assert_eq!(colours, [0.75, 0.25, 0.0].map(colour::share));
    }

    #[test]
    fn a_row_without_any_is_hatched_and_said_so() {
        assert!(faces(&[0, 0]).iter().all(Option::is_none));
        let mut figure = matrix(2);
        figure.counts[1] = vec![0; 3];
        assert!(figure.to_svg().unwrap().contains("Hatched"));
        assert!(!matrix(2).to_svg().unwrap().contains("Hatched"));
    }

    #[test]
    fn rows_of_another_length_are_refused() {
        let mut figure = matrix(2);
        figure.counts[1].pop();
        assert!(figure.draw().unwrap_err().to_string().contains("row 2 has 2 entries; expected 3"));
        figure.counts.pop();
        assert!(figure.draw().unwrap_err().to_string().contains("1 rows and 2 names"));
    }
}
