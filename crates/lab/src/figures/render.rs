//! A drawing as a file: the same shapes through plotters' SVG and bitmap backends.

use plotters_backend::{BackendColor, BackendCoord, BackendStyle, DrawingBackend};
use plotters_bitmap::BitMapBackend;
use plotters_svg::SVGBackend;

use super::colour::WHITE;
use super::drawing::{At, Drawing, Label, Shape};
use super::refuse;
use crate::html::escape;
use crate::{Error, Result};

/// Pixels of the PNG a unit of the drawing.
const PNG_SCALE: u32 = 2;
/// The PNG is painted this much larger and reduced, which smooths every edge.
const OVERSAMPLE: u32 = 2;
/// A text's upper edge above the middle of its capitals, in font sizes: plotters sets the baseline 0.76 below the
/// upper edge, and capitals are 0.72 high.
const RISE: f64 = 0.40;

/// A colour and a width.
struct Stroke {
    colour: BackendColor,
    width: u32,
}

impl BackendStyle for Stroke {
    fn color(&self) -> BackendColor {
        self.colour
    }

    fn stroke_width(&self) -> u32 {
        self.width
    }
}

impl Drawing {
    /// An SVG file.
    ///
    /// # Errors
    ///
    /// [`Error::Figure`] with the backend's reason.
    pub fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        let mut backend = SVGBackend::with_string(&mut svg, self.pixels(1));
        let ground = Shape::Box { from: (0.0, 0.0), to: self.size, colour: WHITE, opacity: 1.0 };
        paint_shape(&mut backend, &ground, 1.0).map_err(|reason| self.error(&reason))?;
        self.paint(&mut backend, 1.0).map_err(|reason| self.error(&reason))?;
        drop(backend);
        // The name that a screen reader says.
        let title = format!(">\n<title>{}</title>", escape(&self.title));
        Ok(svg.replacen("<svg", "<svg role=\"img\"", 1).replacen('>', &title, 1))
    }

    /// A PNG file, two pixels a unit.
    ///
    /// # Errors
    ///
    /// [`Error::Figure`] with the backend's or the encoder's reason.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let large = self.pixels(PNG_SCALE * OVERSAMPLE);
        let num_bytes = 3 * large.0 as usize * large.1 as usize;
        let mut buffer = vec![u8::MAX; num_bytes];
        let mut backend = BitMapBackend::with_buffer(&mut buffer, large);
        self.paint(&mut backend, f64::from(PNG_SCALE * OVERSAMPLE))
            .map_err(|reason| self.error(&reason))?;
        drop(backend);
        let (width, height) = self.pixels(PNG_SCALE);
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        // Flat colours repeat; a difference to the pixel beside or above hides it.
        encoder.set_filter(png::Filter::NoFilter);
        let mut writer = encoder.write_header().map_err(|reason| self.error(&reason))?;
        writer
            .write_image_data(&reduce(&buffer, large.0 as usize))
            .map_err(|reason| self.error(&reason))?;
        writer.finish().map_err(|reason| self.error(&reason))?;
        Ok(file)
    }

    fn error(&self, reason: &dyn std::fmt::Display) -> Error {
        refuse(&self.title, format!("drawing it failed: {reason}"))
    }

    fn pixels(&self, scale: u32) -> (u32, u32) {
        let pixels = |length: f64| round(length).unsigned_abs() * scale;
        (pixels(self.size.0), pixels(self.size.1))
    }

    fn paint<B: DrawingBackend>(&self, backend: &mut B, scale: f64) -> Result<(), String> {
        for shape in &self.shapes {
            paint_shape(backend, shape, scale).map_err(|error| error.to_string())?;
        }
        backend.present().map_err(|error| error.to_string())
    }
}

