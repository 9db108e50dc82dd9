//! A reader that stops where a parser would read on and on.

use std::cell::Cell;
use std::io::{Error, Read, Result};

/// Reads at most as many bytes as are left. The holder of the same cell gives more when a row is complete; where
/// none is left and reading fails, the row was too long.
pub(super) struct Bounded<'a, R> {
    pub(super) inner: R,
    pub(super) left: &'a Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(Error::other("the bound on a row is reached"));
        }
        let wanted = buffer.len().min(left);
        let length = self.inner.read(&mut buffer[..wanted])?;
        self.left.set(left - length);
        Ok(length)
    }
}
