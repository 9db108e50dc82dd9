//! The operations of a forward pass on a device, and its memory.

use candle_core::Tensor;

use super::args::{
    AddNormArgs, AllReduceArgs, AttentionArgs, EmbedArgs, GatherArgs, MatmulArgs, RopeCacheArgs,
    SampleArgs, SwigluArgs,
};
use super::memory::{Address, Buffer, Element, MatrixForm};
use super::recorded::Recorded;
use crate::error::Result;
use crate::llama::Weight;

/// What is copied to the host: where from, and where to.
pub(crate) type Read<'a> = (Address, &'a mut [u8]);

/// Rows that do not lie side by side, all of the same length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    /// Of the first row.
    pub(crate) first: Address,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// Bytes a row.
    pub(crate) row_bytes: usize,
}

/// A device: what is asked of it is done in the order in which it is asked, though a call may return before.
///
/// Each operation is defined by its arguments ([`super::args`]). Element types that are no argument: of the embedding table,
/// of what a norm, SwiGLU, attention or gather leaves for the product that follows, and of the cache.
pub(crate) trait DeviceOps: Send {
    /// Memory with undefined contents.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when there is not enough.
    fn allocate(&mut self, num_bytes: usize) -> Result<Buffer>;
    /// How much more memory it could be asked for; `None` where that is the host's.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device cannot be asked.
    fn free_bytes(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// Whether it was asked for products of which a row's bits do not depend on the rows beside it. What divides work by a step's
    /// rows must not choose by them then.
    fn is_batch_invariant(&self) -> bool {
        false
    }
    /// Fills memory with zeros.
    fn clear(&mut self, buffer: &Buffer) -> Result<()>;
    /// Copies from the host; `bytes` may be used again when it returns.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()>;
    /// Copies to the host, after everything that was asked before.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()>;
    /// Copies several pieces, and waits once.
    fn download_all(&mut self, reads: &mut [Read<'_>]) -> Result<()> {
        reads.iter_mut().try_for_each(|(from, bytes)| self.download(*from, bytes))
    }
    /// Copies rows from the host, beside what is asked otherwise and in no order with it: nothing under way may read or write them.
    /// `bytes` may be used again when it returns.
    fn upload_beside(&mut self, to: &Rows, bytes: &[u8]) -> Result<()> {
        for (idx, row) in bytes.chunks(to.row_bytes).enumerate() {
            self.upload(to.first.add(idx * to.stride), row)?;
        }
        Ok(())
    }
    /// Whether everything that was copied by [`upload_beside`](Self::upload_beside) is there for what is asked from now on.
    fn has_arrived(&mut self) -> Result<bool> {
        Ok(true)
    }
    /// Runs `pass`, which asks for the same operations with the same arguments as when `recorded` was run before: a device may
    /// replay them.
    fn run(
        &mut self,
        recorded: &mut Recorded,
        pass: &dyn Fn(&mut dyn DeviceOps) -> Result<()>,
    ) -> Result<()>;
    /// Takes a matrix in the form in which the device multiplies it, `[rows, cols]` as in the checkpoint.
    fn matrix(&mut self, weight: Weight) -> Result<(Buffer, MatrixForm)>;
    /// Takes a vector of f32.
    fn vector(&mut self, values: &Tensor) -> Result<Buffer>;
    /// Takes a table of embeddings as single numbers.
    fn embedding(&mut self, weight: Weight) -> Result<(Buffer, Element)>;

    fn embed(&mut self, args: &EmbedArgs, table: Element) -> Result<()>;
    fn add_norm(&mut self, args: &AddNormArgs, normed: Element) -> Result<()>;
    fn rope_cache(&mut self, args: &RopeCacheArgs, cache: Element) -> Result<()>;
    /// All items of the step, and the merge.
    fn attention(&mut self, args: &AttentionArgs, cache: Element, z: Element) -> Result<()>;
    fn swiglu(&mut self, args: &SwigluArgs, activated: Element) -> Result<()>;
    fn gather(&mut self, args: &GatherArgs, element: Element) -> Result<()>;
    fn matmul(&mut self, args: &MatmulArgs, weight: MatrixForm) -> Result<()>;
    /// [`matmul`](Self::matmul) and [`swiglu`](Self::swiglu) in one, of gates and as many features that they let through: as if one
    /// followed the other, and only what comes of it is kept. `args.out` is `[rows][out_stride]` of what SwiGLU leaves. False, and
    /// nothing done, where the device does not do that.
    fn gated_matmul(
        &mut self,
        _args: &MatmulArgs,
        _weight: MatrixForm,
        _activated: Element,
    ) -> Result<bool> {
        Ok(false)
    }
    /// The tokens that rows of logits are asked for.
    fn sample(&mut self, args: &SampleArgs) -> Result<()>;
    /// With one rank: nothing.
    fn all_reduce(&mut self, args: &AllReduceArgs) -> Result<()>;
}
