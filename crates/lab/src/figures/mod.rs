//! Figures as SVG and PNG: functions of plain data, with no text but the names they are given.
//!
//! A figure lays itself out as a [`Drawing`] of boxes, lines and labels, whose places are known before anything
//! is painted; plotters' backends paint it. Labels are measured with the font that the PNG is set in (`DejaVu`
//! Sans, inside the binary), so no font of the system is needed, and names wrap or turn instead of meeting.
//! In the SVG text stays text, in the reader's sans-serif. The same data give the same bytes.
//!
//! Colours keep apart for colour-blind readers: series are Okabe and Ito's ("Color Universal Design", 2008),
//! and curves differ in their marks too.

mod axis;
mod bars;
mod colour;
mod confusion;
mod cosine;
mod curves;
mod drawing;
mod font;
mod grid;
mod head;
mod heatmap;
mod line;
mod mark;
mod render;

use std::path::Path;

pub use bars::{Bar, BarGroup, GroupedBars};
pub use confusion::ConfusionMatrix;
pub use cosine::CosineMatrix;
pub use curves::{Curve, CurvePoint, Curves, ValueAxis};
pub use drawing::Drawing;
pub use heatmap::{Cell, Heatmap};
pub use line::{Line, NamedPoint};

use crate::{Error, Result};

/// What can be drawn.
pub trait Figure {
    /// The figure, laid out.
    ///
    /// # Errors
    ///
    /// [`Error::Figure`] for data that cannot be drawn: a value that is no number or lies outside its range,
    /// or rows of differing length.
    fn draw(&self) -> Result<Drawing>;

    /// An SVG file; its text is text.
    ///
    /// # Errors
    ///
    /// Those of [`Self::draw`].
    fn to_svg(&self) -> Result<String> {
        self.draw()?.to_svg()
    }

    /// A PNG file with two pixels for each unit of the SVG. Characters that `DejaVu` Sans does not have are boxes.
    ///
    /// # Errors
    ///
    /// Those of [`Self::draw`].
    fn to_png(&self) -> Result<Vec<u8>> {
        self.draw()?.to_png()
    }

    /// Writes a PNG where the path ends in `.png`, else an SVG.
    ///
    /// # Errors
    ///
    /// Those of [`Self::draw`]; [`Error::Io`] when the file cannot be written.
    fn write(&self, path: &Path) -> Result<()> {
        let is_png = path.extension().is_some_and(|name| name.eq_ignore_ascii_case("png"));
        let bytes = if is_png { self.to_png()? } else { self.to_svg()?.into_bytes() };
        std::fs::write(path, bytes).map_err(|source| Error::io(path, source))
    }
}

/// [`Error::Figure`].
fn refuse(title: &str, reason: impl Into<String>) -> Error {
    Error::Figure { title: title.to_owned(), reason: reason.into() }
}

/// Checks that a value and the interval around it are numbers within `range`, and the interval in order.
fn check(
    title: &str,
    what: impl Fn() -> String,
    (value, interval): (f64, Option<(f64, f64)>),
    range: (f64, f64),
) -> Result<()> {
    let (low, high) = interval.unwrap_or((value, value));
    let inside = |number: f64| number.is_finite() && (range.0..=range.1).contains(&number);
    if let Some(bad) = [value, low, high].into_iter().find(|&number| !inside(number)) {
        let expected = match range {
            (low, high) if low.is_finite() && high.is_finite() => {
                format!("a number from {low} to {high}")
            }
            _ => "a finite number".to_owned(),
        };
        return Err(refuse(title, format!("{} is {bad}; expected {expected}", what())));
    }
    if low > high {
        let reason =
            format!("{} has the interval {low} to {high}; expected low, then high", what());
        return Err(refuse(title, reason));
    }
    Ok(())
}

/// Checks that each row, of which the table has these, has a name, and as many entries as there are columns.
fn check_table(
    title: &str,
    what: &str,
    (rows, columns): (&[String], &[String]),
    widths: &[usize],
) -> Result<()> {
    if widths.len() != rows.len() {
        let reason = format!("{} {what} and {} names", widths.len(), rows.len());
        return Err(refuse(title, reason));
    }
    check_widths(title, "row", widths, columns.len())
}

/// Checks that each row has one entry a column.
fn check_widths(title: &str, what: &str, widths: &[usize], expected: usize) -> Result<()> {
    let wrong = widths.iter().enumerate().find(|(_, width)| **width != expected);
    wrong.map_or(Ok(()), |(idx, width)| {
        let reason = format!("{what} {} has {width} entries; expected {expected}", idx + 1);
        Err(refuse(title, reason))
    })
}

/// A share in per cent, with a decimal below 10 %.
fn percent(share: f64) -> String {
    format!("{} %", percent_number(share))
}

/// [`percent`] without its sign.
fn percent_number(share: f64) -> String {
    let percent = share * 100.0;
    let one_decimal = format!("{percent:.1}");
    match one_decimal.strip_suffix(".0") {
        Some(whole) => whole.to_owned(),
        None if percent < 9.95 => one_decimal,
        None => format!("{percent:.0}"),
    }
}

/// How many, as a coordinate counts.
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_below_a_tenth_have_a_decimal() {
        let texts = [0.0, 0.004, 0.05, 0.0995, 0.1, 0.554, 1.0].map(percent);
        assert_eq!(texts, ["0 %", "0.4 %", "5 %", "10 %", "10 %", "55 %", "100 %"]);
    }

    #[test]
    fn the_files_name_says_its_format() {
        let figure = CosineMatrix { title: "t".to_owned(), names: Vec::new(), values: Vec::new() };
        let folder = tempfile::tempdir().unwrap();
        let start = |name: &str| {
            let path = folder.path().join(name);
            figure.write(&path).unwrap();
            std::fs::read(path).unwrap()[..4].to_vec()
        };
        assert_eq!(start("a.PNG"), b"\x89PNG");
        assert_eq!(start("a.svg"), b"<svg");
        let nowhere = folder.path().join("missing/a.svg");
        assert!(matches!(figure.write(&nowhere), Err(Error::Io { path, .. }) if path == nowhere));
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let what = || "bar `x`".to_owned();
        let refused = |value, interval| {
            check("title", what, (value, interval), (0.0, 1.0)).unwrap_err().to_string()
        };
        assert!(
            refused(f64::NAN, None)
                .contains("`title`: bar `x` is NaN; expected a number from 0 to 1")
        );
        assert!(refused(0.5, Some((0.2, 1.5))).contains("is 1.5"));
        assert!(refused(0.5, Some((0.6, 0.4))).contains("low, then high"));
        check("title", what, (1.0, Some((0.0, 1.0))), (0.0, 1.0)).unwrap();
    }
}
