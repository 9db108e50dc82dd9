//! Dose and response: what a signed strength does.

use super::axis::{Axis, Ticks};
use super::colour::{FAINT, GRID, INK, SAFE};
use super::drawing::{At, Drawing, Label};
use super::font::{self, Side};
use super::head::{self, Key, MARGIN, NAME_SIZE, Sign, TEXT_SIZE};
use super::mark::{curve_colour, form_of};
use super::{Figure, check, refuse};
use crate::Result;

const WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 340.0;
const BAND_OPACITY: f64 = 0.16;
const SAFE_OPACITY: f64 = 0.12;
/// Room beside the outermost points, as a share of the range.
const SIDE: f64 = 0.03;

/// Values over a signed number, with a line at zero.
#[derive(Debug, Clone)]
pub struct Curves {
    /// Above the figure.
    pub title: String,
    /// What goes along the horizontal axis: `strength`.
    pub x_name: String,
    /// What the curves measure.
    pub y_name: String,
    /// How far the vertical axis goes.
    pub value_axis: ValueAxis,
    /// The curves, the one that matters first; colour and mark tell 40 apart.
    pub curves: Vec<Curve>,
    /// A range of x to shade: first and last strength that are safe.
    pub safe_window: Option<(f64, f64)>,
    /// An x to mark: the default strength.
    pub default_x: Option<f64>,
}

/// How far the vertical axis goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueAxis {
    /// Shares: 0 to 1, written in per cent.
    Share,
    /// From the lowest to the highest value, rounded.
    Fitted,
}

/// One curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// In any order.
    pub points: Vec<CurvePoint>,
}

/// A point of a curve.
#[derive(Debug, Clone, Copy)]
pub struct CurvePoint {
    /// Where.
    pub x: f64,
    /// How much.
    pub value: f64,
    /// Its interval, low and high: part of a band where the neighbour has one too.
    pub interval: Option<(f64, f64)>,
}

impl Figure for Curves {
    fn draw(&self) -> Result<Drawing> {
        self.check()?;
        let mut drawing = Drawing::new(&self.title, WIDTH);
        let top = head::draw(&mut drawing, &self.keys());
        let bottom = top + PLOT_HEIGHT;
        let y_ticks = self.y_ticks();
        let y_text = |value: f64| match self.value_axis {
            ValueAxis::Share => y_ticks.percent(value),
            ValueAxis::Fitted => y_ticks.text(value),
        };
        let y_texts = y_ticks.values.iter().map(|&value| font::width(&y_text(value), TEXT_SIZE));
        let left = MARGIN + NAME_SIZE + 12.0 + y_texts.fold(0.0, f64::max) + 8.0;
        let (low, high) = self.x_range();
        let x = Axis { low, high, start: left, end: WIDTH - MARGIN - 6.0 };
        let (low, high) = y_ticks.range();
        let y = Axis { low, high, start: bottom, end: top };
        if let Some((first, last)) = self.safe_window {
            drawing.shade((x.at(first), top), (x.at(last), bottom), SAFE, SAFE_OPACITY);
        }
        for &value in &y_ticks.values {
            let at = y.at(value);
            drawing.line((left, at), (x.end, at), GRID, 1.0);
            drawing.label(Label::new(y_text(value), (left - 8.0, at), TEXT_SIZE, Side::End));
        }
        let x_ticks = Ticks::within((x.low, x.high), 14.0);
        for &value in &x_ticks.values {
            let at = x.at(value);
            drawing.line((at, bottom), (at, bottom + 5.0), INK, 1.0);
            let text = x_ticks.text(value);
            drawing.label(Label::new(text, (at, bottom + 16.0), TEXT_SIZE, Side::Middle));
        }
        drawing.line((left, bottom), (x.end, bottom), INK, 1.0);
        drawing.line((x.at(0.0), top), (x.at(0.0), bottom), FAINT, 1.0);
        if let Some(default) = self.default_x {
            drawing.dashed((x.at(default), top), (x.at(default), bottom), INK, 2.0);
        }
        self.draw_curves(&mut drawing, |point_x, value| (x.at(point_x), y.at(value)));
        let centre = f64::midpoint(left, x.end);
        drawing.label(Label::new(&self.x_name, (centre, bottom + 42.0), NAME_SIZE, Side::Middle));
        let middle = f64::midpoint(top, bottom);
        let name =
            Label::new(&self.y_name, (MARGIN + NAME_SIZE / 2.0, middle), NAME_SIZE, Side::Middle);
        drawing.label(name.turned());
        if self.points().next().is_none() {
            head::say_empty(
                &mut drawing,
                (f64::midpoint(centre, x.end), f64::midpoint(middle, bottom)),
            );
        }
        Ok(drawing.finish(bottom + 42.0 + NAME_SIZE / 2.0 + MARGIN))
    }
}

