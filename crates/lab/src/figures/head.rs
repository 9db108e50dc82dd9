//! What is above the data: title and legend.

use super::colour::{Colour, INK};
use super::count;
use super::drawing::{Drawing, LINE_PITCH, Label};
use super::font::{self, Side};
use super::mark::Form;

/// Around all.
pub(super) const MARGIN: f64 = 18.0;
pub(super) const TITLE_SIZE: f64 = 17.0;
/// Names of axes.
pub(super) const NAME_SIZE: f64 = 13.0;
/// Ticks, categories, legends.
pub(super) const TEXT_SIZE: f64 = 12.0;
/// Numbers beside their marks, notes.
pub(super) const SMALL_SIZE: f64 = 10.5;

const KEY_WIDTH: f64 = 22.0;
const KEY_PITCH: f64 = 20.0;

/// One entry of a legend.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) sign: Sign,
}

/// What stands before the name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sign {
    Box(Colour, f64),
    Points(Colour, Form),
    Dashes(Colour),
}

/// Draws title and legend, each on as many lines as it needs, and says where the space below begins.
pub(super) fn draw(drawing: &mut Drawing, keys: &[Key]) -> f64 {
    let width = drawing.size.0 - 2.0 * MARGIN;
    let lines = font::wrap(&drawing.title, TITLE_SIZE, width);
    let pitch = TITLE_SIZE * LINE_PITCH;
    for (idx, line) in lines.iter().enumerate() {
        let at = (MARGIN, MARGIN + pitch * (count(idx) + 0.5));
        drawing.label(Label::new(line, at, TITLE_SIZE, Side::Start));
    }
    let top = MARGIN + pitch * count(lines.len()) + 8.0;
    if keys.is_empty() { top + 10.0 } else { legend(drawing, keys, top) }
}

fn legend(drawing: &mut Drawing, keys: &[Key], top: f64) -> f64 {
    let right = drawing.size.0 - MARGIN;
    let (mut x, mut y) = (MARGIN, top + KEY_PITCH / 2.0);
    for key in keys {
        let lines = font::wrap(&key.name, TEXT_SIZE, right - MARGIN - KEY_WIDTH - 8.0);
        let widest = lines.iter().map(|line| font::width(line, TEXT_SIZE)).fold(0.0, f64::max);
        let width = KEY_WIDTH + 8.0 + widest;
        if x > MARGIN && x + width > right {
            (x, y) = (MARGIN, y + KEY_PITCH);
        }
        key.sign.draw(drawing, x, y);
        for (idx, line) in lines.iter().enumerate() {
            y += if idx > 0 { KEY_PITCH } else { 0.0 };
            drawing.label(Label::new(line, (x + KEY_WIDTH + 8.0, y), TEXT_SIZE, Side::Start));
        }
        x += width + 20.0;
    }
    y + KEY_PITCH / 2.0 + 14.0
}

impl Sign {
    fn draw(self, drawing: &mut Drawing, x: f64, y: f64) {
        match self {
            Self::Box(colour, opacity) => {
                drawing.shade((x, y - 6.0), (x + KEY_WIDTH, y + 6.0), colour, opacity);
            }
            Self::Points(colour, form) => {
                drawing.line((x, y), (x + KEY_WIDTH, y), colour, 2.0);
                form.draw(drawing, (x + KEY_WIDTH / 2.0, y), colour);
            }
            Self::Dashes(colour) => drawing.dashed((x, y), (x + KEY_WIDTH, y), colour, 2.0),
        }
    }
}

/// The widest of names that may take several lines.
pub(super) fn widest(names: &[Vec<String>], size: f64) -> f64 {
    names.iter().flatten().map(|line| font::width(line, size)).fold(0.0, f64::max)
}

/// Names, each wrapped to a width.
pub(super) fn wrap_all<'a>(
    names: impl IntoIterator<Item = &'a String>,
    size: f64,
    max_width: f64,
) -> Vec<Vec<String>> {
    names.into_iter().map(|name| font::wrap(name, size, max_width)).collect()
}

/// Says that there is nothing, in the middle of where the data would be.
pub(super) fn say_empty(drawing: &mut Drawing, at: (f64, f64)) {
    drawing.label(Label::new("no data", at, NAME_SIZE, Side::Middle).colour(INK));
}
