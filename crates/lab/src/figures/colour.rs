//! Colours: ink and ground, series, ramps of cells.

use plotters_backend::BackendColor;

/// Red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour(pub(super) u8, pub(super) u8, pub(super) u8);

pub(super) const WHITE: Colour = Colour(255, 255, 255);
/// Numbers on cells: with white the pair that reads on any ground.
pub(super) const BLACK: Colour = Colour(0, 0, 0);
/// Text and axes.
pub(super) const INK: Colour = Colour(45, 55, 72);
/// Text of less weight.
pub(super) const FAINT: Colour = Colour(94, 106, 125);
pub(super) const GRID: Colour = Colour(226, 232, 240);
/// The ground of a cell without a value, and the lines across it.
pub(super) const EMPTY: Colour = Colour(241, 243, 246);
pub(super) const HATCH: Colour = Colour(198, 205, 215);
/// A single line.
pub(super) const LINE: Colour = Colour(15, 118, 110);
/// The range that is safe.
pub(super) const SAFE: Colour = Colour(0, 158, 115);

/// Series in their order, the first one for what others are compared with. After Okabe and Ito, in an order in
/// which neighbours differ in lightness.
pub(super) const SERIES: [Colour; 8] = [
    Colour(164, 173, 187),
    Colour(0, 114, 178),
    Colour(230, 159, 0),
    Colour(0, 128, 96),
    Colour(204, 121, 167),
    Colour(86, 180, 233),
    Colour(213, 94, 0),
    Colour(80, 70, 120),
];

/// From nothing to all of a share.
const SHARE: [Colour; 5] = [
    Colour(247, 250, 252),
    Colour(215, 231, 243),
    Colour(150, 193, 226),
    Colour(66, 133, 190),
    Colour(16, 55, 102),
];
/// From opposed to alike; the middle is neither.
const SIGNED: [Colour; 5] = [
    Colour(158, 74, 0),
    Colour(238, 176, 105),
    Colour(248, 249, 250),
    Colour(130, 179, 217),
    Colour(16, 75, 133),
];

impl Colour {
    pub(super) fn with_opacity(self, alpha: f64) -> BackendColor {
        BackendColor { alpha, rgb: (self.0, self.1, self.2) }
    }

    /// Black or white, whichever reads better on this ground: the higher contrast of WCAG 2.2.
    pub(super) fn ink(self) -> Self {
        if self.contrast(BLACK) >= self.contrast(WHITE) { BLACK } else { WHITE }
    }

    /// The contrast ratio of WCAG 2.2, 1 to 21.
    pub(super) fn contrast(self, other: Self) -> f64 {
        let (one, two) = (self.luminance(), other.luminance());
        (one.max(two) + 0.05) / (one.min(two) + 0.05)
    }

    /// Relative luminance of WCAG 2.2, 0 to 1.
    fn luminance(self) -> f64 {
        let linear = |byte: u8| {
            let part = f64::from(byte) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }
}

/// The colour of a share, 0 to 1.
pub(super) fn share(value: f64) -> Colour {
    ramp(&SHARE, value)
}

/// The colour of a signed value, -1 to 1.
pub(super) fn signed(value: f64) -> Colour {
    ramp(&SIGNED, f64::midpoint(value, 1.0))
}

/// Between the two stops around `part`, 0 to 1.
fn ramp(stops: &[Colour; 5], part: f64) -> Colour {
    let place = part.clamp(0.0, 1.0) * 4.0;
    let lower = (1..4).filter(|&idx| f64::from(idx) <= place).count();
    let rest = place - lower as f64;
    let (one, two) = (stops[lower], stops[lower + 1]);
    Colour(between(one.0, two.0, rest), between(one.1, two.1, rest), between(one.2, two.2, rest))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of two bytes is a byte"
)]
fn between(one: u8, two: u8, part: f64) -> u8 {
    (f64::from(one) * (1.0 - part) + f64::from(two) * part).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramps_meet_their_ends_and_grow_darker() {
        assert_eq!((share(0.0), share(1.0)), (SHARE[0], SHARE[4]));
        assert_eq!((signed(-1.0), signed(0.0), signed(1.0)), (SIGNED[0], SIGNED[2], SIGNED[4]));
        let tenths: Vec<f64> =
            (0..=10).map(|tenth| share(f64::from(tenth) / 10.0).luminance()).collect();
        assert!(tenths.windows(2).all(|pair| pair[0] > pair[1]), "{tenths:?}");
    }

    /// WCAG asks for 4.5 for text of this size.
    #[test]
    fn numbers_can_be_read_on_every_cell() {
        for hundredth in 0..=100 {
            let part = f64::from(hundredth) / 100.0;
            for ground in [share(part), signed(2.0 * part - 1.0)] {
                let contrast = ground.contrast(ground.ink());
                assert!(contrast >= 4.5, "{ground:?}: {contrast}");
            }
        }
        assert!(WHITE.contrast(FAINT) >= 4.5 && EMPTY.contrast(FAINT) >= 4.5);
    }
}
