//! One line of figures, at named places.

use super::axis::{Axis, Ticks};
use super::colour::{GRID, INK, LINE, WHITE};
use super::drawing::{Drawing, LINE_PITCH, Label};
use super::font::{self, Side};
use super::head::{self, MARGIN, NAME_SIZE, TEXT_SIZE};
use super::{Figure, check, count};
use crate::Result;

const WIDTH: f64 = 800.0;
const PLOT_HEIGHT: f64 = 340.0;
/// Room above the highest point.
const HEADROOM: f64 = 1.08;

/// A line through named points, at equal distances.
#[derive(Debug, Clone)]
pub struct Line {
    /// Above the figure.
    pub title: String,
    /// What the names below the horizontal axis are.
    pub x_name: String,
    /// What the values are.
    pub y_name: String,
    /// From left to right.
    pub points: Vec<NamedPoint>,
}

/// One figure.
#[derive(Debug, Clone)]
pub struct NamedPoint {
    /// Its name below the horizontal axis.
    pub label: String,
    /// From 0.
    pub value: f64,
    /// Smallest and largest measurement, drawn as a bar.
    pub range: Option<(f64, f64)>,
}

impl Figure for Line {
    fn draw(&self) -> Result<Drawing> {
        for point in &self.points {
            let what = || format!("`{}`", point.label);
            check(&self.title, what, (point.value, point.range), (0.0, f64::INFINITY))?;
        }
        let mut drawing = Drawing::new(&self.title, WIDTH);
        let top = head::draw(&mut drawing, &[]);
        let bottom = top + PLOT_HEIGHT;
        let end =
            |point: &NamedPoint| point.range.map_or(point.value, |(_, max)| max.max(point.value));
        let highest = self.points.iter().map(end).fold(0.0, f64::max);
        let ticks = Ticks::around((0.0, if highest > 0.0 { highest * HEADROOM } else { 1.0 }), 8.0);
        let widths = ticks.values.iter().map(|&value| font::width(&ticks.text(value), TEXT_SIZE));
        let left = MARGIN + NAME_SIZE + 12.0 + widths.fold(0.0, f64::max) + 8.0;
        let right = WIDTH - MARGIN;
        let y = Axis { low: 0.0, high: ticks.range().1, start: bottom, end: top };
        for &value in &ticks.values {
            let at = y.at(value);
            drawing.line((left, at), (right, at), GRID, 1.0);
            drawing.label(Label::new(ticks.text(value), (left - 8.0, at), TEXT_SIZE, Side::End));
        }
        drawing.line((left, bottom), (right, bottom), INK, 1.0);
        let pitch = (right - left) / count(self.points.len().max(1));
        let x = |idx: usize| left + pitch * (count(idx) + 0.5);
        self.draw_points(&mut drawing, &y, x);
        let names =
            head::wrap_all(self.points.iter().map(|point| &point.label), TEXT_SIZE, pitch - 6.0);
        let most = names.iter().map(Vec::len).max().unwrap_or(1);
        for (idx, lines) in names.iter().enumerate() {
            let depth = TEXT_SIZE * LINE_PITCH * count(lines.len());
            let at = (x(idx), bottom + 8.0 + depth / 2.0);
            drawing.lines(lines, &Label::new("", at, TEXT_SIZE, Side::Middle));
        }
        let below = bottom + 8.0 + TEXT_SIZE * LINE_PITCH * count(most) + 8.0 + NAME_SIZE / 2.0;
        let centre = f64::midpoint(left, right);
        drawing.label(Label::new(&self.x_name, (centre, below), NAME_SIZE, Side::Middle));
        let at = (MARGIN + NAME_SIZE / 2.0, f64::midpoint(top, bottom));
        drawing.label(Label::new(&self.y_name, at, NAME_SIZE, Side::Middle).turned());
        if self.points.is_empty() {
            head::say_empty(&mut drawing, (centre, at.1));
        }
        Ok(drawing.finish(below + NAME_SIZE / 2.0 + MARGIN))
    }
}

impl Line {
    fn draw_points(&self, drawing: &mut Drawing, y: &Axis, x: impl Fn(usize) -> f64) {
        let places = || self.points.iter().enumerate().map(|(idx, point)| (idx, x(idx), point));
        drawing.path(places().map(|(_, x, point)| (x, y.at(point.value))).collect(), LINE, 2.0);
        for (_, x, point) in places() {
            if let Some((min, max)) = point.range {
                drawing.line((x, y.at(min)), (x, y.at(max)), LINE, 2.0);
            }
            drawing.disc((x, y.at(point.value)), 4.0, LINE);
        }
        for (idx, x, point) in places() {
            let (offset, side) =
                if self.rises_to(idx) { (-8.0, Side::End) } else { (8.0, Side::Start) };
            let text = format!("{:.1}", point.value);
            let at = (x + offset, y.at(point.value) - 12.0);
            let width = font::width(&text, TEXT_SIZE);
            let start = if side == Side::End { at.0 - width } else { at.0 };
            // On white, so that a line of the grid does not strike the number out.
            let half = TEXT_SIZE / 2.0;
            drawing.fill((start - 1.0, at.1 - half), (start + width + 1.0, at.1 + half), WHITE);
            drawing.label(Label::new(text, at, TEXT_SIZE, side));
        }
    }

    /// Whether the line comes to place `idx` from below, so that the left side above it is free.
    fn rises_to(&self, idx: usize) -> bool {
        let value = |idx: usize| self.points.get(idx).map(|point| point.value);
        idx.checked_sub(1).and_then(value) <= value(idx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::tests::{assert_labels_are_apart, texts};
    use super::*;

    fn line(points: Vec<NamedPoint>) -> Line {
        let [title, x_name, y_name] = ["a & b", "clients", "rate"].map(str::to_owned);
        Line { title, x_name, y_name, points }
    }

    fn point(label: &str, value: f64) -> NamedPoint {
        NamedPoint {
            label: label.to_owned(),
            value,
            range: Some(((value - 1.0).max(0.0), value + 1.0)),
        }
    }

    #[test]
    fn every_point_has_its_name_and_its_value() {
        let line = line(vec![point("x1", 10.25), point("x2", 19.5), point("x4", 38.0)]);
        let svg = line.to_svg().unwrap();
        for text in ["x1", "x2", "x4", "10.2", "19.5", "38.0", "clients", "rate", "a & b"] {
            assert!(texts(&svg).iter().any(|found| found == text), "{text} is not in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn no_point_and_a_point_at_zero_are_charts_too() {
        assert!(line(Vec::new()).to_svg().unwrap().contains("no data"));
        let zero = NamedPoint { label: "0".to_owned(), value: 0.0, range: None };
        let svg = line(vec![zero]).to_svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
        // Three times 0.2 and its like are not written out.
        assert!(svg.contains("0.6") && !svg.contains("0.60000"), "{svg}");
    }

    #[test]
    fn names_that_are_wider_than_their_place_wrap() {
        let names =
            (0..9).map(|idx| point(&format!("all steered shared {idx}"), 10.0 + count(idx)));
        assert_labels_are_apart(&line(names.collect()).draw().unwrap());
        assert_labels_are_apart(&line(vec![point("falls", 9.0), point("to", 3.0)]).draw().unwrap());
    }
}
