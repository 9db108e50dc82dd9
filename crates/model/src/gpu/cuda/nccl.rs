//! Sums over the GPUs of one host by NCCL.
//!
//! Each rank asks for its own part of a sum, on its own thread and in the order of its own stream, so that the sum is one more launch of
//! the pass and is captured with it. A sum ends when all ranks have asked for it; a rank that waits for one that has failed waits on its
//! device, and only aborting the communicators lets it go.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{ptr, thread};

use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::nccl::result::{self, NcclError};
use candle_core::cuda_backend::cudarc::nccl::sys;

use super::failed;
use crate::error::{Error, Result};
use crate::gpu::args::AllReduceArgs;
use crate::gpu::host::HostGroup;
use crate::gpu::ranks::Link;

/// One rank's end of the sums. Dropping it aborts whatever it still takes part in.
struct Communicator(sys::ncclComm_t);

// SAFETY: NCCL lets any thread call a communicator, one at a time; each lies in a mutex.
#[expect(unsafe_code, reason = "a handle of a library, which is a bare pointer")]
unsafe impl Send for Communicator {}

/// By rank; `None` once they are aborted.
type Communicators = [Mutex<Option<Communicator>>];

/// What links the ranks.
pub(super) struct NcclGroup {
    communicators: Arc<Communicators>,
    votes: HostGroup,
}

/// Which of the linked ranks one is.
pub(super) struct NcclRank {
    group: Arc<NcclGroup>,
    rank: usize,
}

impl NcclGroup {
    /// Links the GPUs of `streams`, one a rank.
    ///
    /// # Errors
    /// [`Error::Device`] with NCCL's reason.
    #[expect(unsafe_code, reason = "NCCL fills an array of handles")]
    pub(super) fn new(streams: &[Arc<CudaStream>]) -> Result<Arc<Self>> {
        let ordinals = streams
            .iter()
            .map(|stream| i32::try_from(stream.context().ordinal()))
            .collect::<Result<Vec<i32>, _>>()
            .map_err(candle_core::Error::wrap)?;
        let num_ranks = i32::try_from(ordinals.len()).map_err(candle_core::Error::wrap)?;
        let mut handles = vec![ptr::null_mut(); ordinals.len()];
        // SAFETY: both arrays have `num_ranks` entries and live until the call returns.
        unsafe { result::comm_init_all(handles.as_mut_ptr(), num_ranks, ordinals.as_ptr()) }
            .map_err(|error| nccl_failed("linking the GPUs", &error))?;
        let communicators =
            handles.into_iter().map(|handle| Mutex::new(Some(Communicator(handle)))).collect();
        let votes = HostGroup::new(ordinals.len());
        Ok(Arc::new(Self { communicators, votes }))
    }

    /// One of the ranks.
    pub(super) fn rank(self: &Arc<Self>, rank: usize) -> NcclRank {
        NcclRank { group: self.clone(), rank }
    }
}

impl NcclRank {
    /// Asks for a sum, in place, after everything that was asked of the rank's stream.
    #[expect(unsafe_code, reason = "NCCL is handed addresses")]
    pub(super) fn all_reduce(&self, stream: &CudaStream, args: &AllReduceArgs) -> Result<()> {
        let communicator = lock(&self.group.communicators[self.rank]);
        let Some(Communicator(handle)) = &*communicator else {
            return Err(failed("a sum over the GPUs", &"another rank has failed"));
        };
        let count = usize::try_from(args.num_values).map_err(candle_core::Error::wrap)?;
        let values = args.values.0 as *mut c_void;
        // SAFETY: the values are memory of this rank's device, so many f32, and live until the step's end; the communicator is of this
        // rank and is not aborted while its mutex is held.
        unsafe {
            result::all_reduce(
                values,
                values,
                count,
                sys::ncclDataType_t::ncclFloat32,
                sys::ncclRedOp_t::ncclSum,
                *handle,
                stream.cu_stream().cast(),
            )
        }
        .map_err(|error| nccl_failed("a sum over the GPUs", &error))?;
        Ok(())
    }

    /// Whether it is so on every rank: each is asked, and waits for the others.
    pub(super) fn agrees(&self, is_so: bool) -> Result<bool> {
        let against = if is_so { 0.0 } else { 1.0 };
        let votes = self.group.votes.sum(self.rank, vec![against])?;
        Ok(votes.iter().all(|&against| against < 0.5))
    }
}

impl Link for NcclGroup {
    fn sever(&self) {
        self.votes.sever();
        // On a thread that nobody waits for: NCCL lets go of what waits for a sum, and then waits for the graphs that name a
        // communicator, which the severed step still has.
        let communicators = self.communicators.clone();
        thread::spawn(move || abort(&communicators));
    }
}

/// Aborts every communicator that is left: first those that no rank is calling, since a call may wait for another rank. Each is
/// let go of outside its mutex, where nobody can call it any more.
fn abort(communicators: &Communicators) {
    for communicator in communicators {
        let taken = communicator.try_lock().ok().and_then(|mut communicator| communicator.take());
        drop(taken);
    }
    for communicator in communicators {
        let taken = lock(communicator).take();
        drop(taken);
    }
}

impl Drop for Communicator {
    #[expect(unsafe_code, reason = "NCCL is handed a handle that it takes back")]
    fn drop(&mut self) {
        // SAFETY: it is dropped once, by whoever took it out of its mutex or drops the mutex, so that nobody else calls it.
        if let Err(error) = unsafe { result::comm_abort(self.0) } {
            tracing::warn!("{}", nccl_failed("letting go of the GPUs", &error));
        }
    }
}

fn lock(communicator: &Mutex<Option<Communicator>>) -> MutexGuard<'_, Option<Communicator>> {
    communicator.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nccl_failed(what: &str, NcclError(code): &NcclError) -> Error {
    failed(
        what,
        &format_args!("NCCL: {code:?}; NCCL_DEBUG=INFO in the environment makes it say more"),
    )
}
