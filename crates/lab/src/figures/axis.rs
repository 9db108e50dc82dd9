//! Axes: round ticks, and values to places.

use super::count;

/// Values from `low` to `high`, drawn from `start` to `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) start: f64,
    pub(super) end: f64,
}

impl Axis {
    pub(super) fn at(&self, value: f64) -> f64 {
        self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)
    }
}

/// Round numbers at equal distances.
#[derive(Debug, Clone)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    step: f64,
}

impl Ticks {
    /// At most `max` steps of 1, 2 or 5 times a power of ten, from the last one at or below `low` to the first one at or
    /// above `high`.
    pub(super) fn around((low, high): (f64, f64), max: f64) -> Self {
        let step = step_of(high - low, max);
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        Self { values: multiples(first, last, step), step }
    }

    /// Those within `low` to `high`.
    pub(super) fn within((low, high): (f64, f64), max: f64) -> Self {
        let step = step_of(high - low, max);
        let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
        Self { values: multiples(first, last, step), step }
    }

    /// The first and the last.
    pub(super) fn range(&self) -> (f64, f64) {
        let first = self.values.first().copied().unwrap_or_default();
        (first, self.values.last().copied().unwrap_or(first))
    }

    /// A tick's number, with as many decimals as the step has.
    pub(super) fn text(&self, value: f64) -> String {
        number(value, self.step)
    }

    /// A tick's number in per cent.
    pub(super) fn percent(&self, value: f64) -> String {
        format!("{} %", number(value * 100.0, self.step * 100.0))
    }
}

fn step_of(span: f64, max: f64) -> f64 {
    let least = if span > 0.0 { span / max } else { 1.0 };
    let power = 10f64.powf(least.log10().floor());
    let rounder = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9));
    rounder.unwrap_or(10.0) * power
}

fn multiples(first: f64, last: f64, step: f64) -> Vec<f64> {
    let mut values = Vec::new();
    while first + count(values.len()) <= last {
        values.push((first + count(values.len())) * step);
    }
    values
}

fn number(value: f64, step: f64) -> String {
    let decimals = (0..9).find(|&decimals| {
        let scaled = step * 10f64.powi(decimals);
        (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    let text = format!("{value:.*}", usize::try_from(decimals.unwrap_or(9)).unwrap_or_default());
    // No minus before nothing.
    if text.trim_start_matches('-').chars().all(|digit| matches!(digit, '0' | '.')) {
        text.trim_start_matches('-').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ticks: &Ticks) -> Vec<String> {
        ticks.values.iter().map(|&value| ticks.text(value)).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(
            texts(&Ticks::around((0.0, 1.0), 5.0)),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(texts(&Ticks::around((0.0, 43.7), 5.0)), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(texts(&Ticks::within((-2.2, 2.3), 5.0)), ["-2", "-1", "0", "1", "2"]);
        assert_eq!(texts(&Ticks::around((0.0, 0.0), 5.0)).len(), 1);
        let share = Ticks::around((0.0, 0.31), 5.0);
        let percents: Vec<String> =
            share.values.iter().map(|&value| share.percent(value)).collect();
        assert_eq!(percents, ["0 %", "10 %", "20 %", "30 %", "40 %"]);
    }

    #[test]
    fn values_go_to_their_places() {
        let axis = Axis { low: -1.0, high: 1.0, start: 100.0, end: 200.0 };
        let places = [-1.0, 0.0, 1.0].map(|value| axis.at(value));
        assert!(
            places.iter().zip([100.0, 150.0, 200.0]).all(|(one, two)| (one - two).abs() < 1e-9)
        );
    }
}
