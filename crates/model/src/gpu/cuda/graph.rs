//! Steps as CUDA graphs: one start for all launches of a step, so that starting them does not bound small batches.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags_enum, CUstreamCaptureMode,
};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream};

use super::failed;
use crate::error::Result;
use crate::gpu::kernels::Begun;
use crate::gpu::recorded::Recorded;

/// A graph, which the thread that makes the steps alone touches.
struct StepGraph(CudaGraph);

// SAFETY: the driver wants calls on one graph one after the other, from any thread. A graph is reached through the `&mut` of the
// cache that recorded it, and dropped with it.
#[expect(unsafe_code, reason = "cudarc leaves it to the caller to call one after the other")]
unsafe impl Send for StepGraph {}
// SAFETY: nothing can be done with a shared reference: the field is private, and launched through `&mut Recorded` alone.
#[expect(unsafe_code, reason = "cudarc leaves it to the caller to call one after the other")]
unsafe impl Sync for StepGraph {}

/// Replays a step that was recorded. One that was run once is recorded now: the first run loads kernels and lets cuBLAS choose,
/// which a capture does not allow.
pub(super) fn begin(stream: &Arc<CudaStream>, recorded: &mut Recorded) -> Result<Begun> {
    if let Some(graph) = recorded.graph.as_mut().and_then(|graph| graph.downcast_mut::<StepGraph>())
    {
        graph.0.launch().map_err(|error| failed("starting a CUDA graph", &error))?;
        return Ok(Begun::Replayed);
    }
    if recorded.num_runs == 1 {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        if let Err(error) = stream.begin_capture(mode) {
            // This step fails; the next one like it is run without being recorded.
            recorded.num_runs = 2;
            return Err(failed("beginning a CUDA graph", &error));
        }
    }
    Ok(Begun::Run)
}

/// Ends what [`begin`] began: counts a run, or keeps the graph and starts it for the first time. False where nothing was run and
/// nothing will be recorded: the step is to be run again. `agree` says whether something is so on every rank.
pub(super) fn end(
    stream: &Arc<CudaStream>,
    recorded: &mut Recorded,
    pass: Result<()>,
    agree: impl FnOnce(bool) -> Result<bool>,
) -> Result<bool> {
    if recorded.num_runs != 1 {
        // A run that failed may have left kernels unloaded, which a capture would then have to load.
        pass?;
        recorded.num_runs = recorded.num_runs.saturating_add(1);
        return Ok(true);
    }
    recorded.num_runs = 2;
    // Also after an error, or the stream would stay in capture.
    let flags = CUgraphInstantiate_flags_enum(0);
    let graph = stream.end_capture(flags).map_err(|error| failed("ending a CUDA graph", &error));
    let graph = pass.and(graph).and_then(|graph| {
        graph.ok_or_else(|| failed("ending a CUDA graph", &"the driver returned none"))
    });
    // A sum over ranks is replayed by all of them or by none.
    let is_on_all_ranks = agree(graph.is_ok())?;
    match graph {
        Ok(_) if !is_on_all_ranks => Ok(false),
        Ok(graph) => {
            graph.launch().map_err(|error| failed("starting a CUDA graph", &error))?;
            recorded.graph = Some(Box::new(StepGraph(graph)));
            Ok(true)
        }
        Err(error) => {
            tracing::warn!(%error, "a step cannot be a CUDA graph; its operations are started one by one");
            Ok(false)
        }
    }
}
