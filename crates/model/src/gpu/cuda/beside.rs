//! Copies that run beside the steps, on a stream of their own: new vectors go up while the old ones serve.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUmemorytype};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};

use super::failed;
use crate::error::Result;
use crate::gpu::ops::Rows;

/// A second stream, with pinned memory that holds what is being copied.
pub(super) struct Beside {
    stream: Arc<CudaStream>,
    pinned: Option<PinnedHostSlice<u8>>,
    /// Marks the end of the last copy.
    last: Option<CudaEvent>,
}

impl Beside {
    pub(super) fn new(main: &Arc<CudaStream>) -> Result<Self> {
        let stream =
            main.context().new_stream().map_err(|error| failed("making a stream", &error))?;
        Ok(Self { stream, pinned: None, last: None })
    }

    /// Copies rows to the device; `bytes` may be used again at once.
    #[expect(unsafe_code, reason = "the driver copies while the host goes on")]
    pub(super) fn upload(&mut self, main: &CudaStream, to: &Rows, bytes: &[u8]) -> Result<()> {
        // The memory may have been taken and cleared on the main stream just now.
        self.stream.join(main).map_err(|error| failed("ordering two streams", &error))?;
        // What is in the pinned memory may still be on its way.
        self.synchronize()?;
        let pinned = self.pinned(bytes.len())?;
        let from = pinned.as_mut_slice().map_err(|error| failed("using pinned memory", &error))?;
        from[..bytes.len()].copy_from_slice(bytes);
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: from.as_ptr().cast::<c_void>(),
            srcDevice: 0,
            srcArray: std::ptr::null_mut(),
            srcPitch: to.row_bytes,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: to.first.0,
            dstArray: std::ptr::null_mut(),
            dstPitch: to.stride,
            WidthInBytes: to.row_bytes,
            Height: bytes.len() / to.row_bytes,
        };
        // SAFETY: the pinned bytes stay as they are until the stream is waited for, above; the caller says that the device has so
        // many rows there and that nothing under way touches them.
        unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, self.stream.cu_stream()) }
            .result()
            .map_err(|error| failed("copying rows to the device", &error))?;
        let mark =
            self.stream.record_event(None).map_err(|error| failed("marking a copy", &error))?;
        self.last = Some(mark);
        Ok(())
    }

    /// Whether the last copy is done; what is started afterwards reads what it wrote.
    pub(super) fn has_arrived(&self) -> Result<bool> {
        match &self.last {
            Some(mark) => {
                mark.try_is_complete().map_err(|error| failed("asking for a copy", &error))
            }
            None => Ok(true),
        }
    }

    /// Waits until no copy is under way.
    pub(super) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|error| failed("waiting for a copy", &error))
    }

    /// Pinned memory of at least so many bytes.
    #[expect(unsafe_code, reason = "pinned memory is not initialised")]
    fn pinned(&mut self, num_bytes: usize) -> Result<&mut PinnedHostSlice<u8>> {
        let pinned = match self.pinned.take() {
            Some(pinned) if pinned.len() >= num_bytes => pinned,
            _ => {
                // SAFETY: bytes of any value are bytes; those that are copied are written first.
                unsafe { self.stream.context().alloc_pinned_with_flags::<u8>(num_bytes, 0) }
                    .map_err(|error| {
                        failed(&format!("pinning {num_bytes} bytes of the host's memory"), &error)
                    })?
            }
        };
        Ok(self.pinned.insert(pinned))
    }
}