fn paint_shape<B: DrawingBackend>(
    backend: &mut B,
    shape: &Shape,
    scale: f64,
) -> Result<(), plotters_backend::DrawingErrorKind<B::ErrorType>> {
    let place = |(x, y): At| (round(x * scale), round(y * scale));
    let places = |points: &[At]| {
        let mut places: Vec<BackendCoord> = points.iter().map(|&point| place(point)).collect();
        places.dedup();
        places
    };
    match shape {
        Shape::Box { from, to, colour, opacity } => {
            backend.draw_rect(place(*from), place(*to), &colour.with_opacity(*opacity), true)
        }
        Shape::Path { points, colour, width } => {
            let points = places(points);
            let width = round(width * scale).unsigned_abs();
            let stroke = Stroke { colour: colour.with_opacity(1.0), width };
            // plotters makes a polygon of a line, which needs two ends.
            if points.len() < 2 { Ok(()) } else { backend.draw_path(points, &stroke) }
        }
        Shape::Area { points, colour, opacity } => {
            backend.fill_polygon(places(points), &colour.with_opacity(*opacity))
        }
        Shape::Disc { centre, radius, colour } => {
            let radius = round(radius * scale).unsigned_abs();
            backend.draw_circle(place(*centre), radius, &colour.with_opacity(1.0), true)
        }
        Shape::Label(Label { text, at: (x, y), style }) => {
            let rise = RISE * style.size;
            let at = if style.turned { (x - rise, *y) } else { (*x, y - rise) };
            let mut style = *style;
            style.size *= scale;
            backend.draw_text(text, &style, place(at))
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "places on a page fit")]
fn round(value: f64) -> i32 {
    value.round() as i32
}

/// Means of 2 x 2 pixels. `width` is that of the large image, in pixels.
fn reduce(large: &[u8], width: usize) -> Vec<u8> {
    let row_bytes = 3 * width;
    let mut small = Vec::with_capacity(large.len() / 4);
    for rows in large.chunks_exact(2 * row_bytes) {
        let (upper, lower) = rows.split_at(row_bytes);
        for (upper, lower) in upper.chunks_exact(6).zip(lower.chunks_exact(6)) {
            for channel in 0..3 {
                let sum: u16 =
                    [upper[channel], upper[channel + 3], lower[channel], lower[channel + 3]]
                        .into_iter()
                        .map(u16::from)
                        .sum();
                small.push(u8::try_from((sum + 2) / 4).unwrap_or(u8::MAX));
            }
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::super::colour::{Colour, INK};
    use super::super::drawing::tests::texts;
    use super::super::font::Side;
    use super::*;

    fn drawing() -> Drawing {
        let mut drawing = Drawing::new("a < b & \"c\"", 60.0);
        drawing.fill((10.0, 10.0), (30.0, 20.0), Colour(0, 114, 178));
        drawing.label(Label::new("<M> & co", (45.0, 30.0), 12.0, Side::Middle));
        drawing.finish(40.0)
    }

    /// Decoded: width, height, and the colour at a pixel.
    fn decode(file: &[u8]) -> (u32, u32, impl Fn(u32, u32) -> Colour + use<>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let width = info.width;
        let at = move |x: u32, y: u32| {
            let start = 3 * (y * width + x) as usize;
            Colour(pixels[start], pixels[start + 1], pixels[start + 2])
        };
        (info.width, info.height, at)
    }

    #[test]
    fn text_of_the_svg_is_text_and_escaped() {
        let svg = drawing().to_svg().unwrap();
        assert_eq!(texts(&svg), ["<M> & co"]);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let root = document.root_element();
        assert_eq!(root.attribute("role"), Some("img"));
        let title = root.first_element_child().unwrap();
        assert_eq!((title.tag_name().name(), title.text()), ("title", Some("a < b & \"c\"")));
        assert!(document.descendants().all(|node| node.attribute("id").is_none()));
    }

    #[test]
    fn the_png_has_two_pixels_a_unit_and_the_boxes_colours() {
        let (width, height, at) = decode(&drawing().to_png().unwrap());
        assert_eq!((width, height), (120, 80));
        assert_eq!(at(0, 0), Colour(255, 255, 255));
        assert_eq!(at(40, 30), Colour(0, 114, 178));
        assert_eq!(at(18, 30), Colour(255, 255, 255));
    }

    /// Text is set from the embedded font: a label alone leaves ink where its bounds say, and nowhere else.
    #[test]
    fn the_png_has_its_text_within_the_labels_bounds() {
        for turned in [false, true] {
            let mut label = Label::new("HIM", (40.0, 40.0), 16.0, Side::Middle);
            label.style.turned = turned;
            let (from, to) = label.bounds();
            let mut drawing = Drawing::new("t", 80.0);
            drawing.label(label);
            let (width, height, at) = decode(&drawing.finish(80.0).to_png().unwrap());
            let mut num_dark = 0;
            for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                if at(x, y).contrast(INK) < 2.0 {
                    num_dark += 1;
                    let (x, y) = (f64::from(x) / 2.0, f64::from(y) / 2.0);
                    let inside = from.0 - 1.0 <= x && x <= to.0 + 1.0 && from.1 <= y && y <= to.1;
                    assert!(inside, "ink at {x}, {y}, outside {from:?} to {to:?}");
                }
            }
            assert!(num_dark > 100, "{num_dark}");
        }
    }

    #[test]
    fn the_same_drawing_gives_the_same_bytes() {
        assert_eq!(drawing().to_png().unwrap(), drawing().to_png().unwrap());
        assert_eq!(drawing().to_svg().unwrap(), drawing().to_svg().unwrap());
    }
}
