//! One line of figures as an SVG file.

use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height, in pixels.
const SIZE: (u32, u32) = (800, 480);
const INK: RGBColor = RGBColor(45, 55, 72);
const GRID: RGBColor = RGBColor(226, 232, 240);
const LINE: RGBColor = RGBColor(15, 118, 110);
/// Room above the highest point.
const HEADROOM: f64 = 1.15;

/// A line through named points, at equal distances.
#[derive(Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: String,
    pub(super) x_name: &'a str,
    pub(super) y_name: &'a str,
    pub(super) points: Vec<Point>,
}

/// One figure.
#[derive(Debug)]
pub(super) struct Point {
    /// Its name below the horizontal axis.
    pub(super) label: String,
    pub(super) value: f64,
    /// Smallest and largest measurement, drawn as a bar.
    pub(super) range: Option<(f64, f64)>,
}

impl Chart<'_> {
    /// Writes the chart.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, self.to_svg()?)
            .with_context(|| format!("writing the chart {}", path.display()))
    }

    fn to_svg(&self) -> anyhow::Result<String> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        // plotters' errors borrow the area.
        self.draw(&area).map_err(|error| anyhow!("drawing the chart: {error}"))?;
        drop(area);
        Ok(svg)
    }

    fn draw<'b>(
        &self,
        area: &DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'b> as DrawingBackend>::ErrorType>> {
        area.fill(&WHITE)?;
        let num_points = i32::try_from(self.points.len()).unwrap_or(i32::MAX);
        let top = |point: &Point| point.range.map_or(point.value, |(_, max)| max.max(point.value));
        let highest = self.points.iter().map(top).fold(0.0, f64::max);
        let highest = if highest > 0.0 { highest * HEADROOM } else { 1.0 };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 20).into_font().color(&INK))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(72)
            .build_cartesian_2d(-1..num_points, 0.0..highest)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(self.points.len() + 2)
            .x_label_formatter(&|idx| self.label(*idx))
            .y_label_formatter(&|value| tick(*value))
            .x_desc(self.x_name)
            .y_desc(self.y_name)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
            .draw()?;
        let places = || (0..num_points).zip(&self.points);
        let line = LINE.stroke_width(2);
        chart
            .draw_series(LineSeries::new(places().map(|(idx, point)| (idx, point.value)), line))?;
        let bars = places().filter_map(|(idx, point)| {
            point.range.map(|(min, max)| PathElement::new([(idx, min), (idx, max)], line))
        });
        chart.draw_series(bars)?;
        chart.draw_series(
            places().map(|(idx, point)| Circle::new((idx, point.value), 4, LINE.filled())),
        )?;
        chart.draw_series(places().map(|(idx, point)| {
            let (offset, side) =
                if self.rises_to(idx) { (-6, HPos::Right) } else { (6, HPos::Left) };
            let style =
                ("sans-serif", 13).into_font().color(&INK).pos(Pos::new(side, VPos::Bottom));
            let text = Text::new(format!("{:.1}", point.value), (offset, -8), style);
            EmptyElement::at((idx, point.value)) + text
        }))?;
        area.present()
    }

    /// Whether the line comes to place `idx` from below, so that the left side above it is free.
    fn rises_to(&self, idx: i32) -> bool {
        let value = |idx: i32| self.points.get(usize::try_from(idx).ok()?).map(|point| point.value);
        value(idx - 1) <= value(idx)
    }

    /// The name below place `idx` of the axis; the places at its two ends have none.
    fn label(&self, idx: i32) -> String {
        let point = usize::try_from(idx).ok().and_then(|idx| self.points.get(idx));
        point.map_or_else(String::new, |point| point.label.clone())
    }
}

/// A number beside the vertical axis, without the noise of binary fractions.
fn tick(value: f64) -> String {
    format!("{}", (value * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<Point>) -> String {
        let chart = Chart { title: "a & b".to_owned(), x_name: "clients", y_name: "rate", points };
        chart.to_svg().unwrap()
    }

    #[test]
    fn every_point_has_its_name_and_its_value() {
        let point = |label: &str, value: f64| Point {
            label: label.to_owned(),
            value,
            range: Some((value - 1.0, value + 1.0)),
        };
        let svg = chart(vec![point("x1", 10.25), point("x2", 19.5), point("x4", 38.0)]);
        for text in ["x1", "x2", "x4", "10.2", "19.5", "38.0", "clients", "rate", "a &amp; b"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn no_point_and_a_point_at_zero_are_charts_too() {
        assert!(chart(Vec::new()).contains("</svg>"));
        let zero = Point { label: "0".to_owned(), value: 0.0, range: None };
        let svg = chart(vec![zero]);
        assert_eq!(svg.matches("<circle").count(), 1);
        // 0.1 + 0.2 and its like are not written out.
        assert!(svg.contains("0.3") && !svg.contains("0.30000"), "{svg}");
    }
}
