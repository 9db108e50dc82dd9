//! Cells in rows and columns, with names on both sides and a bar of colours: heat map and cosine matrix.

use super::colour::{BLACK, Colour, EMPTY, FAINT, HATCH, INK, WHITE};
use super::count;
use super::drawing::{Drawing, LINE_PITCH, Label};
use super::font::{self, Side};
use super::head::{self, MARGIN, NAME_SIZE, SMALL_SIZE, TEXT_SIZE};

/// The number under the main one of a cell.
const SECOND_SIZE: f64 = 9.5;
const CELL_HEIGHT: f64 = 34.0;
const MIN_CELL_WIDTH: f64 = 46.0;
/// Names of columns that are wider than this are turned.
const MAX_UPRIGHT: f64 = 72.0;
/// Names of rows, and turned names of columns, wrap at this width.
const NAME_WIDTH: f64 = 190.0;
const BAR_WIDTH: f64 = 14.0;
/// Steps of colour in the bar.
const BAR_STEPS: u32 = 100;
const MIN_BAR_HEIGHT: f64 = 90.0;
const MIN_WIDTH: f64 = 420.0;

/// What is drawn.
#[derive(Debug)]
pub(super) struct Grid<'a> {
    pub(super) title: &'a str,
    pub(super) row_name: &'a str,
    pub(super) column_name: &'a str,
    pub(super) rows: &'a [String],
    pub(super) columns: &'a [String],
    /// Row by row.
    pub(super) faces: Vec<Vec<Option<Face>>>,
    /// Row and column of the cell with a frame.
    pub(super) chosen: Option<(usize, usize)>,
    pub(super) bar: ColourBar<'a>,
    /// Below the figure.
    pub(super) note: Option<String>,
}

/// How a cell looks.
#[derive(Debug)]
pub(super) struct Face {
    pub(super) colour: Colour,
    pub(super) text: String,
    /// Below the text, smaller.
    pub(super) second: Option<String>,
}

/// The key of the colours.
#[derive(Debug)]
pub(super) struct ColourBar<'a> {
    pub(super) name: &'a str,
    /// The colour at a part of the bar, 0 below to 1 above.
    pub(super) colour_at: fn(f64) -> Colour,
    /// Parts of the bar and their texts.
    pub(super) ticks: Vec<(f64, &'static str)>,
}

/// The grid's place on the drawing.
struct Place {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    cell: (f64, f64),
}