impl Curves {
    fn points(&self) -> impl Iterator<Item = &CurvePoint> {
        self.curves.iter().flat_map(|curve| &curve.points)
    }

    fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self
            .curves
            .iter()
            .enumerate()
            .map(|(idx, curve)| Key {
                name: curve.name.clone(),
                sign: Sign::Points(curve_colour(idx), form_of(idx)),
            })
            .collect();
        if let Some((first, last)) = self.safe_window {
            let name = format!("safe window, {first} to {last}");
            keys.push(Key { name, sign: Sign::Box(SAFE, 2.0 * SAFE_OPACITY) });
        }
        if let Some(default) = self.default_x {
            keys.push(Key { name: format!("default, {default}"), sign: Sign::Dashes(INK) });
        }
        keys
    }

    /// From the first to the last of what is drawn, with zero, and some room.
    fn x_range(&self) -> (f64, f64) {
        let window = self.safe_window.iter().flat_map(|&(first, last)| [first, last]);
        let places = self.points().map(|point| point.x).chain(window).chain(self.default_x);
        let (low, high) =
            places.fold((0.0, 0.0), |(low, high): (f64, f64), x| (low.min(x), high.max(x)));
        let (low, high) = if high > low { (low, high) } else { (-1.0, 1.0) };
        let side = (high - low) * SIDE;
        (low - side, high + side)
    }

    fn y_ticks(&self) -> Ticks {
        let ends = self.points().flat_map(|point| {
            let (low, high) = point.interval.unwrap_or((point.value, point.value));
            [low.min(point.value), high.max(point.value)]
        });
        let range = match self.value_axis {
            ValueAxis::Share => (0.0, 1.0),
            ValueAxis::Fitted => ends
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), end| {
                    (low.min(end), high.max(end))
                }),
        };
        match range {
            (low, high) if low < high => Ticks::around((low, high), 6.0),
            // One value, or none: a range around it.
            (low, _) if low.is_finite() => Ticks::around((low - 1.0, low + 1.0), 6.0),
            _ => Ticks::around((0.0, 1.0), 6.0),
        }
    }

    /// Bands first, then lines, then points, so that no curve hides another's points.
    fn draw_curves(&self, drawing: &mut Drawing, place: impl Fn(f64, f64) -> At) {
        let sorted: Vec<Vec<CurvePoint>> = self
            .curves
            .iter()
            .map(|curve| {
                let mut points = curve.points.clone();
                points.sort_by(|one, two| one.x.total_cmp(&two.x));
                points
            })
            .collect();
        for (idx, points) in sorted.iter().enumerate() {
            for run in points.chunk_by(|one, two| one.interval.is_some() == two.interval.is_some())
            {
                let ends: Vec<(f64, (f64, f64))> =
                    run.iter().filter_map(|point| Some((point.x, point.interval?))).collect();
                if ends.len() > 1 {
                    let upper = ends.iter().map(|&(x, (_, high))| place(x, high));
                    let lower = ends.iter().rev().map(|&(x, (low, _))| place(x, low));
                    drawing.area(upper.chain(lower).collect(), curve_colour(idx), BAND_OPACITY);
                }
            }
        }
        for (idx, points) in sorted.iter().enumerate() {
            let points = points.iter().map(|point| place(point.x, point.value)).collect();
            drawing.path(points, curve_colour(idx), 2.0);
        }
        for (idx, points) in sorted.iter().enumerate() {
            for point in points {
                form_of(idx).draw(drawing, place(point.x, point.value), curve_colour(idx));
            }
        }
    }

    fn check(&self) -> Result<()> {
        let range = match self.value_axis {
            ValueAxis::Share => (0.0, 1.0),
            ValueAxis::Fitted => (f64::NEG_INFINITY, f64::INFINITY),
        };
        let any = (f64::NEG_INFINITY, f64::INFINITY);
        for curve in &self.curves {
            for point in &curve.points {
                let what = || format!("a place of `{}`", curve.name);
                check(&self.title, what, (point.x, None), any)?;
                let what = || format!("`{}` at {}", curve.name, point.x);
                check(&self.title, what, (point.value, point.interval), range)?;
            }
        }
        if let Some((first, last)) = self.safe_window {
            check(&self.title, || "the safe window".to_owned(), (first, Some((first, last))), any)?;
        }
        match self.default_x {
            Some(default) if !default.is_finite() => Err(refuse(
                &self.title,
                format!("the default is {default}; expected a finite number"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::Shape;
    use super::super::drawing::tests::{assert_labels_are_apart, texts};
    use super::*;

    fn curves(num: usize) -> Curves {
        let point = |x: f64| CurvePoint {
            x,
            value: 1.0 / (1.0 + x.exp()),
            interval: Some((0.8 / (1.0 + x.exp()), 1.0)),
        };
        let curve = |idx: usize| Curve {
            name: format!("tailored_financial_advice_{idx}"),
            points: [3.0, -2.0, -1.0, 0.0, 1.0, 2.0].map(point).to_vec(),
        };
        Curves {
            title: "Unsafe responses by strength".to_owned(),
            x_name: "strength".to_owned(),
            y_name: "unsafe responses".to_owned(),
            value_axis: ValueAxis::Share,
            curves: (0..num).map(curve).collect(),
            safe_window: Some((0.5, 2.25)),
            default_x: Some(1.5),
        }
    }

    fn areas(drawing: &Drawing) -> Vec<Vec<At>> {
        let shapes = drawing.shapes.iter().filter_map(|shape| match shape {
            Shape::Area { points, opacity, .. } if *opacity < 1.0 => Some(points.clone()),
            _ => None,
        });
        shapes.collect()
    }

    #[test]
    fn fourteen_curves_have_their_names_apart() {
        for num in [14, 1, 0] {
            assert_labels_are_apart(&curves(num).draw().unwrap());
        }
        let mut bare = curves(0);
        (bare.safe_window, bare.default_x) = (None, None);
        assert_labels_are_apart(&bare.draw().unwrap());
    }

    #[test]
    fn names_ticks_window_and_default_are_there() {
        let texts = texts(&curves(1).to_svg().unwrap());
        let expected =
            ["tailored_financial_advice_0", "safe window, 0.5 to 2.25", "default, 1.5", "100 %"];
        for text in expected {
            assert!(texts.iter().any(|found| found == text), "{text} is not in {texts:?}");
        }
    }

    /// Points go from left to right whatever their order, and lower values lie lower.
    #[test]
    fn a_curve_goes_through_its_points_in_order() {
        let drawing = curves(1).draw().unwrap();
        let curve = drawing.shapes.iter().find_map(|shape| match shape {
            Shape::Path { points, .. } if points.len() == 6 => Some(points.clone()),
            _ => None,
        });
        let curve = curve.unwrap();
        assert!(
            curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1),
            "{curve:?}"
        );
    }

    #[test]
    fn a_band_ends_where_intervals_do() {
        assert_eq!(
            areas(&curves(1).draw().unwrap()).iter().map(Vec::len).collect::<Vec<_>>(),
            [12]
        );
        let mut figure = curves(1);
        figure.curves[0].points[3].interval = None;
        let bands = areas(&figure.draw().unwrap());
        assert_eq!(bands.iter().map(Vec::len).collect::<Vec<_>>(), [4, 6]);
    }

    #[test]
    fn a_fitted_axis_encloses_its_values() {
        let mut figure = curves(1);
        figure.value_axis = ValueAxis::Fitted;
        for (idx, point) in figure.curves[0].points.iter_mut().enumerate() {
            (point.value, point.interval) = (20.0 + super::super::count(idx), None);
        }
        let texts = texts(&figure.to_svg().unwrap());
        assert!(
            ["20", "25"].iter().all(|text| texts.iter().any(|found| found == text)),
            "{texts:?}"
        );
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let mut figure = curves(1);
        figure.curves[0].points[0].value = 1.5;
        let reason = figure.draw().unwrap_err().to_string();
        assert!(
            reason.contains("advice_0` at 3 is 1.5; expected a number from 0 to 1"),
            "{reason}"
        );
        let mut figure = curves(1);
        figure.curves[0].points[0].x = f64::INFINITY;
        assert!(figure.draw().unwrap_err().to_string().contains("expected a finite number"));
        let mut figure = curves(1);
        figure.safe_window = Some((2.0, 1.0));
        assert!(figure.draw().unwrap_err().to_string().contains("the safe window"));
        let mut figure = curves(1);
        figure.default_x = Some(f64::NAN);
        assert!(figure.draw().unwrap_err().to_string().contains("the default is NaN"));
    }
}
