//! Weights as the products read them: panels of 16 output columns, 32 inputs at a time.
//!
//! Within a block the numbers lie in groups of four inputs, the four of a column side by side: that is
//! what an 8-bit dot instruction multiplies with four activations, for 8 or 16 columns at once.

use half::f16;

use super::super::element::Element;
use super::dense::DenseBlock;
use super::{BLOCK, PANEL};

/// Inputs that one lane of a dot instruction takes.
pub(super) const GROUP: usize = 4;

/// Groups of 4 inputs, of all 16 columns.
const GROUP_BYTES: usize = PANEL * GROUP;

/// Half of a block's inputs: they share bytes with the other half.
const HALF: usize = BLOCK / 2;

/// 32 inputs of 16 columns at 4 bits, `w = d * q + m` with q in 0..16.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Q4Block {
    /// Step of each column.
    pub(super) d: [f16; PANEL],
    /// Offset of each column.
    pub(super) m: [f16; PANEL],
    /// `[group][column][input of the group]`: input `4 * group + i` in the low half, that plus 16 in the
    /// high half.
    pub(super) q: [[u8; GROUP_BYTES]; HALF / GROUP],
}

/// 32 inputs of 16 columns at 8 bits, `w = d * q`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Q8Block {
    /// Step of each column.
    pub(super) d: [f16; PANEL],
    /// `[group][column][input of the group]`.
    pub(super) q: [[i8; GROUP_BYTES]; BLOCK / GROUP],
}

/// A kind of block.
pub(super) trait PackedBlock: Copy {
    /// One column's weights of a block, before packing.
    type Column: Copy;
    /// All weights 0: what pads the last panel.
    const ZERO: Self;

    /// Writes one column's weights.
    fn set(&mut self, column: usize, weights: &Self::Column);

    /// Appends one column's weights to `out`.
    fn get(&self, column: usize, out: &mut Vec<f32>);
}

/// 32 weights of one column before packing: `w = d * q + m`, the numbers in the range of the packed type.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnBlock {
    pub(super) d: f16,
    pub(super) m: f16,
    pub(super) q: [i8; BLOCK],
}

impl PackedBlock for Q4Block {
    type Column = ColumnBlock;
    const ZERO: Self =
        Self { d: [f16::ZERO; PANEL], m: [f16::ZERO; PANEL], q: [[0; GROUP_BYTES]; HALF / GROUP] };

    fn set(&mut self, column: usize, weights: &ColumnBlock) {
        self.d[column] = weights.d;
        self.m[column] = weights.m;
        for (input, (low, high)) in weights.q[..HALF].iter().zip(&weights.q[HALF..]).enumerate() {
            self.q[input / GROUP][column * GROUP + input % GROUP] =
                low.cast_unsigned() | high.cast_unsigned() << 4;
        }
    }

    fn get(&self, column: usize, out: &mut Vec<f32>) {
        let (d, m) = (self.d[column].to_f32(), self.m[column].to_f32());
        out.extend((0..BLOCK).map(|input| {
            let within = input % HALF;
            let byte = self.q[within / GROUP][column * GROUP + within % GROUP];
            f32::from(if input < HALF { byte & 15 } else { byte >> 4 }) * d + m
        }));
    }
}

impl PackedBlock for Q8Block {
    type Column = ColumnBlock;
    const ZERO: Self = Self { d: [f16::ZERO; PANEL], q: [[0; GROUP_BYTES]; BLOCK / GROUP] };

    fn set(&mut self, column: usize, weights: &ColumnBlock) {
        self.d[column] = weights.d;
        for (input, &q) in weights.q.iter().enumerate() {
            self.q[input / GROUP][column * GROUP + input % GROUP] = q;
        }
    }

    fn get(&self, column: usize, out: &mut Vec<f32>) {
        let d = self.d[column].to_f32();
        out.extend(
            (0..BLOCK)
                .map(|input| f32::from(self.q[input / GROUP][column * GROUP + input % GROUP]) * d),
        );
    }
}

impl<T: Element> PackedBlock for DenseBlock<T> {
    type Column = T;
    const ZERO: Self = [T::ZERO; PANEL];

    fn set(&mut self, column: usize, weights: &T) {
        self[column] = *weights;
    }

    fn get(&self, column: usize, out: &mut Vec<f32>) {
        out.push(self[column].widen());
    }
}