impl Grid<'_> {
    pub(super) fn draw(&self) -> Drawing {
        if self.rows.is_empty() || self.columns.is_empty() {
            return self.draw_empty();
        }
        let rows = head::wrap_all(self.rows, TEXT_SIZE, NAME_WIDTH);
        let upright = head::wrap_all(self.columns, TEXT_SIZE, MAX_UPRIGHT);
        let turned = self.columns.iter().any(|name| font::width(name, TEXT_SIZE) > MAX_UPRIGHT);
        let columns =
            if turned { head::wrap_all(self.columns, TEXT_SIZE, NAME_WIDTH) } else { upright };
        let cell_width = self.cell_width(&columns, turned);
        let row_names = if self.row_name.is_empty() { 0.0 } else { NAME_SIZE + 10.0 };
        let left = MARGIN + row_names + head::widest(&rows, TEXT_SIZE) + 8.0;
        let right = left + cell_width * count(self.columns.len());
        let bar_texts = self.bar.ticks.iter().map(|(_, text)| font::width(text, TEXT_SIZE));
        let bar_right = right + 26.0 + BAR_WIDTH + 8.0 + bar_texts.fold(0.0, f64::max);
        let width = bar_right + 12.0 + NAME_SIZE + MARGIN;
        let mut drawing = Drawing::new(self.title, width.max(MIN_WIDTH));
        let top = head::draw(&mut drawing, &[]);
        let lines = rows.iter().map(|lines| TEXT_SIZE * LINE_PITCH * count(lines.len()) + 6.0);
        let cell = (cell_width, lines.fold(CELL_HEIGHT, f64::max));
        let bottom = top + cell.1 * count(self.rows.len());
        let place = Place { left, top, right, bottom, cell };
        self.draw_names(&mut drawing, &place, &rows, (&columns, turned));
        self.draw_cells(&mut drawing, &place);
        let bar_bottom = self.draw_bar(&mut drawing, &place);
        let depth = if turned {
            head::widest(&columns, TEXT_SIZE)
        } else {
            let most = columns.iter().map(Vec::len).max().unwrap_or(0);
            TEXT_SIZE * LINE_PITCH * count(most)
        };
        let sides_end = bar_bottom.max(top + font::width(self.row_name, NAME_SIZE));
        let end = self.draw_below(&mut drawing, &place, (bottom + 10.0 + depth, sides_end));
        drawing.finish(end + MARGIN)
    }

    /// The name of the columns below `names_end`, and the note below all; says where they end.
    fn draw_below(
        &self,
        drawing: &mut Drawing,
        place: &Place,
        (names_end, sides_end): (f64, f64),
    ) -> f64 {
        let mut y = names_end;
        if !self.column_name.is_empty() {
            y += NAME_SIZE;
            // Not beyond the left edge where the grid is narrow.
            let half = font::width(self.column_name, NAME_SIZE) / 2.0;
            let at = (f64::midpoint(place.left, place.right).max(MARGIN + half), y);
            drawing.label(Label::new(self.column_name, at, NAME_SIZE, Side::Middle));
            y += NAME_SIZE / 2.0;
        }
        y = y.max(sides_end);
        let Some(note) = &self.note else { return y };
        for line in font::wrap(note, SMALL_SIZE, drawing.size.0 - 2.0 * MARGIN) {
            y += SMALL_SIZE * 1.5;
            let label = Label::new(line, (MARGIN, y), SMALL_SIZE, Side::Start);
            drawing.label(label.colour(FAINT));
        }
        y + SMALL_SIZE / 2.0
    }

    fn draw_empty(&self) -> Drawing {
        let mut drawing = Drawing::new(self.title, MIN_WIDTH);
        let top = head::draw(&mut drawing, &[]);
        head::say_empty(&mut drawing, (MIN_WIDTH / 2.0, top + MIN_BAR_HEIGHT / 2.0));
        drawing.finish(top + MIN_BAR_HEIGHT + MARGIN)
    }

    /// As wide as the widest of its numbers and, where they stand upright, names.
    fn cell_width(&self, columns: &[Vec<String>], turned: bool) -> f64 {
        let texts = self.faces.iter().flatten().flatten();
        let texts = texts.map(|face| font::width(&face.text, TEXT_SIZE)).fold(0.0, f64::max);
        let names = if turned {
            let most = columns.iter().map(Vec::len).max().unwrap_or(0);
            TEXT_SIZE * LINE_PITCH * count(most)
        } else {
            head::widest(columns, TEXT_SIZE)
        };
        (texts.max(names) + 12.0).max(MIN_CELL_WIDTH)
    }

    fn draw_names(
        &self,
        drawing: &mut Drawing,
        place: &Place,
        rows: &[Vec<String>],
        (columns, turned): (&[Vec<String>], bool),
    ) {
        let (width, height) = place.cell;
        for (idx, lines) in rows.iter().enumerate() {
            let y = place.top + height * (count(idx) + 0.5);
            drawing.lines(lines, &Label::new("", (place.left - 8.0, y), TEXT_SIZE, Side::End));
        }
        for (idx, lines) in columns.iter().enumerate() {
            let x = place.left + width * (count(idx) + 0.5);
            if turned {
                let label = Label::new("", (x, place.bottom + 8.0), TEXT_SIZE, Side::End);
                drawing.lines(lines, &label.turned());
            } else {
                let depth = TEXT_SIZE * LINE_PITCH * count(lines.len());
                let at = (x, place.bottom + 6.0 + depth / 2.0);
                drawing.lines(lines, &Label::new("", at, TEXT_SIZE, Side::Middle));
            }
        }
        if !self.row_name.is_empty() {
            let y = f64::midpoint(place.top, place.bottom);
            let half = font::width(self.row_name, NAME_SIZE) / 2.0;
            let at = (MARGIN + NAME_SIZE / 2.0, y.max(place.top + half));
            drawing.label(Label::new(self.row_name, at, NAME_SIZE, Side::Middle).turned());
        }
    }

    fn draw_cells(&self, drawing: &mut Drawing, place: &Place) {
        let corner = |row: usize, column: usize| {
            (place.left + place.cell.0 * count(column), place.top + place.cell.1 * count(row))
        };
        for (row, faces) in self.faces.iter().enumerate() {
            for (column, face) in faces.iter().enumerate() {
                let (from, to) = (corner(row, column), corner(row + 1, column + 1));
                match face {
                    Some(face) => draw_face(drawing, face, from, to),
                    None => hatch(drawing, from, to),
                }
            }
        }
        // White joints, over the ends of the hatches too.
        for row in 0..=self.rows.len() {
            let (from, to) = (corner(row, 0), corner(row, self.columns.len()));
            drawing.line(from, to, WHITE, 2.0);
        }
        for column in 0..=self.columns.len() {
            let (from, to) = (corner(0, column), corner(self.rows.len(), column));
            drawing.line(from, to, WHITE, 2.0);
        }
        if let Some((row, column)) = self.chosen {
            frame(drawing, corner(row, column), corner(row + 1, column + 1));
        }
    }

    /// Says how far down the bar and its name go.
    fn draw_bar(&self, drawing: &mut Drawing, place: &Place) -> f64 {
        let left = place.right + 26.0;
        let height = (place.bottom - place.top).clamp(MIN_BAR_HEIGHT, 260.0);
        let y = |part: f64| place.top + height * (1.0 - part);
        for step in (0..BAR_STEPS).rev() {
            let (lower, upper) = (f64::from(step), f64::from(step + 1));
            let part = |step: f64| step / f64::from(BAR_STEPS);
            let colour = (self.bar.colour_at)(part(f64::midpoint(lower, upper)));
            // Down to the end, so that no gap is left by rounding.
            drawing.fill((left, y(part(upper))), (left + BAR_WIDTH, y(0.0)), colour);
        }
        let mut widest = 0.0_f64;
        for &(part, text) in &self.bar.ticks {
            let at = (left + BAR_WIDTH + 8.0, y(part));
            drawing.line((left + BAR_WIDTH, at.1), (at.0 - 4.0, at.1), INK, 1.0);
            drawing.label(Label::new(text, at, TEXT_SIZE, Side::Start));
            widest = widest.max(font::width(text, TEXT_SIZE));
        }
        let x = left + BAR_WIDTH + 8.0 + widest + 10.0 + NAME_SIZE / 2.0;
        let half = font::width(self.bar.name, NAME_SIZE) / 2.0;
        let middle = (place.top + height / 2.0).max(place.top + half);
        drawing.label(Label::new(self.bar.name, (x, middle), NAME_SIZE, Side::Middle).turned());
        (place.top + height + TEXT_SIZE / 2.0).max(middle + half)
    }
}

