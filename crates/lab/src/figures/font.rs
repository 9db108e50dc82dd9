//! The font that the PNG is set in, and its measure.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, InvalidFont, PxScale, PxScaleFont, ScaleFont, point};
use plotters_backend::text_anchor::{HPos, Pos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, FontFamily, FontTransform};

use super::colour::Colour;

/// The baseline is so far below the top of a text, in font sizes: what plotters' SVG backend writes.
const BASELINE: f32 = 0.76;
/// plotters' sizes are the line height of a font; its SVG backend divides by this.
const LINE_HEIGHT: f64 = 1.24;

static FONT: LazyLock<Result<FontRef<'static>, InvalidFont>> =
    LazyLock::new(|| FontRef::try_from_slice(dejavu::sans::regular()));

/// Which end of a text is at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Start,
    Middle,
    End,
}

/// How a text is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextStyle {
    pub(super) size: f64,
    pub(super) colour: Colour,
    pub(super) side: Side,
    /// Reads from below upwards.
    pub(super) turned: bool,
}

/// Width of a text, in the unit of the font size. `DejaVu` Sans is among the widest of the common sans-serif
/// fonts, so a reader's font rarely needs more.
pub(super) fn width(text: &str, size: f64) -> f64 {
    // A font that cannot be read is reported where it is drawn.
    scaled(size).map_or(0.0, |font| f64::from(advance(&font, text)))
}

/// Lines no wider than `max_width`: broken at spaces and after `_`, `-`, `/` and `,`, and anywhere in a part that is
/// wider by itself.
pub(super) fn wrap(text: &str, size: f64, max_width: f64) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in text.split_inclusive([' ', '_', '-', '/', ',']) {
        for piece in fit(part, size, max_width) {
            let fits = lines.last().is_some_and(|line| {
                width(&format!("{line}{}", piece.trim_end()), size) <= max_width
            });
            match lines.last_mut() {
                Some(line) if fits || line.is_empty() => line.push_str(&piece),
                _ => lines.push(piece),
            }
        }
    }
    lines.iter().map(|line| line.trim().to_owned()).collect()
}

/// A part of a text, cut where it is too wide for a line of its own.
fn fit(part: &str, size: f64, max_width: f64) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for character in part.chars() {
        let full = pieces.last().is_some_and(|piece| {
            !piece.is_empty() && width(format!("{piece}{character}").trim_end(), size) > max_width
        });
        match pieces.last_mut() {
            Some(piece) if !full => piece.push(character),
            _ => pieces.push(character.to_string()),
        }
    }
    pieces
}

/// The font with `size` as its em.
fn scaled(size: f64) -> Result<PxScaleFont<&'static FontRef<'static>>, InvalidFont> {
    let font = FONT.as_ref().map_err(|_| InvalidFont)?;
    let em = font.units_per_em().ok_or(InvalidFont)?;
    Ok(font.as_scaled(PxScale::from(narrow(size) * font.height_unscaled() / em)))
}

fn advance(font: &PxScaleFont<&'static FontRef<'static>>, text: &str) -> f32 {
    text.chars().map(|character| font.h_advance(font.glyph_id(character))).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "sizes and places are small")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, reason = "places on a page fit")]
fn pixel(value: f32) -> i32 {
    value.round() as i32
}

impl BackendTextStyle for TextStyle {
    type FontError = InvalidFont;

    fn color(&self) -> BackendColor {
        self.colour.with_opacity(1.0)
    }

    fn size(&self) -> f64 {
        self.size * LINE_HEIGHT
    }

    fn transform(&self) -> FontTransform {
        if self.turned { FontTransform::Rotate270 } else { FontTransform::None }
    }

    fn anchor(&self) -> Pos {
        let side = match self.side {
            Side::Start => HPos::Left,
            Side::Middle => HPos::Center,
            Side::End => HPos::Right,
        };
        Pos::new(side, VPos::Top)
    }

    fn family(&self) -> FontFamily<'_> {
        FontFamily::SansSerif
    }

    fn layout_box(&self, text: &str) -> Result<((i32, i32), (i32, i32)), InvalidFont> {
        let font = scaled(self.size)?;
        Ok(((0, 0), (pixel(advance(&font, text)), pixel(narrow(self.size)))))
    }

    /// Each glyph at its place after those before it, pixel by pixel.
    fn draw<E, DrawFunc: FnMut(i32, i32, BackendColor) -> Result<(), E>>(
        &self,
        text: &str,
        (left, top): BackendCoord,
        mut draw: DrawFunc,
    ) -> Result<Result<(), E>, InvalidFont> {
        let font = scaled(self.size)?;
        let mut place = point(0.0, narrow(self.size) * BASELINE);
        for character in text.chars() {
            let id = font.glyph_id(character);
            let glyph = id.with_scale_and_position(font.scale(), place);
            place.x += font.h_advance(id);
            let Some(outline) = font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            let (corner_x, corner_y) = (left + pixel(corner.x), top + pixel(corner.y));
            let mut result = Ok(());
            outline.draw(|x, y, coverage| {
                let offset = |pixel: u32| i32::try_from(pixel).unwrap_or(i32::MAX);
                if result.is_ok() && coverage > 0.0 {
                    let colour = self.colour.with_opacity(f64::from(coverage.min(1.0)));
                    result = draw(corner_x + offset(x), corner_y + offset(y), colour);
                }
            });
            if result.is_err() {
                return Ok(result);
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_grows_with_text_and_size() {
        assert!(width("mm", 12.0) > width("ii", 12.0));
        assert!((width("share", 24.0) - 2.0 * width("share", 12.0)).abs() < 0.01);
        assert!(width("", 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn lines_are_no_wider_than_they_may_be_and_lose_nothing() {
        for name in ["tailored_financial_advice", "a b, c", "abcdefghijklmnopqrstuvwxyz", "", "x"] {
            let lines = wrap(name, 12.0, 70.0);
            assert!(lines.iter().all(|line| width(line, 12.0) <= 70.0), "{lines:?}");
            assert_eq!(lines.concat().replace(' ', ""), name.replace(' ', ""), "{lines:?}");
        }
        assert_eq!(
            wrap("tailored_financial_advice", 12.0, 70.0),
            ["tailored_", "financial_", "advice"]
        );
        assert_eq!(wrap("two words", 12.0, 400.0), ["two words"]);
    }
}
