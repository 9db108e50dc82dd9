//! A figure laid out: shapes and labels at their places, not yet painted.

use super::colour::{Colour, INK};
use super::font::{Side, TextStyle};

/// A place: to the right and down, in units of the SVG.
pub(super) type At = (f64, f64);

/// Shapes and labels in the order in which they are painted.
#[derive(Debug, Clone)]
pub struct Drawing {
    pub(super) title: String,
    pub(super) size: At,
    pub(super) shapes: Vec<Shape>,
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// Filled, from its upper left corner to its lower right one.
    Box {
        from: At,
        to: At,
        colour: Colour,
        opacity: f64,
    },
    /// A line through points.
    Path {
        points: Vec<At>,
        colour: Colour,
        width: f64,
    },
    /// Filled, within a line through points.
    Area {
        points: Vec<At>,
        colour: Colour,
        opacity: f64,
    },
    /// Filled.
    Disc {
        centre: At,
        radius: f64,
        colour: Colour,
    },
    Label(Label),
}

/// One line of text. `at` is the middle of its height, at the end that `style.side` names.
#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) text: String,
    pub(super) at: At,
    pub(super) style: TextStyle,
}

impl Label {
    /// Ink, upright.
    pub(super) fn new(text: impl Into<String>, at: At, size: f64, side: Side) -> Self {
        let style = TextStyle { size, colour: INK, side, turned: false };
        Self { text: text.into(), at, style }
    }

    pub(super) fn colour(mut self, colour: Colour) -> Self {
        self.style.colour = colour;
        self
    }

    /// Reads from below upwards.
    pub(super) fn turned(mut self) -> Self {
        self.style.turned = true;
        self
    }

    /// Its upper left and lower right corners.
    #[cfg(test)]
    pub(super) fn bounds(&self) -> (At, At) {
        let TextStyle { size, side, turned, .. } = self.style;
        let width = super::font::width(&self.text, size);
        let (start, end) = match side {
            Side::Start => (0.0, width),
            Side::Middle => (-width / 2.0, width / 2.0),
            Side::End => (-width, 0.0),
        };
        let (x, y) = self.at;
        let half = size / 2.0;
        if turned {
            ((x - half, y - end), (x + half, y - start))
        } else {
            ((x + start, y - half), (x + end, y + half))
        }
    }
}

impl Drawing {
    /// White; its height is set when it is known.
    pub(super) fn new(title: &str, width: f64) -> Self {
        Self { title: title.to_owned(), size: (width, 0.0), shapes: Vec::new() }
    }

    /// Ends the drawing at `height`.
    pub(super) fn finish(mut self, height: f64) -> Self {
        self.size = (self.size.0.ceil(), height.ceil());
        self
    }

    pub(super) fn fill(&mut self, from: At, to: At, colour: Colour) {
        self.shapes.push(Shape::Box { from, to, colour, opacity: 1.0 });
    }

    pub(super) fn shade(&mut self, from: At, to: At, colour: Colour, opacity: f64) {
        self.shapes.push(Shape::Box { from, to, colour, opacity });
    }

    pub(super) fn line(&mut self, from: At, to: At, colour: Colour, width: f64) {
        self.path(vec![from, to], colour, width);
    }

    /// A line of short strokes.
    pub(super) fn dashed(&mut self, from: At, to: At, colour: Colour, width: f64) {
        const PERIOD: f64 = 8.0;
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        let at = |along: f64| {
            let part = (along / length).min(1.0);
            (from.0 + dx * part, from.1 + dy * part)
        };
        let mut along = 0.0;
        while along < length {
            self.line(at(along), at(along + PERIOD * 0.6), colour, width);
            along += PERIOD;
        }
    }

    pub(super) fn path(&mut self, points: Vec<At>, colour: Colour, width: f64) {
        self.shapes.push(Shape::Path { points, colour, width });
    }

    pub(super) fn area(&mut self, points: Vec<At>, colour: Colour, opacity: f64) {
        self.shapes.push(Shape::Area { points, colour, opacity });
    }

    pub(super) fn disc(&mut self, centre: At, radius: f64, colour: Colour) {
        self.shapes.push(Shape::Disc { centre, radius, colour });
    }

    pub(super) fn label(&mut self, label: Label) {
        self.shapes.push(Shape::Label(label));
    }

    /// Lines under one another, their middle at `label.at`; turned ones beside one another.
    pub(super) fn lines(&mut self, lines: &[String], label: &Label) {
        let pitch = label.style.size * LINE_PITCH;
        let first = -pitch * (super::count(lines.len()) - 1.0) / 2.0;
        for (idx, text) in lines.iter().enumerate() {
            let offset = first + pitch * super::count(idx);
            let (x, y) = label.at;
            let at = if label.style.turned { (x + offset, y) } else { (x, y + offset) };
            self.label(Label { text: text.clone(), at, style: label.style });
        }
    }

    #[cfg(test)]
    pub(super) fn labels(&self) -> impl Iterator<Item = &Label> {
        self.shapes.iter().filter_map(|shape| match shape {
            Shape::Label(label) => Some(label),
            _ => None,
        })
    }
}

/// From one line of a text to the next, in font sizes.
pub(super) const LINE_PITCH: f64 = 1.25;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Every label lies within the drawing and meets no other.
    pub(in crate::figures) fn assert_labels_are_apart(drawing: &Drawing) {
        let labels: Vec<(&str, (At, At))> =
            drawing.labels().map(|label| (label.text.as_str(), label.bounds())).collect();
        for (idx, &(text, (from, to))) in labels.iter().enumerate() {
            assert!(
                from.0 >= 0.0 && from.1 >= 0.0 && to.0 <= drawing.size.0 && to.1 <= drawing.size.1,
                "`{text}` at {from:?} to {to:?} leaves the drawing, {:?}",
                drawing.size
            );
            for &(other, (other_from, other_to)) in &labels[idx + 1..] {
                let apart = to.0 <= other_from.0
                    || other_to.0 <= from.0
                    || to.1 <= other_from.1
                    || other_to.1 <= from.1;
                assert!(
                    apart,
                    "`{text}` {:?} and `{other}` {:?} meet",
                    (from, to),
                    (other_from, other_to)
                );
            }
        }
    }

    /// The texts of an SVG, which must be well-formed.
    pub(in crate::figures) fn texts(svg: &str) -> Vec<String> {
        let document = roxmltree::Document::parse(svg).unwrap();
        let texts = document.descendants().filter(|node| node.has_tag_name("text"));
        texts.map(|node| node.text().unwrap_or_default().trim().to_owned()).collect()
    }

    #[test]
    #[should_panic(expected = "meet")]
    fn labels_that_meet_are_found() {
        let mut drawing = Drawing::new("t", 200.0);
        drawing.label(Label::new("one", (50.0, 50.0), 12.0, Side::Start));
        drawing.label(Label::new("two", (60.0, 45.0), 12.0, Side::Middle).turned());
        assert_labels_are_apart(&drawing.finish(100.0));
    }

    #[test]
    fn dashes_end_where_the_line_ends() {
        let mut drawing = Drawing::new("t", 50.0);
        drawing.dashed((0.0, 0.0), (0.0, 20.0), INK, 1.0);
        let ends = drawing.shapes.iter().filter_map(|shape| match shape {
            Shape::Path { points, .. } => points.last().map(|point| point.1),
            _ => None,
        });
        assert!(ends.clone().count() == 3 && ends.into_iter().all(|end| end <= 20.0));
    }
}
