//! From the rows of a file to panels, once at load.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, Storage, Tensor};
use half::f16;

use super::super::rows::slice;
use super::layout::{ColumnBlock, PackedBlock};
use super::{BLOCK, PANEL, PackedMatrix, Panels};
use crate::error::Result;

/// Bytes of a block's 16-bit scale.
const SCALE_BYTES: usize = 2;

impl PackedMatrix {
    /// Whether quantised weights of this type can be packed.
    pub(crate) fn takes(dtype: GgmlDType) -> bool {
        matches!(dtype, GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q8_0)
    }

    /// Packs a quantised matrix `[out_features, in_features]`, exactly: no weight changes its value.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when the tensor is no matrix or its data cannot be read.
    pub(crate) fn pack(weight: &QTensor) -> Result<Self> {
        let (out_features, in_features) = weight.shape().dims2()?;
        let bytes = weight.data()?;
        let blocks = in_features / BLOCK;
        let panels = match weight.dtype() {
            GgmlDType::Q4_0 => Panels::Q4(panels(bytes.chunks_exact(18).map(q4_0), blocks)),
            GgmlDType::Q4_1 => Panels::Q4(panels(bytes.chunks_exact(20).map(q4_1), blocks)),
            GgmlDType::Q8_0 => Panels::Q8(panels(bytes.chunks_exact(34).map(q8_0), blocks)),
            other => {
                let reason = format!("weights of {other:?} have no packed form");
                return Err(candle_core::Error::Msg(reason).into());
            }
        };
        Ok(Self { panels, out_features, in_features })
    }

    /// Packs a float matrix `[out_features, in_features]` on the CPU, each weight as it is.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when the tensor is no matrix of f32, f16 or bf16 on the CPU.
    pub(crate) fn pack_dense(weight: &Tensor) -> Result<Self> {
        let (out_features, in_features) = weight.dims2()?;
        // contiguous: rows are read whole.
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(candle_core::Error::Msg("packing is for the CPU".to_owned()).into());
        };
        let panels = match storage {
            CpuStorage::F32(_) => {
                Panels::F32(panels(slice(storage, layout)?.iter().copied(), in_features))
            }
            CpuStorage::F16(_) => {
                Panels::F16(panels(slice(storage, layout)?.iter().copied(), in_features))
            }
            CpuStorage::BF16(_) => {
                Panels::BF16(panels(slice(storage, layout)?.iter().copied(), in_features))
            }
            _ => {
                let reason = format!("weights of {:?} have no packed form", weight.dtype());
                return Err(candle_core::Error::Msg(reason).into());
            }
        };
        Ok(Self { panels, out_features, in_features })
    }
}

/// Rows of `row_blocks` blocks, one after the other, to panels.
fn panels<B: PackedBlock>(
    blocks: impl ExactSizeIterator<Item = B::Column>,
    row_blocks: usize,
) -> Vec<B> {
    let num_panels = (blocks.len() / row_blocks).div_ceil(PANEL);
    let mut packed = vec![B::ZERO; num_panels * row_blocks];
    for (idx, block) in blocks.enumerate() {
        let (row, place) = (idx / row_blocks, idx % row_blocks);
        packed[row / PANEL * row_blocks + place].set(row % PANEL, &block);
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
