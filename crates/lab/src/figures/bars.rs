//! Bars in groups: the form of the paper's Figure 2, lying, so that names of any length can be read.

use super::axis::{Axis, Ticks};
use super::colour::{FAINT, GRID, INK, SERIES, WHITE};
use super::drawing::{Drawing, LINE_PITCH, Label};
use super::font::{self, Side};
use super::head::{self, Key, MARGIN, NAME_SIZE, SMALL_SIZE, Sign, TEXT_SIZE};
use super::mark::bar_colour;
use super::{Figure, check, check_widths, count, percent, refuse};
use crate::Result;

const WIDTH: f64 = 860.0;
/// Names of groups wrap at this width.
const NAME_WIDTH: f64 = 210.0;
const BAR_HEIGHT: f64 = 15.0;
const GROUP_GAP: f64 = 14.0;
/// Right of the axis, for the number of a bar that is as long.
const NUMBER_WIDTH: f64 = 46.0;
/// What is written where nothing was measured.
const NOTHING: &str = "not measured";

/// Shares of groups, one bar a series: %UR per category, naive and steered.
#[derive(Debug, Clone)]
pub struct GroupedBars {
    /// Above the figure.
    pub title: String,
    /// What the bars measure.
    pub value_name: String,
    /// Names of the series, at most 8; the first one is what the others are compared with.
    pub series: Vec<String>,
    /// From top to bottom.
    pub groups: Vec<BarGroup>,
}

/// A group of bars: a category.
#[derive(Debug, Clone)]
pub struct BarGroup {
    /// Left of the bars.
    pub name: String,
    /// One a series; none where nothing was measured.
    pub bars: Vec<Option<Bar>>,
}

/// One bar.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// A share, 0 to 1.
    pub value: f64,
    /// Its interval, drawn as a whisker: low and high, 0 to 1.
    pub interval: Option<(f64, f64)>,
}

impl Bar {
    /// The end of what is drawn.
    fn end(&self) -> f64 {
        self.interval.map_or(self.value, |(_, high)| high.max(self.value))
    }
}

impl Figure for GroupedBars {
    fn draw(&self) -> Result<Drawing> {
        self.check()?;
        let mut drawing = Drawing::new(&self.title, WIDTH);
        let keys = self
            .series
            .iter()
            .enumerate()
            .map(|(idx, name)| Key { name: name.clone(), sign: Sign::Box(bar_colour(idx), 1.0) });
        let top = head::draw(&mut drawing, &keys.collect::<Vec<_>>());
        let names =
            head::wrap_all(self.groups.iter().map(|group| &group.name), TEXT_SIZE, NAME_WIDTH);
        let left = MARGIN + head::widest(&names, TEXT_SIZE) + 10.0;
        let heights: Vec<f64> = names.iter().map(|lines| self.group_height(lines)).collect();
        let bottom = top + heights.iter().sum::<f64>().max(60.0);
        let bars = || self.groups.iter().flat_map(|group| &group.bars).flatten();
        let highest = bars().map(Bar::end).fold(0.0, f64::max);
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let ticks = Ticks::around((0.0, highest), 6.0);
        let end = WIDTH - MARGIN - NUMBER_WIDTH;
        let axis = Axis { low: 0.0, high: ticks.range().1, start: left, end };
        draw_ticks(&mut drawing, &ticks, &axis, (top, bottom));
        let at = (f64::midpoint(axis.start, axis.end), bottom + 40.0);
        drawing.label(Label::new(&self.value_name, at, NAME_SIZE, Side::Middle));
        let mut y = top;
        for ((group, lines), height) in self.groups.iter().zip(&names).zip(heights) {
            let middle = y + height / 2.0;
            let name = Label::new("", (left - 10.0, middle), TEXT_SIZE, Side::End);
            drawing.lines(lines, &name);
            let first = middle - BAR_HEIGHT * count(group.bars.len()) / 2.0;
            for (idx, bar) in group.bars.iter().enumerate() {
                draw_bar(&mut drawing, &axis, bar.as_ref(), (idx, first + BAR_HEIGHT * count(idx)));
            }
            y += height;
        }
        drawing.line((left, top), (left, bottom), INK, 1.0);
        if self.groups.is_empty() {
            head::say_empty(
                &mut drawing,
                (f64::midpoint(axis.start, axis.end), f64::midpoint(top, bottom)),
            );
        }
        Ok(drawing.finish(bottom + 40.0 + NAME_SIZE + MARGIN / 2.0))
    }
}

impl GroupedBars {
    fn check(&self) -> Result<()> {
        if self.series.len() > SERIES.len() {
            let reason = format!(
                "{} series; no more than {} colours can be told apart, so draw two figures",
                self.series.len(),
                SERIES.len()
            );
            return Err(refuse(&self.title, reason));
        }
        let widths: Vec<usize> = self.groups.iter().map(|group| group.bars.len()).collect();
        check_widths(&self.title, "group", &widths, self.series.len())?;
        for group in &self.groups {
            for (bar, series) in group.bars.iter().zip(&self.series) {
                let Some(bar) = bar else { continue };
                let what = || format!("`{}` of `{series}`", group.name);
                check(&self.title, what, (bar.value, bar.interval), (0.0, 1.0))?;
            }
        }
        Ok(())
    }