fn draw_face(drawing: &mut Drawing, face: &Face, from: (f64, f64), to: (f64, f64)) {
    drawing.fill(from, to, face.colour);
    let ink = face.colour.ink();
    let (x, y) = (f64::midpoint(from.0, to.0), f64::midpoint(from.1, to.1));
    let up = if face.second.is_some() { 6.0 } else { 0.0 };
    drawing.label(Label::new(&face.text, (x, y - up), TEXT_SIZE, Side::Middle).colour(ink));
    if let Some(second) = &face.second {
        let label = Label::new(second, (x, y + 8.0), SECOND_SIZE, Side::Middle);
        drawing.label(label.colour(ink));
    }
}

/// Black on the joints around a cell, and white within, so that it is seen on any colour.
fn frame(drawing: &mut Drawing, from: (f64, f64), to: (f64, f64)) {
    for (colour, inner, outer) in [(WHITE, 2.5, -1.5), (BLACK, 1.0, -1.5)] {
        let (left, top) = (from.0 + outer, from.1 + outer);
        let (right, bottom) = (to.0 - outer, to.1 - outer);
        let width = inner - outer;
        drawing.fill((left, top), (right, top + width), colour);
        drawing.fill((left, bottom - width), (right, bottom), colour);
        drawing.fill((left, top), (left + width, bottom), colour);
        drawing.fill((right - width, top), (right, bottom), colour);
    }
}

/// Grey, with lines from the lower left to the upper right.
fn hatch(drawing: &mut Drawing, from: (f64, f64), to: (f64, f64)) {
    const PITCH: f64 = 8.0;
    drawing.fill(from, to, EMPTY);
    let (width, height) = (to.0 - from.0, to.1 - from.1);
    let mut along = PITCH;
    while along < width + height {
        // Where x + y, from the upper left corner, is `along`.
        let lower = (from.0 + (along - height).max(0.0), from.1 + along.min(height));
        let upper = (from.0 + along.min(width), from.1 + (along - width).max(0.0));
        drawing.line(lower, upper, HATCH, 1.0);
        along += PITCH;
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::Shape;
    use super::*;

    #[test]
    fn hatches_stay_in_their_cell() {
        let mut drawing = Drawing::new("t", 100.0);
        hatch(&mut drawing, (10.0, 20.0), (60.0, 50.0));
        let ends: Vec<(f64, f64)> = drawing
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Path { points, .. } => Some(points.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        assert!(ends.len() > 10);
        assert!(ends.iter().all(|(x, y)| (10.0..=60.0).contains(x) && (20.0..=50.0).contains(y)));
    }
}
