//! Memory of a device as plain addresses, and the types of what lies there.

use std::any::Any;
use std::fmt;

use bytemuck::{Pod, Zeroable};
use candle_core::DType;
use candle_core::quantized::GgmlDType;

use crate::error::Result;

/// A place in a device's memory, in bytes. 0 is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    /// No place: what is optional is not there.
    pub(crate) const NONE: Self = Self(0);

    /// The place `bytes` further on.
    pub(crate) fn add(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    /// Whether there is a place.
    pub(crate) fn is_some(self) -> bool {
        self != Self::NONE
    }
}

/// A piece of a device's memory, given back when it is dropped. Its address never changes.
pub(crate) struct Buffer {
    address: Address,
    num_bytes: usize,
    /// What gives the memory back.
    _owner: Option<Box<dyn Any + Send + Sync>>,
}

impl Buffer {
    /// Wraps memory that lives as long as `owner`; without one, as long as the device.
    pub(crate) fn new(
        address: Address,
        num_bytes: usize,
        owner: Option<Box<dyn Any + Send + Sync>>,
    ) -> Self {
        Self { address, num_bytes, _owner: owner }
    }

    /// Where it begins, a multiple of 256.
    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// How much it is.
    pub(crate) fn num_bytes(&self) -> usize {
        self.num_bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:#x}, {} bytes)", self.address.0, self.num_bytes)
    }
}

/// The type of single numbers in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// What kernels call it: 0 f32, 1 f16, 2 bf16.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
        }
    }

    /// Bytes a number.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// `None` for types that no kernel knows.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }
}

/// How a matrix is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatrixForm {
    /// Single numbers, row by row.
    Dense(Element),
    /// Blocks of a GGUF, row by row.
    #[cfg_attr(
        not(any(feature = "cuda", test)),
        expect(dead_code, reason = "the host keeps every matrix as single numbers")
    )]
    Quantized(GgmlDType),
}

impl MatrixForm {
    /// The type of the rows that it is multiplied with: its own, or f32 where blocks are quantised.
    pub(crate) fn input(self) -> Element {
        match self {
            Self::Dense(element) => element,
            Self::Quantized(_) => Element::F32,
        }
    }
}

/// A number as kernels take it.
///
/// # Errors
/// [`crate::Error::Tensor`] when it does not fit 32 bits.
pub(crate) fn number(value: usize) -> Result<u32> {
    Ok(u32::try_from(value).map_err(candle_core::Error::wrap)?)
}
