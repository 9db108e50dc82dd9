//! A file's bytes, read from front to back, never beyond the end.

use super::Parsed;

/// Where in the bytes; every read is compared with what is left first.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    /// The next `num` bytes; `what` names them in the error.
    pub(super) fn take(&mut self, num: usize, what: &str) -> Parsed<&'a [u8]> {
        let end = self.position.checked_add(num);
        let taken = end.and_then(|end| self.bytes.get(self.position..end)).ok_or_else(|| {
            let (position, left) = (self.position, self.remaining());
            format!(
                "{what} at byte {position} takes {num} bytes, {left} are left; truncated or damaged"
            )
        })?;
        self.position += num;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let bytes = self.take(N, what)?;
        bytes.try_into().map_err(|_| format!("{what}: expected {N} bytes"))
    }

    pub(super) fn u16(&mut self, what: &str) -> Parsed<u16> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &str) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A `u16` that counts something in memory.
    pub(super) fn u16_size(&mut self, what: &str) -> Parsed<usize> {
        Ok(usize::from(self.u16(what)?))
    }

    /// A `u32` that counts something in memory.
    pub(super) fn u32_size(&mut self, what: &str) -> Parsed<usize> {
        to_size(u64::from(self.u32(what)?), what)
    }

    /// A `u64` that counts something in memory.
    pub(super) fn u64_size(&mut self, what: &str) -> Parsed<usize> {
        to_size(self.u64(what)?, what)
    }
}

fn to_size(value: u64, what: &str) -> Parsed<usize> {
    usize::try_from(value).map_err(|_| format!("{what} is {value}, more than memory has"))
}
