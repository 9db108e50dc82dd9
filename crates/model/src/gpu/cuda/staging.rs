//! Copies between host and device by way of pinned memory, which the device reads and writes by itself.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaStream, PinnedHostSlice, result};

use super::failed;
use crate::error::Result;
use crate::gpu::memory::Address;
use crate::gpu::ops::Read;

/// Bytes of each direction.
const CAPACITY: usize = 64 << 20;
/// Bytes of one copy at most: while the device copies one part, the host writes the next.
const PART: usize = CAPACITY / 8;
/// Places of copies are multiples of it.
const ALIGNMENT: usize = 64;

/// Pinned memory for both directions.
pub(super) struct Staging {
    up: PinnedHostSlice<u8>,
    /// How much of `up` copies that may be under way read from.
    used: usize,
    down: PinnedHostSlice<u8>,
}

impl Staging {
    #[expect(unsafe_code, reason = "pinned memory is not initialised")]
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let pinned = |flags| {
            // SAFETY: bytes of any value are bytes; those that are copied up are written first.
            unsafe { stream.context().alloc_pinned_with_flags::<u8>(CAPACITY, flags) }.map_err(
                |error| failed(&format!("pinning {CAPACITY} bytes of the host's memory"), &error),
            )
        };
        // Plain memory in both directions: the host reads one, and writes the other in pieces.
        Ok(Self { up: pinned(0)?, used: 0, down: pinned(0)? })
    }

    /// Copies to the device; `bytes` may be used again at once.
    #[expect(unsafe_code, reason = "the driver copies while the host goes on")]
    pub(super) fn upload(
        &mut self,
        stream: &Arc<CudaStream>,
        to: Address,
        bytes: &[u8],
    ) -> Result<()> {
        for (idx, part) in bytes.chunks(PART).enumerate() {
            if self.used + part.len() > CAPACITY {
                self.wait(stream)?;
            }
            let up =
                self.up.as_mut_slice().map_err(|error| failed("using pinned memory", &error))?;
            let place = &mut up[self.used..self.used + part.len()];
            place.copy_from_slice(part);
            // SAFETY: the pinned bytes stay as they are until `wait`, which follows whatever was asked of the stream; the caller
            // says that the device has so many bytes at `to`.
            unsafe { result::memcpy_htod_async(to.add(idx * PART).0, place, stream.cu_stream()) }
                .map_err(|error| failed("copying to the device", &error))?;
            self.used += part.len().next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }

    /// Copies to the host after everything that was asked before, and waits once for all.
    #[expect(unsafe_code, reason = "the driver copies while the host waits")]
    pub(super) fn download(
        &mut self,
        stream: &Arc<CudaStream>,
        reads: &mut [Read<'_>],
    ) -> Result<()> {
        let mut next = 0;
        let mut staged = Vec::with_capacity(reads.len());
        let down =
            self.down.as_mut_slice().map_err(|error| failed("using pinned memory", &error))?;
        for (from, bytes) in reads.iter_mut() {
            let end = next + bytes.len();
            let fits = end <= CAPACITY;
            let to = if fits { &mut down[next..end] } else { &mut **bytes };
            // SAFETY: `wait` below keeps both kinds of memory until the copy is done; the caller says that the device has so many
            // bytes at `from`.
            unsafe { result::memcpy_dtoh_async(to, from.0, stream.cu_stream()) }
                .map_err(|error| failed("copying from the device", &error))?;
            staged.push(fits.then_some(next..end));
            if fits {
                next = end.next_multiple_of(ALIGNMENT);
            }
        }
        stream.synchronize().map_err(|error| failed("waiting for the device", &error))?;
        self.used = 0;
        for ((_, bytes), place) in reads.iter_mut().zip(staged) {
            if let Some(place) = place {
                bytes.copy_from_slice(&down[place]);
            }
        }
        Ok(())
    }

    /// Waits until no copy is under way.
    fn wait(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        stream.synchronize().map_err(|error| failed("waiting for the device", &error))?;
        self.used = 0;
        Ok(())
    }
}
