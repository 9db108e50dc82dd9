//! The marks of series: what points and legends are drawn with.

use super::colour::{Colour, SERIES};
use super::drawing::{At, Drawing};

/// The form of a point; with the colour it tells series apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Disc,
    Square,
    Triangle,
    Diamond,
    Reversed,
}

const FORMS: [Form; 5] = [Form::Disc, Form::Square, Form::Triangle, Form::Diamond, Form::Reversed];

/// Colour of the bars of the series at `idx`: the first is what the others are compared with, and grey. Those
/// beyond the eighth begin anew.
pub(super) fn bar_colour(idx: usize) -> Colour {
    SERIES[idx % SERIES.len()]
}

/// Colour of the curve at `idx`: the first is the one that matters, and the last is grey.
pub(super) fn curve_colour(idx: usize) -> Colour {
    bar_colour(idx + 1)
}

/// Form of the series at `idx`. Colour and form together are the same for none of 40 series.
pub(super) fn form_of(idx: usize) -> Form {
    FORMS[idx % FORMS.len()]
}

impl Form {
    /// Some four units around `centre`.
    pub(super) fn draw(self, drawing: &mut Drawing, centre: At, colour: Colour) {
        let (x, y) = centre;
        let corners: &[At] = match self {
            Self::Disc => return drawing.disc(centre, 4.0, colour),
            Self::Square => &[(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)],
            Self::Triangle => &[(0.0, -5.0), (4.5, 3.0), (-4.5, 3.0)],
            Self::Diamond => &[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)],
            Self::Reversed => &[(0.0, 5.0), (4.5, -3.0), (-4.5, -3.0)],
        };
        drawing.area(corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect(), colour, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_series_can_be_told_apart() {
        let marks: Vec<(Colour, Form)> =
            (0..40).map(|idx| (curve_colour(idx), form_of(idx))).collect();
        for (idx, mark) in marks.iter().enumerate() {
            assert!(!marks[..idx].contains(mark), "{idx}");
        }
    }
}
