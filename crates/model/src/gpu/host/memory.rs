//! The memory of [`super::HostOps`]: one vector of bytes, of which only what was allocated can be read and written.

use std::fmt::Display;
use std::ops::Range;

use bytemuck::Pod;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::gpu::memory::{Address, Element};

/// Where a piece of memory may begin: at multiples of this, from this on.
const ALIGNMENT: usize = 256;
/// What fresh memory is filled with. Read as a number of any of the three types it is NaN, so that what was never written
/// shows in results.
const POISON: u8 = 0xFF;

/// Memory that grows; nothing is given back before all of it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The byte at an address.
    bytes: Vec<u8>,
    /// What was allocated, ascending.
    pieces: Vec<Range<usize>>,
}

impl Memory {
    /// A fresh piece, poisoned.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is not enough memory.
    pub(super) fn allocate(&mut self, num_bytes: usize) -> Result<Address> {
        let start = (self.bytes.len() + 1).next_multiple_of(ALIGNMENT);
        let not_enough = |reason: &dyn Display| {
            bad(format!("no memory for {num_bytes} bytes beside {start}: {reason}"))
        };
        let end = start.checked_add(num_bytes).ok_or_else(|| not_enough(&"too many"))?;
        self.bytes.try_reserve(end - self.bytes.len()).map_err(|error| not_enough(&error))?;
        self.bytes.resize(end, POISON);
        self.pieces.push(start..end);
        Ok(Address(start as u64))
    }

    /// The bytes of `len` things of `size` bytes, from the `first` of those that lie at `address` on.
    fn range(
        &self,
        address: Address,
        first: usize,
        len: usize,
        size: usize,
    ) -> Result<Range<usize>> {
        let range = || {
            let start = usize::try_from(address.0).ok()?.checked_add(first.checked_mul(size)?)?;
            let end = start.checked_add(len.checked_mul(size)?)?;
            let after = self.pieces.partition_point(|piece| piece.start <= start);
            let piece = &self.pieces[after.checked_sub(1)?];
            (end <= piece.end).then_some(start..end)
        };
        range().ok_or_else(|| {
            bad(format!(
                "{len} numbers of {size} bytes, from number {first} at {:#x} on, do not lie in one piece of memory",
                address.0
            ))
        })
    }

    /// The bytes at an address.
    pub(super) fn bytes(&self, address: Address, num_bytes: usize) -> Result<&[u8]> {
        Ok(&self.bytes[self.range(address, 0, num_bytes, 1)?])
    }

    /// As [`Self::bytes`], to be written.
    pub(super) fn bytes_mut(&mut self, address: Address, num_bytes: usize) -> Result<&mut [u8]> {
        let range = self.range(address, 0, num_bytes, 1)?;
        Ok(&mut self.bytes[range])
    }

    /// Numbers `first..first + len` of the array at `from`.
    pub(super) fn read<T: Pod>(&self, from: Address, first: usize, len: usize) -> Result<Vec<T>> {
        let range = self.range(from, first, len, size_of::<T>())?;
        let mut values = vec![T::zeroed(); len];
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(&self.bytes[range]);
        Ok(values)
    }

    /// Number `index` of the array at `from`.
    pub(super) fn at<T: Pod>(&self, from: Address, index: usize) -> Result<T> {
        let range = self.range(from, index, 1, size_of::<T>())?;
        Ok(bytemuck::pod_read_unaligned(&self.bytes[range]))
    }

    /// Writes the array at `to` from number `first` on.
    pub(super) fn write<T: Pod>(&mut self, to: Address, first: usize, values: &[T]) -> Result<()> {
        let range = self.range(to, first, values.len(), size_of::<T>())?;
        self.bytes[range].copy_from_slice(bytemuck::cast_slice(values));
        Ok(())
    }

    /// [`Self::read`] of any type of number.
    pub(super) fn read_floats(
        &self,
        element: Element,
        from: Address,
        first: usize,
        len: usize,
    ) -> Result<Vec<f32>> {
        let halves = |widen: fn(u16) -> f32| -> Result<Vec<f32>> {
            Ok(self.read::<u16>(from, first, len)?.into_iter().map(widen).collect())
        };
        match element {
            Element::F32 => self.read(from, first, len),
            Element::F16 => halves(|bits| f16::from_bits(bits).to_f32()),
            Element::Bf16 => halves(|bits| bf16::from_bits(bits).to_f32()),
        }
    }

    /// [`Self::write`] of any type of number, each rounded to the nearest, ties to even.
    pub(super) fn write_floats(
        &mut self,
        element: Element,
        to: Address,
        first: usize,
        values: &[f32],
    ) -> Result<()> {
        let mut halves = |round: fn(f32) -> u16| {
            let bits: Vec<u16> = values.iter().map(|value| round(*value)).collect();
            self.write(to, first, &bits)
        };
        match element {
            Element::F32 => self.write(to, first, values),
            Element::F16 => halves(|value| f16::from_f32(value).to_bits()),
            Element::Bf16 => halves(|value| bf16::from_f32(value).to_bits()),
        }
    }
}

/// What an operation was told does not fit.
pub(super) fn bad(reason: impl Display) -> Error {
    candle_core::Error::Msg(format!("operation on the host: {reason}")).into()
}
