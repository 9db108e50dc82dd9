//! Opening an NVIDIA GPU, with one stream that all its work is ordered by.

use candle_core::Device;

/// Opens the GPU `ordinal`, with a stream of its own.
///
/// candle's plain constructor takes the stream of whichever thread makes a call. A model is loaded on one thread and run on
/// another, so that its first step could begin before its weights have arrived. With a stream that was made for the device,
/// work is done in the order in which it is handed over, whoever hands it over.
///
/// That order is all that is needed, so the events by which cudarc would order several streams are turned off before the first
/// tensor is made. Each would cost every launch a wait and a record, and could not be captured in a CUDA graph.
///
/// # Errors
/// [`candle_core::Error`] with the driver's reason when there is no such GPU, or cuBLAS or cuRAND do not start on it.
#[expect(unsafe_code, reason = "without its events, cudarc leaves the order of work to the caller")]
pub(super) fn open(ordinal: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    // SAFETY: what must hold is that no memory is used on one stream while it is allocated, written or freed on another.
    // This device has one stream; candle runs every kernel, copy, allocation and release of its tensors there, and refuses
    // operations between tensors of two devices, two openings of one GPU included. The one other stream of this crate copies rows
    // of the steering table that no step reads before the copy was seen to be done ([`crate::gpu`]).
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}