    fn group_height(&self, lines: &[String]) -> f64 {
        let bars = BAR_HEIGHT * count(self.series.len());
        bars.max(TEXT_SIZE * LINE_PITCH * count(lines.len())) + GROUP_GAP
    }
}

fn draw_ticks(drawing: &mut Drawing, ticks: &Ticks, axis: &Axis, (top, bottom): (f64, f64)) {
    for &value in &ticks.values {
        let x = axis.at(value);
        drawing.line((x, top), (x, bottom), GRID, 1.0);
        let label = Label::new(ticks.percent(value), (x, bottom + 14.0), TEXT_SIZE, Side::Middle);
        drawing.label(label);
    }
}

/// The bar of series `idx`, its upper edge at `y`.
fn draw_bar(drawing: &mut Drawing, axis: &Axis, bar: Option<&Bar>, (idx, y): (usize, f64)) {
    let middle = y + BAR_HEIGHT / 2.0;
    let Some(bar) = bar else {
        let at = (axis.start + 6.0, middle);
        drawing.label(Label::new(NOTHING, at, SMALL_SIZE, Side::Start).colour(FAINT));
        return;
    };
    let (from, to) = ((axis.start, y + 1.0), (axis.at(bar.value), y + BAR_HEIGHT - 1.0));
    drawing.fill(from, to, bar_colour(idx));
    if let Some((low, high)) = bar.interval {
        let (low, high) = (axis.at(low), axis.at(high));
        drawing.line((low, middle), (high, middle), INK, 1.0);
        for x in [low, high] {
            drawing.line((x, middle - 3.0), (x, middle + 3.0), INK, 1.0);
        }
    }
    let text = percent(bar.value);
    // Behind the whisker, on white, so that a line of the grid does not strike the number out.
    let x = axis.at(bar.end()) + 6.0;
    let half = SMALL_SIZE / 2.0 + 0.5;
    let width = font::width(&text, SMALL_SIZE);
    drawing.fill((x - 1.0, middle - half), (x + width + 1.0, middle + half), WHITE);
    drawing.label(Label::new(text, (x, middle), SMALL_SIZE, Side::Start));
}

#[cfg(test)]
mod tests {
    use super::super::drawing::tests::{assert_labels_are_apart, texts};
    use super::*;

    fn bars(num_groups: usize, num_series: usize) -> GroupedBars {
        let bar = |group: usize, series: usize| {
            let value = (1.0 + count(group)) / (2.0 + count(group + series * 3));
            Some(Bar { value, interval: Some(((value - 0.1).max(0.0), (value + 0.1).min(1.0))) })
        };
        let groups = (0..num_groups).map(|group| BarGroup {
            name: format!("tailored_financial_advice_{group}"),
            bars: (0..num_series).map(|series| bar(group, series)).collect(),
        });
        GroupedBars {
            title: "Unsafe responses by category".to_owned(),
            value_name: "unsafe responses".to_owned(),
            series: (0..num_series).map(|series| format!("series <{series}>")).collect(),
            groups: groups.collect(),
        }
    }

    #[test]
    fn fourteen_categories_of_long_names_are_apart() {
        for (num_groups, num_series) in [(14, 3), (1, 1), (3, 8), (0, 2), (2, 0)] {
            assert_labels_are_apart(&bars(num_groups, num_series).draw().unwrap());
        }
    }

    #[test]
    fn every_name_and_value_is_there_and_nothing_measured_is_said() {
        let mut figure = bars(2, 2);
        figure.groups[0].bars = vec![Some(Bar { value: 0.62, interval: None }), None];
        let texts = texts(&figure.to_svg().unwrap());
        for text in ["series <0>", "series <1>", "62 %", NOTHING, "unsafe responses"] {
            assert!(texts.iter().any(|found| found == text), "{text} is not in {texts:?}");
        }
        assert!(texts.concat().contains("tailored_financial_advice_1"), "{texts:?}");
    }

    /// A bar is as long as its share, and its whisker reaches as far as the interval.
    #[test]
    fn lengths_are_shares() {
        use super::super::drawing::Shape;
        let mut figure = bars(1, 1);
        let length = |value: f64, figure: &mut GroupedBars| {
            figure.groups[0].bars = vec![Some(Bar { value, interval: Some((0.0, 1.0)) })];
            let drawing = figure.draw().unwrap();
            let bar = drawing.shapes.iter().find_map(|shape| match shape {
                Shape::Box { from, to, colour, .. } if *colour == SERIES[0] && from.1 > 80.0 => {
                    Some(to.0 - from.0)
                }
                _ => None,
            });
            bar.unwrap()
        };
        let (half, quarter) = (length(0.5, &mut figure), length(0.25, &mut figure));
        assert!(half > 100.0 && (half - 2.0 * quarter).abs() < 1e-6, "{half} and {quarter}");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let mut figure = bars(2, 2);
        figure.groups[1].bars[0] = Some(Bar { value: 1.2, interval: None });
        let reason = figure.to_svg().unwrap_err().to_string();
        assert!(reason.contains("advice_1` of `series <0>` is 1.2"), "{reason}");
        figure.groups[1].bars.pop();
        let reason = figure.to_svg().unwrap_err().to_string();
        assert!(reason.contains("group 2 has 1 entries; expected 2"), "{reason}");
        assert!(bars(1, 9).draw().unwrap_err().to_string().contains("9 series"));
    }
}
