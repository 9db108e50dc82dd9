//! From ggml's blocks to panels, once at load.

use candle_core::quantized::{GgmlDType, QTensor};
use half::f16;

use super::layout::{ColumnBlock, PackedBlock};
use super::{BLOCK, PANEL, PackedMatrix, Panels};
use crate::error::Result;

/// Bytes of a block's 16-bit scale.
const SCALE_BYTES: usize = 2;

impl PackedMatrix {
    /// Whether weights of this type and width can be packed.
    pub(crate) fn takes(dtype: GgmlDType) -> bool {
        matches!(dtype, GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q8_0)
    }

    /// Packs a matrix `[out_features, in_features]`, exactly: no weight changes its value.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when the tensor is no matrix or its data cannot be read.
    pub(crate) fn pack(weight: &QTensor) -> Result<Self> {
        let (out_features, in_features) = weight.shape().dims2()?;
        let bytes = weight.data()?;
        let panels = match weight.dtype() {
            GgmlDType::Q4_0 => Panels::Q4(panels(&bytes, 18, in_features, q4_0)),
            GgmlDType::Q4_1 => Panels::Q4(panels(&bytes, 20, in_features, q4_1)),
            GgmlDType::Q8_0 => Panels::Q8(panels(&bytes, 34, in_features, q8_0)),
            other => {
                let reason = format!("weights of {other:?} have no packed form");
                return Err(candle_core::Error::Msg(reason).into());
            }
        };
        Ok(Self { panels, out_features, in_features })
    }
}

/// Blocks of `block_bytes` bytes, row after row, to panels.
fn panels<B: PackedBlock>(
    bytes: &[u8],
    block_bytes: usize,
    in_features: usize,
    read: fn(&[u8]) -> ColumnBlock,
) -> Vec<B> {
    let row_blocks = in_features / BLOCK;
    let row_bytes = row_blocks * block_bytes;
    let num_panels = (bytes.len() / row_bytes).div_ceil(PANEL);
    let mut packed = vec![B::ZERO; num_panels * row_blocks];
    for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        let panel = &mut packed[row / PANEL * row_blocks..(row / PANEL + 1) * row_blocks];
        for (block, bytes) in panel.iter_mut().zip(bytes.chunks_exact(block_bytes)) {
            block.set(row % PANEL, &read(bytes));
        }
    }
    packed
}

fn scale(bytes: &[u8]) -> f16 {
    f16::from_le_bytes([bytes[0], bytes[1]])
}

/// 32 numbers of 4 bits: the low halves are the first 16.
fn nibbles(bytes: &[u8]) -> [i8; BLOCK] {
    std::array::from_fn(|input| {
        let byte = bytes[input % (BLOCK / 2)];
        (if input < BLOCK / 2 { byte & 15 } else { byte >> 4 }).cast_signed()
    })
}

/// `w = d * (q - 8)`, kept as `d * q + m` with `m = -8 d`: exact but for `d` above 8188, where no
/// model has its weights.
fn q4_0(bytes: &[u8]) -> ColumnBlock {
    let d = scale(bytes);
    ColumnBlock { d, m: f16::from_f32(-8.0 * d.to_f32()), q: nibbles(&bytes[SCALE_BYTES..]) }
}

/// `w = d * q + m`.
fn q4_1(bytes: &[u8]) -> ColumnBlock {
    let (d, m) = (scale(bytes), scale(&bytes[SCALE_BYTES..]));
    ColumnBlock { d, m, q: nibbles(&bytes[2 * SCALE_BYTES..]) }
}

/// `w = d * q`.
fn q8_0(bytes: &[u8]) -> ColumnBlock {
    let q = &bytes[SCALE_BYTES..];
    ColumnBlock {
        d: scale(bytes),
        m: f16::ZERO,
        q: std::array::from_fn(|input| q[input].cast_signed()),
    }
}
