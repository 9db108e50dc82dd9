//! How alike the vectors of categories are.

use super::grid::{ColourBar, Face, Grid};
use super::{Drawing, Figure, check, check_widths, colour, refuse};
use crate::Result;

/// Slack for cosines of f32 vectors, which rounding puts a little beyond 1.
const ROUNDING: f64 = 1e-3;

/// Cosines between each two of n vectors.
#[derive(Debug, Clone)]
pub struct CosineMatrix {
    /// Above the figure.
    pub title: String,
    /// Names of the vectors, on both axes.
    pub names: Vec<String>,
    /// n rows of n, -1 to 1.
    pub values: Vec<Vec<f64>>,
}

impl Figure for CosineMatrix {
    fn draw(&self) -> Result<Drawing> {
        self.check()?;
        let face = |&value: &f64| {
            let value = value.clamp(-1.0, 1.0);
            Some(Face { colour: colour::signed(value), text: two_decimals(value), second: None })
        };
        let grid = Grid {
            title: &self.title,
            row_name: "",
            column_name: "",
            rows: &self.names,
            columns: &self.names,
            faces: self.values.iter().map(|row| row.iter().map(face).collect()).collect(),
            chosen: None,
            bar: ColourBar {
                name: "cosine",
                colour_at: |part| colour::signed(2.0 * part - 1.0),
                ticks: vec![(0.0, "-1"), (0.25, "-0.5"), (0.5, "0"), (0.75, "0.5"), (1.0, "1")],
            },
            note: None,
        };
        Ok(grid.draw())
    }
}

impl CosineMatrix {
    fn check(&self) -> Result<()> {
        if self.values.len() != self.names.len() {
            let reason = format!("{} rows and {} names", self.values.len(), self.names.len());
            return Err(refuse(&self.title, reason));
        }
        let widths: Vec<usize> = self.values.iter().map(Vec::len).collect();
        check_widths(&self.title, "row", &widths, self.names.len())?;
        for (row, one) in self.values.iter().zip(&self.names) {
            for (&value, other) in row.iter().zip(&self.names) {
                let what = || format!("the cosine of `{one}` and `{other}`");
                check(&self.title, what, (value, None), (-1.0 - ROUNDING, 1.0 + ROUNDING))?;
            }
        }
        Ok(())
    }
}

/// Without a minus before nothing.
fn two_decimals(value: f64) -> String {
    let text = format!("{value:.2}");
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::tests::{assert_labels_are_apart, texts};
    use super::*;

    fn matrix(names: &[&str]) -> CosineMatrix {
        let cosine = |one: usize, other: usize| if one == other { 1.000_01 } else { -0.25 };
        CosineMatrix {
            title: "Cosines".to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            values: (0..names.len())
                .map(|one| (0..names.len()).map(|other| cosine(one, other)).collect())
                .collect(),
        }
    }

    #[test]
    fn fourteen_long_names_are_apart_on_both_axes() {
        for num in [14, 1, 0] {
            assert_labels_are_apart(
                &matrix(&vec!["tailored_financial_advice"; num]).draw().unwrap(),
            );
        }
        assert_labels_are_apart(&matrix(&["a", "b"]).draw().unwrap());
    }

    #[test]
    fn names_are_on_both_axes_and_numbers_in_cells() {
        let texts = texts(&matrix(&["fraud", "harm"]).to_svg().unwrap());
        let times = |text: &str| texts.iter().filter(|found| *found == text).count();
        assert_eq!((times("fraud"), times("harm"), times("1.00"), times("-0.25")), (2, 2, 2, 2));
        assert_eq!(two_decimals(-0.001), "0.00");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let reason = |figure: &CosineMatrix| figure.draw().unwrap_err().to_string();
        let mut figure = matrix(&["fraud", "harm"]);
        figure.values[0][1] = 1.1;
        assert!(reason(&figure).contains("`fraud` and `harm` is 1.1"), "{}", reason(&figure));
        figure.values.pop();
        assert!(reason(&figure).contains("1 rows and 2 names"), "{}", reason(&figure));
    }
}
